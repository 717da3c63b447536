"""``--watch``: what counts as a change, when it is told, and how little of it is missed."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from overseer_py.release import hints, watched
from overseer_py.release.hints import elsewhere, steps
from overseer_py.release.watcher import Watcher
from tests.master import PATIENCE
from tests.needs import cannot, need

DEBOUNCE = 0.05
INOTIFY = Path("/proc/sys/fs/inotify")


class Watch:
    """A watcher and the loop around it, as the updater has them; what it tells is taken by hand.

    ``mark`` is a file that is watched, too: when its change is told, so is all before it.
    """

    def __init__(self, tmp_path: Path, *patterns: str | Path, debounce: float = DEBOUNCE) -> None:
        self._woken = os.eventfd(0, os.EFD_NONBLOCK)
        self._mark = tmp_path / "mark"
        self._mark.write_text("0")
        self._marks = 0
        wake = self._wake
        self.watcher = Watcher([str(self._mark), *map(str, patterns)], debounce, wake)

    def _wake(self) -> None:
        os.eventfd_write(self._woken, 1)

    def begin(self, seen: str = "", since: int | None = None) -> str:
        """Begin; without a time nothing is newer."""
        return self.watcher.begin(seen, time.time_ns() + 10**18 if since is None else since)

    def tells(self, patience: float = PATIENCE) -> str:
        """Wait until it tells of a change; empty if it does not in time."""
        give_up_at = time.monotonic() + patience
        while (now := time.monotonic()) < give_up_at:
            due = self.watcher.due()
            left = give_up_at - now if due is None else max(0.0, min(due, give_up_at) - now)
            if select.select([self._woken], [], [], left)[0]:
                os.eventfd_read(self._woken)
            if told := self.watcher.look(time.monotonic()):
                self.watcher.caught_up()
                return told
        return ""

    def told(self) -> str:
        """Change the mark, and return what is told until then; the mark itself is left out."""
        self._marks += 1
        self._mark.write_text(str(self._marks))
        mark, told = str(self._mark), []
        while mark not in (words := self.tells()):
            assert words, "the change of the mark is never told"
            told.append(words)
        if words != mark:
            told.append(words)
        return ", ".join(told)

    def tells_once(self, path: str | Path) -> None:
        """Assert that a change of this path is told, and that nothing follows it."""
        told = self.tells()
        assert told.startswith(str(path)), told or "nothing is told"
        assert self.told() == ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.watcher.close()
        os.close(self._woken)


@contextmanager
def watching(tmp_path: Path, *patterns: str | Path, debounce: float = DEBOUNCE) -> Iterator[Watch]:
    """Watch these paths from now on."""
    with Watch(tmp_path, *patterns, debounce=debounce) as watch:
        assert watch.begin() == ""
        assert not watch.watcher.blind
        yield watch


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Give a small program in a directory."""
    tree = tmp_path / "srv" / "app"
    (tree / "package").mkdir(parents=True)
    for name in ("main.py", "package/__init__.py", "package/code.py"):
        (tree / name).write_text(f"# {name}\n")
    return tree


def replace(path: Path, text: str, beside: str = ".new") -> None:
    """Replace a file as careful programs do."""
    new = path.with_name(path.name + beside)
    new.write_text(text)
    os.replace(new, path)


# -- content, and nothing but content -----------------------------------------------------------


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


# -- when it is told ------------------------------------------------------------------------------


def test_a_slow_writer_is_waited_for(tmp_path: Path, tree: Path) -> None:
    """However long it writes: it is told once, when all has been still for the debounce."""
    debounce, main = 0.4, tree / "main.py"
    writer = "import sys,time\nfor _ in range(20): print(open(sys.argv[1],'a').write('x')); time.sleep(.1)"
    with watching(tmp_path, tree, debounce=debounce) as watch:
        process = subprocess.Popen(
            [sys.executable, "-c", writer, main], stdout=subprocess.DEVNULL, text=True
        )
        assert watch.tells() == str(main)
        assert main.read_text().endswith("x" * 20)
        assert time.time() - main.stat().st_mtime >= debounce - 0.01
        assert process.wait() == 0
        assert watch.told() == ""


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


# -- habits ---------------------------------------------------------------------------------------


def test_droppings_do_not_count(tmp_path: Path, tree: Path) -> None:
    """What editors, git and Python leave beside the files that are meant; by any pattern."""
    (tree / "__pycache__").mkdir()
    (tree / ".git").mkdir()
    for pattern in (tree, tree / "*", tree / "**" / "*"):
        with watching(tmp_path, pattern) as watch:
            for name in (
                "main.py~",
                ".main.py.swp",
                ".main.py.swx",
                "4913",
                "#main.py#",
                "main.py___jb_tmp___",
                "main.py___jb_old___",
                ".goutputstream-A1B2C3",
                "main.pyc",
                "__pycache__/main.cpython-311.pyc",
                "__pycache__/main.cpython-311.pyc.140703",
                ".git/index.lock",
                ".git/HEAD",
            ):
                (tree / name).write_text(f"{pattern}\n")
                assert watch.told() == "", name
            (tree / ".#main.py").symlink_to("user@host.1234:1700000000")  # emacs' lock
            assert watch.told() == ""
            (tree / ".#main.py").unlink()
            assert watch.told() == ""


def test_what_is_named_counts_whatever_its_name(tmp_path: Path, tree: Path) -> None:
    """A path that is given is meant, also in .git, beside a pattern or not."""
    head = tree / ".git" / "HEAD"
    head.parent.mkdir()
    head.write_text("ref: refs/heads/main\n")
    with watching(tmp_path, head, tree / "*.py") as watch:
        replace(head, "ref: refs/heads/other\n", ".lock")
        watch.tells_once(head)
    with watching(tmp_path, head.parent) as watch:
        head.write_text("ref: refs/heads/third\n")
        watch.tells_once(head)


def test_vim(tmp_path: Path, tree: Path) -> None:
    """It tries whether it may write (4913), moves the file aside, writes anew, and cleans up."""
    vim, main = need("vim"), tree / "main.py"
    for number, how in enumerate(("backupcopy=no", "backupcopy=yes", "nowritebackup")):
        with watching(tmp_path, tree) as watch:
            command = [vim, "-u", "NONE", "-N", "-es", "-c", f"set {how}"]
            subprocess.run(
                [*command, "-c", f"normal Go# by vim {number}", "-c", "wq", main],
                stdin=subprocess.DEVNULL,
                check=True,
            )
            watch.tells_once(main)
            assert f"by vim {number}" in main.read_text()


def test_sed(tmp_path: Path, tree: Path) -> None:
    """``sed -i`` writes beside and renames."""
    with watching(tmp_path, tree / "main.py") as watch:
        subprocess.run([need("sed"), "-i", "s/main/other/", tree / "main.py"], check=True)
        watch.tells_once(tree / "main.py")
        subprocess.run([need("sed"), "-i", "s/nothing/else/", tree / "main.py"], check=True)
        assert watch.told() == ""


def test_git_checkout(tmp_path: Path, tree: Path) -> None:
    """Another branch: files change, come and go, and that is one change; what git does else none."""

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run([need("git"), "-C", tree, *identity, *arguments], check=True)

    git("init", "--quiet", "--initial-branch=main")
    git("add", ".")
    git("commit", "--quiet", "--message=one")
    git("checkout", "--quiet", "-b", "other")
    (tree / "main.py").write_text("# other\n")
    (tree / "package" / "code.py").unlink()
    (tree / "more").mkdir()
    (tree / "more" / "code.py").write_text("# more\n")
    git("add", "--all")
    git("commit", "--quiet", "--message=two")
    with watching(tmp_path, tree) as watch:
        git("checkout", "--quiet", "main")
        assert watch.tells() == f"{tree}/main.py and 2 more"
        assert watch.told() == ""
        git("status", "--short")
        git("gc", "--quiet")
        assert watch.told() == ""
        git("checkout", "--quiet", "other")
        assert watch.tells() == f"{tree}/main.py and 2 more"
        assert watch.told() == ""


def test_pip_install(tmp_path: Path) -> None:
    """Into a directory, and again: what it wrote counts once, what it compiled does not."""
    place, source = tmp_path / "site", tmp_path / "source"
    place.mkdir()
    (source / "thing").mkdir(parents=True)
    (source / "thing" / "__init__.py").write_text("VERSION = 1\n")
    wheel = "from pathlib import Path\nimport sys,zipfile\n" + WHEEL

    def install(version: int) -> None:
        subprocess.run([sys.executable, "-c", wheel, str(version), source], check=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
            + ["--disable-pip-version-check", "--upgrade", "--target", place]
            + [source / f"thing-{version}-py3-none-any.whl"],
            check=True,
            env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"},
        )

    install(1)
    with watching(tmp_path, place, debounce=0.5) as watch:
        install(2)
        told = watch.tells()
        assert told.startswith(str(place)), told
        assert watch.told() == ""
        assert (place / "thing.py").read_text() == "VERSION = 2\n"


WHEEL = """
version, place = sys.argv[1], Path(sys.argv[2])
info = f"thing-{version}.dist-info"
with zipfile.ZipFile(place / f"thing-{version}-py3-none-any.whl", "w") as wheel:
    wheel.writestr("thing.py", f"VERSION = {version}\\n")
    wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: thing\\nVersion: {version}\\n")
    tag = "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    wheel.writestr(f"{info}/WHEEL", tag)
    wheel.writestr(f"{info}/RECORD", f"thing.py,,\\n{info}/METADATA,,\\n{info}/WHEEL,,\\n")
"""


def test_rsync(tmp_path: Path, tree: Path) -> None:
    """It writes beside and renames; with nothing to do it touches nothing that counts."""
    rsync, source = need("rsync"), tmp_path / "source"
    shutil.copytree(tree, source)
    with watching(tmp_path, tree, debounce=0.2) as watch:
        subprocess.run([rsync, "-a", "--delete", f"{source}/", f"{tree}/"], check=True)
        assert watch.told() == ""
        (source / "main.py").write_text("# by rsync\n")
        (source / "package" / "code.py").unlink()
        (source / "new.py").write_text("# new\n")
        for how in ("--delay-updates", "--inplace"):
            subprocess.run([rsync, "-a", "--delete", how, f"{source}/", f"{tree}/"], check=True)
            assert watch.tells() == f"{tree}/main.py and 2 more"
            assert watch.told() == ""
            (source / "main.py").write_text("# by rsync, again\n")
            (source / "package" / "code.py").write_text("# back\n")
            (source / "new.py").unlink()


# -- what inotify cannot do -----------------------------------------------------------------------


@contextmanager
def limited(name: str, value: int) -> Iterator[None]:
    """Lower a limit of inotify's for a while; it is everybody's, so not for long."""
    limit = INOTIFY / name
    before = limit.read_text()
    try:
        limit.write_text(str(value))
    except OSError as error:
        cannot(f"{limit}: {error.strerror}")
    try:
        yield
    finally:
        limit.write_text(before)


@pytest.mark.parametrize("kind", ["dropping", "file", "directory"])
def test_the_queue_overflows(tmp_path: Path, tree: Path, kind: str) -> None:
    """What was lost is found: behind droppings, behind files, and in directories that are new."""
    with limited("max_queued_events", 8):
        watch = Watch(tmp_path, tree)
    with watch:
        # The queue's length is that at the time at which it was made, inotify(7).
        with limited("max_queued_events", 8):
            assert watch.begin() == ""
        lock = watch.watcher._hints._observer._inotify_fd._lock  # type: ignore[union-attr] # noqa: SLF001
        with lock:  # the reader stands still
            for number in range(100):
                (tree / (f"{number}~" if kind == "dropping" else f"{number}.py")).touch()
            place = tree
            if kind == "directory":
                place = tree / "new" / "deep"
                place.mkdir(parents=True)
            (place / "late.py").write_text("# lost\n")
        told = watch.tells()
        assert told, "nothing is told"
        assert watch.told() == ""
        (place / "late.py").write_text("# changed\n")
        watch.tells_once(place / "late.py")


@pytest.mark.parametrize("limit", ["max_user_watches", "max_user_instances"])
def test_out_of_watches_it_polls(tmp_path: Path, tree: Path, limit: str) -> None:
    """Also if only the directories further down find none; all is found, once it is still."""
    (tree / "package" / "deep").mkdir()
    (tree / "package" / "deep" / "code.py").write_text("# deep\n")
    with limited(limit, 0), Watch(tmp_path, tree) as watch:
        assert watch.begin() == ""
        assert watch.watcher.blind.startswith("inotify: ")
        for path in (tree / "main.py", tree / "package" / "deep" / "code.py"):
            path.write_text("# changed\n")
            assert watch.tells() == str(path)
        (tree / "main.py").touch()
        assert watch.told() == ""


def test_watches_for_a_part_only(tmp_path: Path, tree: Path) -> None:
    """The directories above have one each, those below none: that is no reason to be blind."""
    for number in range(50):
        (tree / f"directory{number}").mkdir()
    with Watch(tmp_path, tree) as probe:
        assert probe.begin() == ""
        used = _watches()
    with limited("max_user_watches", used - 25), Watch(tmp_path, tree) as watch:
        assert watch.begin() == ""
        assert watch.watcher.blind.startswith("inotify: ")
        (tree / "directory49" / "code.py").write_text("# new\n")
        watch.tells_once(tree / "directory49" / "code.py")


def test_watches_that_are_used_up_later(tmp_path: Path, tree: Path) -> None:
    """New directories find no watch left: from then on it polls."""
    with watching(tmp_path, tree) as watch, limited("max_user_watches", 1):
        (tree / "new" / "deep").mkdir(parents=True)
        (tree / "new" / "code.py").write_text("# new\n")
        assert str(tree / "new") in watch.tells()
        assert watch.watcher.blind.startswith("inotify: ")
        (tree / "new" / "deep" / "code.py").write_text("# unseen\n")
        watch.tells_once(tree / "new" / "deep" / "code.py")


def test_a_slow_writer_is_waited_for_without_inotify(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two looks nothing must have changed."""
    monkeypatch.setattr(hints, "elsewhere", lambda *_: "nfs4")
    main = tree / "main.py"
    writer = "import sys,time\nfor _ in range(30): open(sys.argv[1],'a').write('x'); time.sleep(.1)"
    with Watch(tmp_path, tree, debounce=0.4) as watch:
        assert watch.begin() == ""
        assert watch.watcher.blind.endswith(" is on nfs4")
        process = subprocess.Popen([sys.executable, "-c", writer, main])
        assert watch.tells() == str(main)
        assert main.read_text().endswith("x" * 30)
        assert process.wait() == 0
        watch.told()


def _watches() -> int:
    """Return how many watches this process has, proc_pid_fdinfo(5)."""
    found = [info.read_text() for info in Path("/proc/self/fdinfo").iterdir() if info.exists()]
    return sum(text.count("inotify wd:") for text in found)


MOUNTS = r"""
22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:21 / /srv rw,relatime shared:2 master:3 - nfs4 server:/srv rw,vers=4.2
24 23 0:22 / /srv/local rw - xfs /dev/sdb1 rw
25 22 0:23 / /mnt/with\040space rw - fuse.sshfs user@host:/ rw
26 22 0:24 / /srv2 rw - tmpfs tmpfs rw
27 22 0:25 / /mnt/été rw - 9p share rw
28 26 0:26 / /srv2/over rw - tmpfs tmpfs rw
29 28 0:27 / /srv2/over rw - virtiofs share rw
""".strip()


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/", ""),
        ("/home/app", ""),
        ("/srv", "nfs4"),
        ("/srv/app/deep", "nfs4"),
        ("/srv/local/app", ""),
        ("/srv2/app", ""),
        ("/mnt/with space/app", "fuse.sshfs"),
        ("/mnt/with", ""),
        ("/mnt/été/app", "9p"),
        ("/srv2/over/app", "virtiofs"),
    ],
)
def test_a_file_system_that_others_change(directory: str, kind: str) -> None:
    """The mount that a directory is on tells: the longest, and of two at a place the last."""
    assert elsewhere(directory, MOUNTS) == kind


def test_a_long_life(tmp_path: Path, tree: Path) -> None:
    """Thousands of hints are neither kept nor paid for in descriptors or threads."""
    current = tmp_path / "current"
    current.symlink_to(tree)
    with watching(tmp_path, current, debounce=0.01) as watch:
        before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
        for number in range(50):
            beside = tmp_path / "beside"
            other = tmp_path / f"release{number}"
            shutil.copytree(tree, other)
            (other / "main.py").write_text(f"# {number}\n")
            beside.symlink_to(other)
            os.replace(beside, current)
            assert watch.tells() == str(current / "main.py")
        assert watch.told() == ""
        assert (len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))) == before
