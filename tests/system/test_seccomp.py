"""The filter lets the right calls wait, and what is answered is what the program gets."""

from __future__ import annotations

import errno
import os
import platform
import select
import signal
import socket
import struct
from pathlib import Path

import pytest

from overseer_py.system import seccomp
from tests.system.snared import snared

ALLOW, NOTIFY = 0x7FFF0000, 0x7FC00000
MACHINES = sorted(seccomp._MACHINES)  # noqa: SLF001 - each is tested, wherever the tests run
INET, NETLINK = 16, 12  # lengths of addresses


def judge(program: bytes, arch: int, number: int, length: int = INET) -> int:
    """Run a filter as the kernel would; return what it says to this call."""
    data = struct.pack("=iIQ6Q", number, arch, 0, 3, 0x7F00, length, 0, 0, 0)
    instructions = list(struct.iter_unpack("=HBBI", program))
    place = loaded = 0
    while True:
        code, if_true, if_false, operand = instructions[place]
        place += 1
        match code:
            case 0x20:
                loaded = struct.unpack_from("=I", data, operand)[0]
            case 0x15:
                place += if_true if loaded == operand else if_false
            case 0x06:
                return int(operand)
            case _:
                raise AssertionError(f"code {code:#x}")


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, ...]:
    """Be on that machine; give its architecture and its numbers of bind, listen and unlinkat."""
    arch, number, calls = seccomp._MACHINES[request.param]  # noqa: SLF001
    monkeypatch.setattr(seccomp, "_ARCHITECTURE", arch)
    monkeypatch.setattr(seccomp, "_SECCOMP", number)
    monkeypatch.setattr(seccomp, "_CALLS", calls)
    return (
        arch,
        *({name: nr for nr, name in calls.items()}[o] for o in ("bind", "listen", "unlinkat")),
    )


@pytest.mark.parametrize("paths", [False, True])
def test_which_calls_wait(machine: tuple[int, ...], paths: bool) -> None:
    """bind, listen, and unlink if paths are kept; nothing else, and nothing foreign."""
    arch, bind, listen, unlinkat = machine
    program = seccomp.program(paths=paths)
    waiting = {nr for nr in range(512) if judge(program, arch, nr) == NOTIFY}
    assert {bind, listen} <= waiting
    assert (unlinkat in waiting) == paths
    names = {seccomp._CALLS[nr] for nr in waiting}  # noqa: SLF001
    assert names <= {"bind", "listen", "unlink", "unlinkat"}
    assert judge(program, arch, bind, NETLINK) == ALLOW  # every getaddrinfo(3)
    assert judge(program, arch ^ 1, bind) == ALLOW
    assert judge(program, arch, bind | 0x40000000) == ALLOW  # x32


def test_this_machine_can() -> None:
    """There is nothing in the way here, or the other tests say nothing."""
    assert seccomp.obstacle() == ""


def test_an_unknown_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose numbers are not known is named."""
    monkeypatch.setattr(seccomp, "_CALLS", {})
    assert platform.machine() in seccomp.obstacle()


def bind_somewhere() -> None:
    """Bind and listen, and be sure that both was done."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        assert sock.getsockname()[1]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_what_proceeds_is_as_ever() -> None:
    """A call that is let through does what it does without anybody looking."""
    with snared(bind_somewhere) as child:
        assert child.pass_on() == ["bind", "listen"]
        assert child.status() == 0


def test_an_answer_is_the_programs_result() -> None:
    """An errno, or 0 for something that was not done."""

    def run() -> None:
        with socket.socket() as sock:
            with pytest.raises(PermissionError):
                sock.bind(("127.0.0.1", 0))
            sock.bind(("127.0.0.1", 0))
            assert sock.getsockname()[1] == 0

    with snared(run) as child:
        child.trap.answer(child.call(), errno.EACCES)
        child.trap.answer(child.call())
        assert child.status() == 0


def test_the_first_answer_counts() -> None:
    """A second one harms nobody."""

    def run() -> None:
        with socket.socket() as sock, pytest.raises(PermissionError):
            sock.bind(("127.0.0.1", 0))

    with snared(run) as child:
        call = child.call()
        child.trap.answer(call, errno.EACCES)
        child.trap.answer(call)
        child.trap.proceed(call)
        assert child.status() == 0


@pytest.mark.parametrize("cloexec", [False, True])
def test_another_file_takes_the_place(cloexec: bool) -> None:
    """The program's descriptor is the test's socket from then on, with the flag it had."""
    with socket.create_server(("127.0.0.1", 0)) as ours:
        place = ours.getsockname()

        def run() -> None:
            with socket.socket() as sock:
                sock.bind(("127.0.0.1", 1))
                assert sock.getsockname() == place
                assert os.get_inheritable(sock.fileno()) != cloexec

        with snared(run) as child:
            call = child.call()
            child.trap.put(call, ours.fileno(), call.arguments[0], cloexec=cloexec)
            child.trap.answer(call)
            assert child.status() == 0


def test_descendants_wait_too_and_the_last_one_ends_it() -> None:
    """The filter is inherited; the end is the end of the whole tree."""

    def run() -> None:
        if os.fork() == 0:
            bind_somewhere()
            os._exit(0)

    with snared(run) as child:
        os.waitpid(child.pid, 0)  # the parent has gone, and its child waits
        call = child.call()
        assert call.thread != child.pid
        assert child.trap.is_valid(call)
        child.trap.proceed(call)
        assert child.pass_on() == ["listen"]
        assert child.events() == select.POLLHUP


def test_a_caller_that_is_killed() -> None:
    """Its call is not valid any more, and an answer to it harms nobody."""
    with snared(bind_somewhere) as child:
        call = child.call()
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        assert not child.trap.is_valid(call)
        child.trap.answer(call)
        child.trap.proceed(call)
        with pytest.raises(FileNotFoundError):
            child.trap.put(call, 0, 0, cloexec=False)
        assert child.events() == select.POLLHUP


def test_a_call_that_has_gone_before_it_was_read() -> None:
    """A caller that is killed early leaves nothing to wait for."""
    with snared(bind_somewhere) as child:
        assert child.events() & select.POLLIN
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        assert child.trap.receive() is None


def test_who_would_gain_privileges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setuid program, by its file; and nobody, without CAP_SYS_ADMIN."""
    plain, setuid = tmp_path / "plain", tmp_path / "setuid"
    for path, mode in ((plain, 0o755), (setuid, 0o4755)):
        path.touch()
        path.chmod(mode)
    assert seccomp.gains(str(setuid))
    assert not seccomp.gains(str(plain))
    assert not seccomp.gains(str(tmp_path / "nothing"))
    monkeypatch.setattr("overseer_py.system.procfs.capabilities", set)
    assert seccomp.is_for_ever(as_another=False)
    monkeypatch.setattr("overseer_py.system.procfs.capabilities", lambda: {21})
    assert not seccomp.is_for_ever(as_another=False)
    assert seccomp.is_for_ever(as_another=True)
