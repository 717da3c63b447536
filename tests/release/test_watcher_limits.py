"""``--watch``: what inotify cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

from overseer_py.release import hints
from overseer_py.release.hints import elsewhere
from tests.release.watching import (
    Watch,
    in_limits_of_its_own,
    limited,
    waits_for_a_writer,
    watching,
)

pytestmark = pytest.mark.filterwarnings("ignore:Callback with id")  # watchdog's


QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


@pytest.mark.parametrize("kind", ["dropping", "file", "directory"])
def test_the_queue_overflows(tmp_path: Path, tree: Path, kind: str) -> None:
    """What was lost is found: behind droppings, behind files, and in directories that are new."""
    with watching(tmp_path, tree) as watch:
        lock = watch.watcher._hints._observer._inotify_fd._lock  # type: ignore[union-attr] # noqa: SLF001
        with lock:  # the reader stands still
            one, other = (tree / f"{name}{'~' if kind == 'dropping' else '.py'}" for name in "ab")
            one.touch()
            for _ in range(int(QUEUE.read_text()) // 4 + 1):  # each rename is two events
                one.rename(other)
                other.rename(one)
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


@pytest.mark.parametrize("limit", ["max_inotify_watches", "max_inotify_instances"])
def test_out_of_watches_it_polls(tmp_path: Path, tree: Path, limit: str) -> None:
    """Also if only the directories further down find none; all is found, once it is still."""
    (tree / "package" / "deep").mkdir()
    (tree / "package" / "deep" / "code.py").write_text("# deep\n")

    def run() -> None:
        with limited(limit, 0), Watch(tmp_path, tree) as watch:
            assert watch.begin() == ""
            assert watch.watcher.blind.startswith("inotify: ")
            for path in (tree / "main.py", tree / "package" / "deep" / "code.py"):
                path.write_text("# changed\n")
                assert watch.tells() == str(path)
            (tree / "main.py").touch()
            assert watch.told() == ""

    in_limits_of_its_own(run)


def test_watches_for_a_part_only(tmp_path: Path, tree: Path) -> None:
    """The directories above have one each, those below none: that is no reason to be blind."""
    for number in range(50):
        (tree / f"directory{number}").mkdir()

    def run() -> None:
        with Watch(tmp_path, tree) as probe:
            assert probe.begin() == ""
            used = _watches()
        with limited("max_inotify_watches", used - 25), Watch(tmp_path, tree) as watch:
            assert watch.begin() == ""
            assert watch.watcher.blind.startswith("inotify: ")
            (tree / "directory49" / "code.py").write_text("# new\n")
            watch.tells_once(tree / "directory49" / "code.py")

    in_limits_of_its_own(run)


def test_watches_that_are_used_up_later(tmp_path: Path, tree: Path) -> None:
    """New directories find no watch left: from then on it polls."""

    def run() -> None:
        with watching(tmp_path, tree) as watch, limited("max_inotify_watches", 1):
            (tree / "new" / "deep").mkdir(parents=True)
            (tree / "new" / "code.py").write_text("# new\n")
            assert str(tree / "new") in watch.tells()
            assert watch.watcher.blind.startswith("inotify: ")
            (tree / "new" / "deep" / "code.py").write_text("# unseen\n")
            watch.tells_once(tree / "new" / "deep" / "code.py")

    in_limits_of_its_own(run)


def test_a_slow_writer_is_waited_for_without_inotify(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two looks nothing must have changed."""
    monkeypatch.setattr(hints, "elsewhere", lambda *_: "nfs4")
    for debounce in (0.4, 4.0, 40.0):
        with Watch(tmp_path, tree, debounce=debounce) as watch:
            assert watch.begin() == ""
            assert watch.watcher.blind.endswith(" is on nfs4")
            if waits_for_a_writer(watch, tree / "main.py", 30, debounce):
                watch.told()
                return
    pytest.fail("it does not wait, however long the debounce is")


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
