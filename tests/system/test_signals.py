"""Signals are read, with their sender."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from overseer_py.system import signals
from overseer_py.system.signals import Caught, SignalQueue, name_of, sender_of
from tests.master import PATIENCE
from tests.system.apart import apart


def read(queue: SignalQueue, count: int) -> list[Caught]:
    """Wait for this many signals."""
    caught: list[Caught] = []
    while len(caught) < count:
        assert select.select([queue.fd], [], [], PATIENCE)[0]
        caught += queue.read()
    return caught


def test_nothing_to_read_is_an_empty_list() -> None:
    """A look at an empty queue does not wait."""

    def run() -> list[Caught]:
        queue = SignalQueue()
        assert not os.get_inheritable(queue.fd)
        return queue.read()

    assert apart(run) == []


def test_the_sender_is_known() -> None:
    """A signal comes with the pid of whoever sent it, and its command."""

    def run() -> None:
        queue = SignalQueue()
        code = f"import os; os.kill({os.getpid()}, 10); input()"
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as sender:
            (caught,) = read(queue, 1)
            assert caught == Caught(signal.SIGUSR1, sender.pid)
            assert caught.name == "USR1"
            found = sender_of(caught)
            assert found["pid"] == sender.pid
            assert str(found["command"]).startswith(f"{sys.executable} -c import os; os.kill(")
            assert len(str(found["command"])) <= 120
            sender.communicate(b"\n")
        assert sender_of(caught) == {"pid": sender.pid, "command": "(gone)"}

    apart(run)


def test_the_kernel_is_a_sender() -> None:
    """A timer's signal has no pid."""

    def run() -> Caught:
        queue = SignalQueue()
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        return read(queue, 1)[0]

    caught = apart(run)
    assert caught == Caught(signal.SIGALRM, None)
    assert sender_of(caught) == {"sender": "kernel"}


def test_several_signals_are_read_together() -> None:
    """Different signals are all there; of one that came twice there is one (signal(7))."""

    def run() -> list[Caught]:
        queue = SignalQueue()
        for number in (signal.SIGHUP, signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2):
            os.kill(os.getpid(), number)
        return read(queue, 3) + queue.read()

    caught = apart(run)
    assert sorted(one.name for one in caught) == ["HUP", "TERM", "USR2"]


def test_more_than_one_read_takes_are_not_lost() -> None:
    """Real-time signals queue: what one look leaves, the next one has."""

    def run() -> tuple[int, int]:
        queue = SignalQueue()
        for _ in range(100):
            os.kill(os.getpid(), signal.SIGRTMIN + 1)
        first = queue.read()
        return len(first), len(first) + len(read(queue, 100 - len(first)))

    first, every = apart(run)
    assert 0 < first < 100
    assert every == 100


def test_what_came_before_the_queue_waits_in_it() -> None:
    """A signal during the start is read later: it is blocked before anything slow."""

    def run() -> list[Caught]:
        signals.block_all()
        os.kill(os.getpid(), signal.SIGTERM)
        return read(SignalQueue(), 1)

    assert [caught.name for caught in apart(run)] == ["TERM"]


def test_the_end_of_a_child_is_a_signal() -> None:
    """SIGCHLD is read also if whoever started us ignored it."""

    def run() -> tuple[str, int]:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        queue = SignalQueue()
        pid = os.fork()
        if pid == 0:
            os._exit(7)
        (caught,) = read(queue, 1)
        return caught.name, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert apart(run) == ("CHLD", 7)


def test_a_broken_pipe_is_an_error_and_no_signal() -> None:
    """SIGPIPE is ignored, even if it was not at the start."""

    def run() -> list[Caught]:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        queue = SignalQueue()
        reader, writer = os.pipe()
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            os.write(writer, b"x")
        return queue.read()

    assert apart(run) == []


def test_a_fault_is_not_kept_waiting() -> None:
    """A master with a defect ends, and a stop from the terminal stops it."""

    def run() -> set[int]:
        SignalQueue()
        return {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])}

    blocked = apart(run)
    assert not blocked & {signal.SIGSEGV, signal.SIGABRT, signal.SIGTSTP, signal.SIGPIPE}
    assert blocked >= {signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT}
    assert signals.SERVED >= signals.FORWARDED


def test_names() -> None:
    """Every signal has a name; a real-time one by its distance from the first."""
    assert name_of(signal.SIGTERM) == "SIGTERM"
    assert name_of(signal.SIGRTMIN + 3) == "SIGRTMIN+3"
    assert Caught(signal.SIGRTMIN + 3, 0).name == "RTMIN+3"
    for number in signal.valid_signals():
        assert name_of(number).startswith("SIG")
