"""``--watch``: links, directories and patterns, wherever they lead."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from overseer_py.release.hints import steps
from tests.master import PATIENCE
from tests.release.watching import watching

pytestmark = pytest.mark.filterwarnings("ignore:Callback with id")  # watchdog's

# -- links and directories -------------------------------------------------------------------


@pytest.mark.parametrize("absolute", [True, False])
def test_a_link_in_the_middle_is_flipped(tmp_path: Path, absolute: bool) -> None:
    """``current`` leads to another release, which is watched from then on."""
    for number in (1, 2, 3):
        release = tmp_path / "releases" / str(number)
        release.mkdir(parents=True)
        (release / "main.py").write_text(f"# release {number}\n")
        (release / "same.py").write_text("# the same in all\n")
    current = tmp_path / "current"
    base = tmp_path / "releases" if absolute else Path("releases")

    def flip(number: int) -> None:
        beside = tmp_path / "current.new"
        beside.symlink_to(base / str(number))
        os.replace(beside, current)

    flip(1)
    for pattern in (current, current / "main.py", current / "*.py", current / "**" / "*.py"):
        flip(1)
        with watching(tmp_path, pattern) as watch:
            flip(2)
            watch.tells_once(current / "main.py")
            (current / "main.py").write_text(f"# {pattern}\n")
            watch.tells_once(current / "main.py")
            (tmp_path / "releases" / "1" / "main.py").write_text("# nobody runs it\n")
            assert watch.told() == ""
            flip(3)
            watch.tells_once(current / "main.py")
    with watching(tmp_path, current / "same.py") as watch:
        flip(1)
        assert watch.told() == ""


def test_a_chain_of_links(tmp_path: Path) -> None:
    """Each of them can be flipped, with ``..`` in it or not."""
    for name in ("a", "b"):
        (tmp_path / "deep" / name).mkdir(parents=True)
        (tmp_path / "deep" / name / "main.py").write_text(f"# {name}\n")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "second").symlink_to("../deep/a")
    (tmp_path / "first").symlink_to("links/second")
    (tmp_path / "main.py").symlink_to(tmp_path / "first" / "main.py")
    path = tmp_path / "main.py"
    assert str(tmp_path / "deep" / "a" / "main.py") == list(steps(str(path)))[-1]
    with watching(tmp_path, path) as watch:
        (tmp_path / "links" / "second").unlink()
        (tmp_path / "links" / "second").symlink_to("../deep/b")
        watch.tells_once(path)
        (tmp_path / "deep" / "b" / "main.py").write_text("# changed\n")
        watch.tells_once(path)
        (tmp_path / "first").unlink()
        (tmp_path / "first").symlink_to("deep/a")
        watch.tells_once(path)
        path.unlink()
        path.symlink_to("deep/b/main.py")
        watch.tells_once(path)


def test_a_link_to_itself(tmp_path: Path) -> None:
    """It leads nowhere, until it is mended."""
    path = tmp_path / "loop"
    path.symlink_to("loop")
    with watching(tmp_path, path / "main.py") as watch:
        path.unlink()
        path.mkdir()
        (path / "main.py").write_text("# at last\n")
        watch.tells_once(path / "main.py")


def test_links_in_a_tree(tmp_path: Path, tree: Path) -> None:
    """There it counts where they point, not what is there."""
    (tmp_path / "elsewhere").write_text("elsewhere\n")
    link = tree / "link"
    link.symlink_to("main.py")
    with watching(tmp_path, tree) as watch:
        link.unlink()
        link.symlink_to("main.py")
        assert watch.told() == ""
        link.unlink()
        link.symlink_to(tmp_path / "elsewhere")
        watch.tells_once(link)
        (tmp_path / "elsewhere").write_text("changed\n")
        assert watch.told() == ""


@pytest.mark.parametrize("depth", [0, 1])
def test_a_directory_is_swapped(tmp_path: Path, tree: Path, depth: int) -> None:
    """The whole tree goes aside and another takes its place, or one further up."""
    top = [tree, tree.parent][depth]
    for pattern in (tree, tree / "main.py", tree / "*.py", tree / "**" / "*.py"):
        with watching(tmp_path, pattern) as watch:
            for number in range(2):
                new, old = tmp_path / "new", tmp_path / f"old{number}"
                shutil.copytree(top, new, copy_function=shutil.copy2)
                inside = new / tree.relative_to(top)
                (inside / "main.py").write_text(f"# {pattern} {number}\n")
                assert watch.told() == ""
                top.rename(old)
                new.rename(top)
                watch.tells_once(tree / "main.py")
                (tree / "main.py").write_text(f"# changed {number}\n")
                watch.tells_once(tree / "main.py")
                shutil.rmtree(old)
                assert watch.told() == ""


def test_a_directory_is_deleted_and_made_again(tmp_path: Path, tree: Path) -> None:
    """In between or at once, with the inode that it had or another."""
    for pause in (True, False):
        for pattern in (tree, tree / "*.py"):
            with watching(tmp_path, pattern) as watch:
                shutil.rmtree(tree)
                if pause:
                    assert watch.tells()
                (tree / "package").mkdir(parents=True)
                (tree / "main.py").write_text(f"# {pattern} {pause}\n")
                watch.tells_once(tree)
                (tree / "main.py").write_text(f"# {pattern} {pause}, changed\n")
                watch.tells_once(tree / "main.py")


def test_directories_inside_come_and_go(tmp_path: Path, tree: Path) -> None:
    """What is new further down is watched as well."""
    with watching(tmp_path, tree) as watch:
        deep = tree / "a" / "b" / "c"
        deep.mkdir(parents=True)
        assert watch.told() == ""
        (deep / "code.py").write_text("# new\n")
        watch.tells_once(deep / "code.py")
        (tree / "a").rename(tree / "z")
        watch.tells_once(deep / "code.py")
        (tree / "z" / "b" / "c" / "code.py").write_text("# changed\n")
        watch.tells_once(tree / "z" / "b" / "c" / "code.py")
        shutil.rmtree(tree / "z")
        watch.tells_once(tree / "z" / "b" / "c" / "code.py")


# -- patterns ------------------------------------------------------------------------------------


def test_a_pattern_of_one_directory(tmp_path: Path, tree: Path) -> None:
    """``*.py``: what matches it, there, and nothing else."""
    with watching(tmp_path, tree / "*.py") as watch:
        (tree / "notes.txt").write_text("not meant\n")
        (tree / "package" / "code.py").write_text("# not here\n")
        assert watch.told() == ""
        (tree / "more.py").write_text("# new\n")
        watch.tells_once(tree / "more.py")
        (tree / "main.py").unlink()
        watch.tells_once(tree / "main.py")


def test_a_pattern_of_a_tree(tmp_path: Path, tree: Path) -> None:
    """``**/*.py``: at any depth, also where there is nothing yet."""
    with watching(tmp_path, tree / "**" / "*.py") as watch:
        (tree / "package" / "notes.txt").write_text("not meant\n")
        assert watch.told() == ""
        (tree / "main.py").write_text("# changed\n")
        watch.tells_once(tree / "main.py")
        (tree / "package" / "code.py").write_text("# changed\n")
        watch.tells_once(tree / "package" / "code.py")
        (tree / "new" / "deep").mkdir(parents=True)
        (tree / "new" / "deep" / "code.py").write_text("# new\n")
        watch.tells_once(tree / "new" / "deep" / "code.py")


def test_a_pattern_in_the_middle(tmp_path: Path, tree: Path) -> None:
    """``*/main.py`` of releases beside each other."""
    with watching(tmp_path, tree.parent / "*" / "main.py") as watch:
        shutil.copytree(tree, tree.parent / "other")
        watch.tells_once(tree.parent / "other" / "main.py")


def test_a_long_life(tmp_path: Path, tree: Path) -> None:
    """Thousands of hints are neither kept nor paid for in descriptors or threads."""
    current = tmp_path / "current"
    current.symlink_to(tree)
    (tmp_path / "releases").mkdir()
    with watching(tmp_path, current, debounce=0.01) as watch:
        before = descriptors_and_threads()
        for number in range(50):
            beside = tmp_path / "beside"
            other = tmp_path / "releases" / f"{number}"
            shutil.copytree(tree, other)
            (other / "main.py").write_text(f"# {number}\n")
            beside.symlink_to(other)
            os.replace(beside, current)
            assert watch.tells() == str(current / "main.py")
        assert watch.told() == ""
        give_up_at = time.monotonic() + PATIENCE
        # A few threads, also of other tests, are just about to begin or to end.
        while any(
            now > then + 9 for now, then in zip(descriptors_and_threads(), before, strict=True)
        ):
            assert time.monotonic() < give_up_at, (before, descriptors_and_threads())


def descriptors_and_threads() -> tuple[int, int]:
    """Return how many this process has."""
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
