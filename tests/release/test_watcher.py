"""``--watch``: what counts as a change, and when it is told."""

from __future__ import annotations

import os
import select
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from overseer_py.release import watched
from tests.master import PATIENCE
from tests.release.watching import Watch, replace, waits_for_a_writer, watching

pytestmark = pytest.mark.filterwarnings("ignore:Callback with id")  # watchdog's


def test_time_stamps_do_not_count(tmp_path: Path, tree: Path) -> None:
    """Touched, given other times, opened to append nothing, or rewritten with the same bytes."""
    main = tree / "main.py"
    for pattern in (main, tree):
        with watching(tmp_path, pattern) as watch:
            main.touch()
            assert watch.told() == ""
            os.utime(main, (1, 1))
            assert watch.told() == ""
            main.open("a").close()
            assert watch.told() == ""
            main.write_text(main.read_text())
            assert watch.told() == ""
            replace(main, main.read_text())
            assert watch.told() == ""
            main.chmod(0o640)
            assert watch.told() == ""


def test_a_changed_byte_counts(tmp_path: Path, tree: Path) -> None:
    """Of the same length, in place."""
    main = tree / "main.py"
    for pattern in (main, tree):
        with watching(tmp_path, pattern) as watch:
            with main.open("r+b") as file:
                file.write(os.urandom(4))
            watch.tells_once(main)


def test_the_permission_to_execute_counts(tmp_path: Path, tree: Path) -> None:
    """Without it a program is another one."""
    main = tree / "main.py"
    for pattern in (main, tree):
        with watching(tmp_path, pattern) as watch:
            main.chmod(0o755)
            watch.tells_once(main)
            main.chmod(0o644)
            watch.tells_once(main)


def test_a_change_and_back_is_none(tmp_path: Path, tree: Path) -> None:
    """What is still in the end is what was there before."""
    main = tree / "main.py"
    with watching(tmp_path, tree, debounce=0.5) as watch:
        before = main.read_text()
        main.write_text("something else\n")
        main.write_text(before)
        assert watch.told() == ""


def test_a_change_within_one_tick_of_the_clock(tmp_path: Path) -> None:
    """A file that changes right after it was read may have the time stamp that it had."""
    path = tmp_path / "file"
    found = watched.Watched((str(path),))
    path.write_text("0")
    found.look()
    for number in range(1, 2000):
        text = str(number % 10)  # of one length
        with path.open("r+") as file:
            file.write(text)
        assert found.look() == [str(path)], f"change {number} was missed"


def test_replaced(tmp_path: Path, tree: Path) -> None:
    """A file renamed over it, from beside it or from elsewhere, again and again."""
    main = tree / "main.py"
    for pattern in (main, tree):
        with watching(tmp_path, pattern) as watch:
            for number in range(5):
                replace(main, f"# {pattern} {number}\n")
                watch.tells_once(main)
            (tmp_path / "elsewhere").write_text("from elsewhere\n")
            os.replace(tmp_path / "elsewhere", main)
            watch.tells_once(main)


def test_deleted_and_created_again(tmp_path: Path, tree: Path) -> None:
    """Both count, and each once."""
    main = tree / "main.py"
    for pattern in (main, tree):
        with watching(tmp_path, pattern) as watch:
            main.unlink()
            watch.tells_once(main)
            main.write_text("# again\n")
            watch.tells_once(main)
            main.unlink()
            main.write_text("# again, at once\n")
            watch.tells_once(main)


def test_a_path_that_does_not_exist_yet(tmp_path: Path) -> None:
    """It appears, with all the directories above it, and changes from then on."""
    path = tmp_path / "not" / "there" / "yet.py"
    with watching(tmp_path, path) as watch:
        path.parent.mkdir(parents=True)
        path.write_text("# here\n")
        watch.tells_once(path)
        path.write_text("# changed\n")
        watch.tells_once(path)
        shutil.rmtree(tmp_path / "not")
        watch.tells_once(path)
        path.parent.mkdir(parents=True)
        path.write_text("# here again\n")
        watch.tells_once(path)


# -- when it is told ------------------------------------------------------------------------------


def test_a_slow_writer_is_waited_for(tmp_path: Path, tree: Path) -> None:
    """However long it writes: it is told once, when all has been still for the debounce."""
    for debounce in (0.4, 4.0, 40.0):
        with watching(tmp_path, tree, debounce=debounce) as watch:
            if waits_for_a_writer(watch, tree / "main.py", 20, debounce):
                assert watch.told() == ""
                return
    pytest.fail("it does not wait, however long the debounce is")


def test_many_files_at_once_are_one_change(tmp_path: Path, tree: Path) -> None:
    """Changed, new and deleted ones, known and unknown, more than are looked at one by one."""
    old = [tree / f"old{number}.py" for number in range(1500)]
    for path in old:
        path.write_text("# old\n")
    with watching(tmp_path, tree, debounce=0.3) as watch:
        for number, path in enumerate(old[:1000]):
            path.write_text(f"# {number}\n")
            (tree / f"new{number}.py").write_text("# new\n")
        for path in old[1000:]:
            path.unlink()
        told = watch.tells()
        assert told == f"{tree}/new0.py and 2499 more"
        assert watch.told() == ""


def test_what_changes_while_the_rest_is_looked_at(tmp_path: Path, tree: Path) -> None:
    """Between the telling and the look at all the rest: it counts again, even if it looks old."""
    new = tmp_path / "new"
    shutil.copytree(tree, new, copy_function=shutil.copy2)
    (new / "main.py").write_text("# prepared\n")
    with watching(tmp_path, tree) as watch:
        caught_up: Callable[[], None] = watch.watcher.caught_up

        def swapped() -> None:
            watch.watcher.caught_up = caught_up  # type: ignore[method-assign]
            tree.rename(tmp_path / "old")
            new.rename(tree)
            assert select.select([watch._woken], [], [], PATIENCE)[0]  # noqa: SLF001
            caught_up()

        watch.watcher.caught_up = swapped  # type: ignore[method-assign]
        (tree / "main.py").write_text("# first\n")
        assert watch.tells() == str(tree / "main.py")
        assert watch.tells() == str(tree / "main.py")
        assert watch.told() == ""


def test_what_was_told_is_what_is_seen(tmp_path: Path, tree: Path) -> None:
    """The next updater finds what changed meanwhile, and nothing else."""
    with watching(tmp_path, tree) as watch:
        (tree / "main.py").write_text("# changed\n")
        (tree / "new.py").write_text("# new, so not known at the first look\n")
        assert watch.tells()
        seen = watch.watcher.digest
    with Watch(tmp_path, tree) as second:
        assert second.begin(seen, since=0) == ""
        assert second.told() == ""
        seen = second.watcher.digest
    (tree / "package" / "code.py").write_text("# meanwhile\n")
    with Watch(tmp_path, tree) as third:
        assert third.begin(seen, since=0) == "what is watched"
        assert third.told() == ""


def test_what_changed_before_the_first_look(tmp_path: Path, tree: Path) -> None:
    """Since the service was started: changed, replaced, or led to by another link."""
    current = tmp_path / "current"
    current.symlink_to(tree)
    (tmp_path / "mark").write_text("0")
    while (since := watched.now()) <= watched.changed_at(str(tmp_path / "mark")):
        pass  # until the clock of time stamps has moved on
    with Watch(tmp_path, current) as watch:
        (tmp_path / "mark").unlink()
        assert watch.begin(since=watched.now()) == ""
    since = watched.now()
    while watched.now() <= since:
        pass
    (tree / "main.py").write_text("# changed\n")
    with Watch(tmp_path, current / "main.py") as watch:
        assert str(current / "main.py") in watch.begin(since=since)
    while (since := watched.now()) <= watched.changed_at(str(tree / "main.py")):
        pass
    shutil.copytree(tree, tmp_path / "other")
    with Watch(tmp_path, current / "main.py") as watch:
        while (since := watched.now()) <= watched.changed_at(str(tmp_path / "mark")):
            pass
        assert watch.begin(since=since) == ""
    current.unlink()
    current.symlink_to(tmp_path / "other")
    with Watch(tmp_path, current / "main.py") as watch:
        assert str(current) in watch.begin(since=since)
