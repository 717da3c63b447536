"""Processes are started, told, killed and reaped; what they leave behind, too."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from overseer_py.errors import LaunchError
from overseer_py.system import procfs
from overseer_py.system.launch import Launch
from tests.system.apart import PYTHON, House, apart

ENVIRON = {"PATH": os.environ["PATH"]}
MARK = {"MARK": "7/0"}

# Says its pid once it has left the session of whoever started it, and then waits for ever.
STRAY = """
import os, signal, sys
if os.fork():
    {parent}
os.setsid()
if os.fork():
    os._exit(0)
os.setsid()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, f"{{os.getpid()}}\\n".encode())
while True:
    signal.pause()
"""


def waits(*, for_ever: bool = True) -> Launch:
    """Return a program that does nothing until it is told."""
    return Launch(["sleep", "infinity" if for_ever else "0"], ENVIRON)


def test_the_status_is_the_programs_own() -> None:
    """How a program ended is told in words, with the status that a shell would show."""

    def run() -> list[tuple[str, int]]:
        house = House()
        for code in ("exit 0", "exit 7", "kill -TERM $$", "kill -ABRT $$", "kill -RTMIN $$"):
            house.spawn(Launch(["sh", "-c", f"ulimit -c 0; {code}"], ENVIRON))
        return [house.wait(number) for number in range(1, 6)]

    assert apart(run) == [
        ("exited with status 0", 0),
        ("exited with status 7", 7),
        ("was killed by SIGTERM", 143),
        ("was killed by SIGABRT", 134),
        (f"was killed by SIGRTMIN{'' if hasattr(signal.Signals, 'SIGRTMIN') else '+0'}", 162),
    ]


def test_each_gets_its_own_status_whatever_else_ends() -> None:
    """Twenty programs and as many orphans end in one moment: nobody has another's status."""

    def run() -> list[int]:
        house = House()
        for number in range(20):
            house.spawn(Launch(["sh", "-c", f"(true & ) ; exit {number}"], ENVIRON))
        return [house.wait(number)[1] for number in range(1, 21)]

    assert apart(run) == list(range(20))


def test_orphans_are_reaped() -> None:
    """What a program forked and left behind is no zombie of the master's."""

    def run() -> list[int]:
        house = House()
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        gate, opens = os.pipe2(os.O_CLOEXEC)
        code = "(setsid sh -c 'echo $$; read x <&3' &); read x <&3"
        house.spawn(Launch(["sh", "-c", code], ENVIRON, fds=[gate], stdout=write_end))
        os.close(write_end)
        with open(read_end, encoding="ascii") as pipe:
            orphan = int(pipe.readline())
        os.close(opens)
        house.wait()
        while os.path.exists(f"/proc/{orphan}"):
            house.turn()
        return procfs.children(os.getpid())

    assert apart(run) == []


def test_an_end_is_told_once() -> None:
    """Reaping again and again tells of an end no second time; nothing to reap is no error."""

    def run() -> dict[int, tuple[str, int]]:
        house = House()
        house.children.reap()
        house.spawn(waits(for_ever=False))
        house.wait()
        house.children.reap()
        house.children.reap()
        return house.ended

    assert apart(run) == {1: ("exited with status 0", 0)}


def test_a_process_that_has_ended_is_not_signalled() -> None:
    """After the end a signal goes nowhere, least of all to whoever has the number now."""

    def run() -> tuple[str, int]:
        house = House()
        process = house.spawn(waits(for_ever=False))
        house.wait()
        process.send(signal.SIGKILL)
        process.drain(signal.SIGTERM)
        return house.wait()

    assert apart(run) == ("exited with status 0", 0)


def test_a_zombie_can_be_signalled() -> None:
    """Between its end and its reaping a process takes a signal without an error."""

    def run() -> tuple[str, int]:
        house = House()
        process = house.spawn(waits(for_ever=False))
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        process.send(signal.SIGTERM)
        house.children.kill(process)
        return house.wait()

    assert apart(run) == ("exited with status 0", 0)


def test_a_stopped_process_hears_a_drain() -> None:
    """A process that was stopped with SIGSTOP is continued, or it would never finish."""

    def run() -> tuple[str, int]:
        house = House()
        process = house.spawn(waits())
        process.send(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        process.drain(signal.SIGTERM)
        return house.wait()

    assert apart(run) == ("was killed by SIGTERM", 143)


def test_a_kill_takes_the_whole_group() -> None:
    """SIGKILL reaches the children of a process in its group, also those that ignore TERM."""

    def run() -> tuple[tuple[str, int], bytes]:
        house = House()
        read_end, write_end = os.pipe()
        code = "trap '' TERM; sleep infinity & echo up; wait"
        process = house.spawn(Launch(["sh", "-c", code], ENVIRON, stdout=write_end))
        os.close(write_end)
        assert os.read(read_end, 10) == b"up\n"
        house.children.kill(process)
        return house.wait(), os.read(read_end, 1)  # the end: the sleep is gone, too

    assert apart(run) == (("was killed by SIGKILL", 137), b"")


def test_a_kill_takes_descendants_without_a_mark() -> None:
    """A child in a session of its own, and with an empty environment, is found by its parent."""

    def run() -> tuple[tuple[str, int], str]:
        house = House()
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        code = """setsid env -i sh -c 'trap "" TERM; echo up; exec sleep infinity' & wait"""
        process = house.spawn(
            Launch(["sh", "-c", code], {**ENVIRON, **MARK}, stdout=write_end), MARK
        )
        os.close(write_end)
        with open(read_end, encoding="ascii") as pipe:
            assert pipe.readline() == "up\n"
            house.children.kill(process)
            return house.wait(), pipe.read()

    assert apart(run) == (("was killed by SIGKILL", 137), "")


@pytest.mark.parametrize("parent", ["signal.pause()", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_strays_of_a_killed_worker_are_killed(parent: str) -> None:
    """Two calls of setsid(2) and an ignored TERM do not save what a worker left behind."""

    def run() -> bool:
        house = House()
        read_end, write_end = os.pipe()
        launch = Launch(
            [*PYTHON, STRAY.format(parent=parent)], {**ENVIRON, **MARK}, stdout=write_end
        )
        process = house.spawn(launch, MARK)
        os.close(write_end)
        with open(read_end, encoding="ascii") as pipe:
            stray = int(pipe.readline())
            house.children.kill(process)
            house.wait()
            assert pipe.read() == ""  # nobody holds it any more
        return os.path.exists(f"/proc/{stray}")

    assert not apart(run)


# Is found while the one between it and the master is past its memory, and not yet reaped.
LATE_ORPHAN = """
import os, signal
if os.fork():
    os._exit(0)
os.setsid()
parent = os.getpid()
read_end, write_end = os.pipe()
if os.fork():
    much = b"." * (256 << 20)  # takes a while to give back
    os.write(write_end, b".")
    os._exit(0)
os.setsid()
os.read(read_end, 1)
while os.getppid() == parent:
    if open(f"/proc/{parent}/stat").read().rpartition(")")[2].split()[20] == "0":
        break
os.write(1, f"{os.getpid()}\\n".encode())
signal.pause()
"""


def test_no_stray_escapes_behind_an_orphan_that_ends() -> None:
    """An orphan without memory cannot be told by its variables: what it leaves is not missed."""

    def run() -> bool:
        house = House()
        read_end, write_end = os.pipe()
        launch = Launch([*PYTHON, LATE_ORPHAN], {**ENVIRON, **MARK}, stdout=write_end)
        process = house.spawn(launch, MARK)
        os.close(write_end)
        with open(read_end, encoding="ascii") as pipe:
            stray = int(pipe.readline())
            house.children.kill(process)
            house.wait()
            assert pipe.read() == ""
        return os.path.exists(f"/proc/{stray}")

    assert not apart(run)


def test_strays_of_another_worker_are_spared() -> None:
    """The end of one worker does nothing to what another one has left behind."""

    def run() -> tuple[bool, dict[int, tuple[str, int]]]:
        house = House()
        read_end, write_end = os.pipe()
        code = STRAY.format(parent="os._exit(0)")
        other = {"MARK": "7/1"}
        process = house.spawn(
            Launch([*PYTHON, code], {**ENVIRON, **other}, stdout=write_end), other
        )
        process.farewell = signal.SIGCONT  # so that its stray lives on
        os.close(write_end)
        with open(read_end, encoding="ascii") as pipe:
            stray = int(pipe.readline())
        house.spawn(Launch(["true"], {**ENVIRON, **MARK}), MARK)
        house.wait(2)
        return procfs.is_zombie(stray), house.ended

    assert apart(run) == (False, {2: ("exited with status 0", 0)})


def test_the_program_behind_a_wrapper_may_finish() -> None:
    """Of ``sh -c 'cd / && prog; true'`` the drain ends the shell; the program is asked as well."""
    server = """
import os, signal, sys
def finish(*_):
    os.write(1, b"finishing\\n")
    os.read(0, 1)
    os.write(1, b"finished\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, finish)
os.write(1, b"up\\n")
while True:
    signal.pause()
"""

    def run() -> tuple[list[str], bool, tuple[str, int]]:
        house = House()
        read_end, write_end = os.pipe()
        inner = 'cd / && exec 0<&3 && "$0" "$@"; true'
        held, release = os.pipe()
        launch = Launch(
            ["sh", "-c", inner, *PYTHON, server],
            {**ENVIRON, **MARK},
            fds=[held],
            stdout=write_end,
        )
        process = house.spawn(launch, MARK)
        os.close(write_end)
        with open(read_end, encoding="ascii") as pipe:
            heard = [pipe.readline()]
            process.drain(signal.SIGTERM)
            house.turn()
            heard.append(pipe.readline())
            told_early = bool(house.ended)
            house.children.reap()  # the signal comes once, not at every turn
            os.write(release, b".")
            heard += pipe.readlines()
        return heard, told_early, house.wait()

    assert apart(run) == (
        ["up\n", "finishing\n", "finished\n"],
        False,
        ("was killed by SIGTERM", 143),
    )


def test_a_kill_after_a_drain_spares_no_stray() -> None:
    """Strays that were only asked to finish are killed when the time is up."""

    def run() -> tuple[str, int]:
        house = House()
        read_end, write_end = os.pipe()
        code = STRAY.format(parent="signal.pause()")
        process = house.spawn(Launch([*PYTHON, code], {**ENVIRON, **MARK}, stdout=write_end), MARK)
        os.read(read_end, 20)
        process.drain(signal.SIGTERM)
        house.turn()
        while process.ended is None:
            house.turn()
        assert not house.ended
        house.children.kill(process)
        return house.wait()

    assert apart(run) == ("was killed by SIGTERM", 143)


def test_nothing_is_left() -> None:
    """The last thing that a master does takes everything: groups, strays, grandchildren."""

    def run() -> list[int]:
        house = House()
        read_end, write_end = os.pipe()
        code = STRAY.format(parent="signal.pause()")
        for _ in range(3):
            house.spawn(Launch([*PYTHON, code], {**ENVIRON, **MARK}, stdout=write_end), MARK)
            os.read(read_end, 20)
        house.spawn(Launch(["sh", "-c", "sleep infinity & sleep infinity"], ENVIRON))
        house.children.kill_everything()
        return [pid for pid in procfs.tree([os.getpid()])[1:] if not procfs.is_zombie(pid)]

    assert apart(run) == []


def test_a_sender_is_known_by_its_group() -> None:
    """A child of a worker speaks for it; a process of no worker's group speaks for nobody."""

    def run() -> None:
        house = House()
        read_end, write_end = os.pipe()
        code = "sleep infinity & echo $!; wait"
        process = house.spawn(Launch(["sh", "-c", code], ENVIRON, stdout=write_end))
        child = int(os.read(read_end, 20))
        assert house.children.by_group(process.pid) is process
        assert house.children.by_group(child) is process
        assert house.children.by_group(os.getpid()) is None
        house.children.kill(process)
        house.wait()
        assert house.children.by_group(process.pid) is None
        assert house.children.by_group(2**22 + 1) is None  # more than the kernel ever gives out

    apart(run)


@pytest.mark.parametrize("spare", range(6))
def test_no_descriptor_left_is_an_error_that_leaks_nothing(spare: int) -> None:
    """With a few descriptors left or none, a start fails whole: no process and no descriptor."""

    def run() -> tuple[list[int], bool]:
        house = House()
        before = os.listdir("/proc/self/fd")
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        used = {int(name) for name in before}
        most = next(
            n for n in range(lowest_free, 1000) if n + 1 - len(used & set(range(n))) > spare
        )
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
        failed = False
        try:
            house.spawn(waits(for_ever=False))
            house.wait()
        except LaunchError as error:
            assert "Too many open files" in str(error)  # noqa: PT017 - both outcomes are right
            failed = True
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        failed = failed or "Too many open files" in house.ended[1][0]
        assert os.listdir("/proc/self/fd") == before
        return procfs.children(os.getpid()), failed

    children, failed = apart(run)
    assert children == []
    assert failed or spare > 2


def test_a_hundred_starts_leak_nothing(tmp_path: Path) -> None:
    """Many starts, good and bad, leave as many descriptors open as there were."""

    def run() -> tuple[int, int]:
        house = House()
        before = len(os.listdir("/proc/self/fd"))
        for number in range(100):
            good = number % 2
            house.spawn(waits(for_ever=False) if good else Launch([str(tmp_path)], ENVIRON))
        for number in range(1, 101):
            house.wait(number)
        return before, len(os.listdir("/proc/self/fd"))

    before, after = apart(run)
    assert before == after


def test_one_that_has_left_its_group_is_killed() -> None:
    """A process may join another group of its session; it is still held by its pidfd."""

    def run() -> tuple[str, int]:
        house = House()
        os.setpgid(0, 0)
        reader, up = os.pipe2(os.O_CLOEXEC)
        code = "import os, time; os.setpgid(0, os.getppid()); os.write(1, b'up'); time.sleep(600)"
        process = house.spawn(Launch([*PYTHON, code], ENVIRON, stdout=up))
        assert os.read(reader, 2) == b"up"
        house.children.kill(process)
        return house.wait()

    assert apart(run) == ("was killed by SIGKILL", 137)
