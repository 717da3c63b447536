"""What a program finds when it begins, and why one could not begin."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from fcntl import F_DUPFD_CLOEXEC, fcntl
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overseer_py.system import libc
from overseer_py.system.launch import Identity, Launch, become, change_identity
from tests.needs import need
from tests.system.apart import PYTHON, Ended, House, apart, outcome

ENVIRON = {"PATH": os.environ["PATH"]}
NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change users")

DESCRIPTORS = """
import json, os
found = {}
for name in os.listdir("/proc/self/fd"):
    try:
        found[int(name)] = os.fstat(int(name)).st_ino
    except OSError:
        pass  # the directory that was just listed
print(json.dumps([found, os.readlink("/proc/self/fd/0")]))
"""

ABOUT = """
import ctypes, json, os, sys
death = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(death))
print(json.dumps({
    "pid": os.getpid(), "group": os.getpgid(0), "environ": dict(os.environ), "cwd": os.getcwd(),
    "umask": os.umask(0), "ids": [*os.getresuid(), *os.getresgid()],
    "groups": sorted(os.getgroups()), "death": death.value, "argv": sys.argv[1:],
}))
"""


def about(launch: Launch) -> dict[str, Any]:
    """Return what a program tells of itself."""
    ended = outcome(lambda fd: replace(launch, argv=[*PYTHON, ABOUT, *launch.argv], stdout=fd))
    assert ended.status == 0, ended
    found: dict[str, Any] = json.loads(ended.output)
    return found


def refused(*argv: str, directory: str = "", environ: Mapping[str, str] = ENVIRON) -> Ended:
    """Return how a program ends that cannot be started."""
    ended = outcome(lambda fd: Launch(argv, environ, directory, stdout=fd))
    assert (ended.status, ended.output) == (127, "")
    return ended


# -- descriptors ------------------------------------------------------------------------------


def descriptors_from(numbers: Sequence[int]) -> None:
    """Have files at these numbers in the master, hand them over, and see where they arrive."""

    def run() -> tuple[list[int], int, Any, tuple[str, int]]:
        house = House()
        read_end, write_end = (fcntl(end, F_DUPFD_CLOEXEC, 100) for end in os.pipe())
        files = [fcntl(os.memfd_create("file"), F_DUPFD_CLOEXEC, 100) for _ in numbers]
        os.closerange(3, 100)  # what the tests have open is in nobody's way
        for number, file in zip(numbers, files, strict=True):
            os.dup2(file, number, inheritable=False)
        inodes, stdout = [os.fstat(file).st_ino for file in files], os.fstat(write_end).st_ino
        house.spawn(Launch([*PYTHON, DESCRIPTORS], ENVIRON, fds=numbers, stdout=write_end))
        os.close(write_end)
        with open(read_end, encoding="ascii") as pipe:
            return inodes, stdout, json.loads(pipe.read()), house.wait()

    inodes, stdout, (found, stdin), how = apart(run)
    assert how == ("exited with status 0", 0)
    assert stdin == "/dev/null"
    assert found.pop("1") == stdout
    assert {"0", "2"} <= found.keys()
    assert [found.get(str(3 + index)) for index in range(len(inodes))] == inodes
    assert len(found) == 2 + len(inodes), found


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.integers(3, 10), unique=True, max_size=8))
def test_sockets_are_at_3_and_up_wherever_they_were(numbers: list[int]) -> None:
    """The i-th descriptor is 3+i, in the order asked for, whatever the master has at 3 to 10."""
    descriptors_from(numbers)


@pytest.mark.parametrize(
    "numbers", [[3, 4], [4, 3], [3], [4], [5, 3, 4], [10, 9, 8, 7, 6, 5, 4, 3], [4, 5, 6, 7, 8, 3]]
)
def test_a_swap_gives_no_file_twice(numbers: list[int]) -> None:
    """Two that change places, one that stays in place, a ring: each arrives."""
    descriptors_from(numbers)


def test_one_descriptor_may_be_handed_over_twice() -> None:
    """Two names for one socket are two descriptors of the worker's."""

    def run() -> Any:
        house = House()
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        file = os.memfd_create("one")
        launch = Launch([*PYTHON, DESCRIPTORS], ENVIRON, fds=[file, file], stdout=write_end)
        house.spawn(launch)
        os.close(write_end)
        with open(read_end, encoding="ascii") as pipe:
            return os.fstat(file).st_ino, json.loads(pipe.read())[0]

    inode, found = apart(run)
    assert found["3"] == found["4"] == inode


def test_stderr_may_be_stdout() -> None:
    """Both streams may be the same descriptor of the master's."""
    code = "import os; os.write(2, b'a'); os.write(1, b'b')"
    ended = outcome(lambda fd: Launch([*PYTHON, code], ENVIRON, stdout=fd, stderr=fd))
    assert ended.output == "ab"


def test_what_is_handed_over_is_as_it_was() -> None:
    """A start changes neither the master's descriptor nor the mode of the open file."""

    def run() -> tuple[bool, bool]:
        house = House()
        read_end, _ = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        house.spawn(Launch(["true"], ENVIRON, fds=[read_end]))
        house.wait()
        return os.get_inheritable(read_end), os.get_blocking(read_end)

    assert apart(run) == (False, False)


# -- surroundings -----------------------------------------------------------------------------


def test_a_program_leads_its_own_group() -> None:
    """Pid and process group are one, and the arguments are as given, also empty ones."""
    found = about(Launch(["", "a b", "{x}", "é"], ENVIRON))
    assert found["pid"] == found["group"]
    assert found["argv"] == ["", "a b", "{x}", "é"]


def test_listen_pid_is_the_programs_own() -> None:
    """LISTEN_PID comes with LISTEN_FDS and names the process that reads it."""
    found = about(Launch([], {**ENVIRON, "LISTEN_FDS": "1", "LISTEN_PID": "1"}))
    assert found["environ"]["LISTEN_PID"] == str(found["pid"])


def test_without_sockets_there_is_no_listen_pid() -> None:
    """The environment is exactly the one that was asked for."""
    environ = {**ENVIRON, "a.b": "odd", "EMPTY": ""}
    found = about(Launch([], environ))
    found["environ"].pop("LC_CTYPE", None)  # Python's own
    assert found["environ"] == environ


def status_of(launch: Launch, before: str = "") -> dict[str, str]:
    """Return /proc/self/status of a program, whose master did odd things to its signals before."""

    def run() -> str:
        house = House()
        if before:
            for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1, signal.SIGRTMIN):
                signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, lambda *_: None)
            signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        house.spawn(replace(launch, argv=["cat", "/proc/self/status"], stdout=write_end))
        os.close(write_end)
        with open(read_end, encoding="utf-8") as pipe:
            return pipe.read()

    lines = apart(run).splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("before", ["", "odd"])
def test_signals_are_as_at_login(before: str) -> None:
    """No signal is ignored, caught or blocked, whatever the master did with its own."""
    status = status_of(Launch([], ENVIRON), before)
    for key in ("SigIgn", "SigCgt", "SigBlk"):
        assert int(status[key], 16) == 0, key


def test_children_are_waited_for_even_if_nobody_asked() -> None:
    """A master that was started with SIGCHLD ignored hands on the default all the same."""

    def run() -> str:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        house = House()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # as signals.block_all() does
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        house.spawn(Launch(["sh", "-c", "sh -c 'exit 3'; echo $?"], ENVIRON, stdout=write_end))
        os.close(write_end)
        with open(read_end, encoding="ascii") as pipe:
            return pipe.read()

    assert apart(run) == "3\n"


def test_a_signal_that_came_early_takes_effect() -> None:
    """A TERM between fork and exec ends the new process: it is not lost, nor left blocked."""

    def run() -> tuple[str, int]:
        house = House()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        process = house.spawn(Launch(["sleep", "infinity"], ENVIRON))
        process.send(signal.SIGTERM)
        return house.wait()

    assert apart(run) == ("was killed by SIGTERM", 143)


def test_directory_and_umask(tmp_path: Path) -> None:
    """A program begins in its directory, with its mask; without one with the master's."""
    found = about(Launch([], ENVIRON, directory=str(tmp_path), umask=0o027))
    assert (found["cwd"], found["umask"]) == (str(tmp_path), 0o027)
    before = os.umask(0o012)
    try:
        found = about(Launch([], ENVIRON))
    finally:
        os.umask(before)
    assert (found["cwd"], found["umask"]) == (str(Path.cwd()), 0o012)


@root_only
def test_another_user_keeps_nothing_of_root() -> None:
    """Real, effective and saved ids and all groups are the user's, and there is no way back."""
    groups = (NOBODY, 12345)
    identity = Identity(NOBODY, NOBODY, groups)
    status = status_of(Launch([], ENVIRON, identity=identity))
    assert status["Uid"].split() == status["Gid"].split() == [str(NOBODY)] * 4
    assert sorted(map(int, status["Groups"].split())) == sorted(groups)
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0


@root_only
def test_another_user_hears_of_the_masters_death() -> None:
    """A change of user clears the parent-death signal, so it is asked for afterwards."""
    identity = Identity(NOBODY, NOBODY, (NOBODY,))
    argv = [need("setpriv"), "--dump"]
    ended = outcome(
        lambda fd: Launch(argv, ENVIRON, stdout=fd, identity=identity, death_signal=signal.SIGUSR1)
    )
    assert "Parent death signal: USR1" in ended.output


@root_only
def test_what_a_user_may_not_enter_is_told(tmp_path: Path) -> None:
    """A program that the user may not execute fails with the system's reason."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    identity = Identity(NOBODY, NOBODY, (NOBODY,))
    tmp_path.chmod(0o755)
    ended = outcome(lambda fd: Launch([str(program)], ENVIRON, stdout=fd, identity=identity))
    assert ended.how == f"could not execute {program}: Permission denied"


def test_only_root_becomes_somebody_else() -> None:
    """Without the right to change users a start fails at that step."""

    def run() -> tuple[str, int]:
        if os.geteuid() == 0:
            change_identity(Identity(NOBODY, NOBODY, ()))
        house = House()
        house.spawn(Launch(["true"], ENVIRON, identity=Identity(0, 0, ())))
        return house.wait()

    assert apart(run) == ("could not change user: Operation not permitted", 127)


# -- the master's death -----------------------------------------------------------------------

HEARS = """
import os, signal
meant = {signal.SIGTERM, signal.SIGQUIT}
signal.pthread_sigmask(signal.SIG_BLOCK, meant)  # what comes before the wait is not missed
os.write(1, b"up\\n")
os.write(1, signal.Signals(signal.sigwait(meant)).name.encode())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_program_hears_of_its_masters_death(number: signal.Signals) -> None:
    """When the master is killed, its drain signal comes by itself."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)

    def master_dies() -> None:
        master = os.fork()
        if master == 0:
            house = House()
            house.spawn(Launch([*PYTHON, HEARS], ENVIRON, stdout=write_end, death_signal=number))
            signal.pause()
        with suppress(OSError):
            os.close(write_end)
        assert os.read(read_end, 3) == b"up\n"
        os.kill(master, signal.SIGKILL)
        assert os.read(read_end, 100).decode() == number.name
        os.waitpid(master, 0)

    try:
        apart(master_dies)
    finally:
        os.close(read_end)
        os.close(write_end)


def test_nothing_begins_after_the_masters_death() -> None:
    """A child whose master died before it could ask for the signal does not run the program."""

    def run() -> bytes:
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        _, report = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child == 0:  # its master would be init, but its parent is not
            become(Launch(["echo", "alive"], ENVIRON, stdout=write_end), 1, (64, 64), report)
        os.close(write_end)
        os.waitpid(child, 0)
        return os.read(read_end, 10)

    assert apart(run) == b""


# -- failures -----------------------------------------------------------------------------------


def test_a_program_that_is_missing(tmp_path: Path) -> None:
    """The path and the system's reason are told, for a path and for a name in PATH."""
    path = str(tmp_path / "missing")
    assert refused(path).how == f"could not execute {path}: No such file or directory"
    ended = refused("no-such-program-anywhere")
    assert ended.how == "could not execute no-such-program-anywhere: No such file or directory"


def test_a_program_is_looked_for_in_its_own_path(tmp_path: Path) -> None:
    """PATH of the program's environment counts, not the master's."""
    program = tmp_path / "here"
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    ended = outcome(lambda fd: Launch(["here"], {"PATH": str(tmp_path)}, stdout=fd))
    assert (ended.how, ended.output) == ("exited with status 0", "found\n")


def test_a_program_that_is_not_executable(tmp_path: Path) -> None:
    """A file without the x bit, and a directory, are refused with the reason."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    assert refused(str(program)).how == f"could not execute {program}: Permission denied"
    assert refused(str(tmp_path)).how == f"could not execute {tmp_path}: Permission denied"


def test_a_program_of_the_wrong_format(tmp_path: Path) -> None:
    """No shell guesses what a file without a first line might be."""
    program = tmp_path / "program"
    program.write_text("echo hello\n")
    program.chmod(0o755)
    ended = refused(str(program))
    reason = "Exec format error (no #! line, or built for another machine)"
    assert ended.how == f"could not execute {program}: {reason}"


def test_a_program_whose_interpreter_is_missing(tmp_path: Path) -> None:
    """The riddle "no such file" for a file that is there is explained."""
    program = tmp_path / "program"
    program.write_text("#!/no/such/python\n")
    program.chmod(0o755)
    ended = refused(str(program))
    reason = "No such file or directory (the interpreter in its first line does not exist)"
    assert ended.how == f"could not execute {program}: {reason}"


def test_a_directory_that_is_missing(tmp_path: Path) -> None:
    """The directory is named, not the program."""
    gone = str(tmp_path / "gone")
    ended = refused("true", directory=gone)
    assert ended.how == f"could not enter directory {gone}: No such file or directory"


@pytest.mark.parametrize(
    ("argv", "environ"),
    [(["true", "a\0b"], ENVIRON), (["true"], {**ENVIRON, "A": "a\0b"}), (["true"], {"A=B": "1"})],
)
def test_what_no_program_can_be_told(argv: list[str], environ: dict[str, str]) -> None:
    """A zero byte or an impossible variable is an end with a reason, and not a second master."""
    ended = refused(*argv, environ=environ)
    assert ended.how.startswith("could not execute true: ")


def test_more_than_fits_is_told() -> None:
    """Arguments beyond the system's limit fail with its reason."""
    ended = refused("true", "x" * (256 * 1024))
    assert ended.how == "could not execute true: Argument list too long"


def test_descriptors_that_do_not_fit_are_told() -> None:
    """A child that may not have as many descriptors as it is to get says so."""

    def run() -> tuple[str, int]:
        house = House()
        limit = max(int(name) for name in os.listdir("/proc/self/fd") if int(name) < 500) + 4
        fds = [1] * (limit - 3)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        house.spawn(Launch(["true"], ENVIRON, fds=fds))
        return house.wait()

    how, status = apart(run)
    assert how.startswith("could not set up")
    assert how.endswith(("Too many open files", "Invalid argument"))  # fcntl(2), F_DUPFD
    assert status == 127


def test_the_helpers_of_libc_report_errors() -> None:
    """A prctl(2) that the kernel refuses is an OSError with its number."""
    with pytest.raises(OSError, match="Invalid argument") as caught:
        libc.prctl(9999, 0)
    assert caught.value.errno == 22
    fd = libc.signalfd([signal.SIGUSR1])
    assert not os.get_inheritable(fd)
    assert not os.get_blocking(fd)
    assert not stat.S_ISSOCK(os.fstat(fd).st_mode)
    os.close(fd)
