"""``draining`` is set by the signal, in every form, and keeps it from nobody who handled it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping

import pytest

from tests.master import PATIENCE, program


def drains(
    how: str,
    environ: Mapping[str, str] | None = None,
    number: signal.Signals = signal.SIGTERM,
) -> tuple[list[str], int, str]:
    """Run the program, send the signal once it is ready; return its lines, status and stderr."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OVERSEER_", "NOTIFY_"))}
    with subprocess.Popen(
        program("worker_drains", how),
        env={**kept, **(environ or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stderr
        try:
            first = process.stdout.readline().strip()
            assert first.startswith("ready"), first
            process.send_signal(number)
            out, err = process.stdout.read(), process.stderr.read()
        except BaseException:
            process.kill()
            raise
    return [first, *out.splitlines()], process.wait(PATIENCE), err


def lines_of(how: str, **environ: str) -> list[str]:
    """Return what the program says once it is time; it ends by itself, and complains of nothing."""
    lines, status, err = drains(how, environ)
    assert (status, err) == (0, "")
    return lines[1:]


@pytest.mark.parametrize(
    ("how", "said"),
    [("event", ["waited True"]), ("polls", ["set"]), ("awaits", ["awaited"])],
)
def test_forms(how: str, said: list[str]) -> None:
    """It is an event, a flag, an awaitable; the program ends by itself."""
    assert lines_of(how) == [*said, "end"]


def test_callbacks() -> None:
    """Each is called in a thread, also a late one; one that fails is seen, and harms no other."""
    lines, status, err = drains("calls")
    assert status == 0
    assert sorted(lines[1:]) == ["called thread", "end", "late True"]
    assert "RuntimeError: a callback of the program's" in err


def test_who_gives_up_waiting_leaves_nothing() -> None:
    """An await that is cancelled is forgotten."""
    lines, status, _ = drains("gives_up_and_awaits")
    assert (lines, status) == (["ready 0", "awaited", "end"], 0)


@pytest.mark.parametrize("how", ["handler_before", "handler_after", "handler_twice"])
def test_the_programs_own_handler_is_called(how: str) -> None:
    """Once, whether it was installed before ours or after."""
    assert sorted(lines_of(how)) == ["end", "own handler begun", "waited True"]


def test_a_handler_may_raise() -> None:
    """It runs in the main thread, as ever."""
    lines, status, _ = drains("handler_raises")
    assert status == 7
    assert "end" not in lines


def test_an_event_loops_handler_is_called() -> None:
    """Not before nothing holds it any more, though the loop hears of signals on its own."""
    assert lines_of("loops_handler") == ["in time", "loop's handler", "end"]


def test_from_another_thread() -> None:
    """Whoever asks first need not be the main thread."""
    assert "waited True" in lines_of("other_thread")


def test_from_another_thread_with_a_handler() -> None:
    """Nor is the program's own handler lost then."""
    assert {"waited True", "own handler begun"} <= set(lines_of("thread_before_main"))


def test_a_program_that_waits_for_the_signal_itself() -> None:
    """It says when it is time."""
    assert sorted(lines_of("blocked")) == ["called", "end", "waited True"]


def test_a_server_that_nobody_ends() -> None:
    """With a middleware and no handler the process ends as by sys.exit(), when nothing holds it."""
    assert lines_of("lingers") == ["called", "cleaned up"]


def test_the_second_signal_is_passed_on_at_once() -> None:
    """Somebody is impatient, or the master has died: the linger is over."""
    with subprocess.Popen(
        program("worker_drains", "impatient"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.readline() == "called\n"  # the drain has begun
        process.terminate()
        assert process.stdout.readline() == "own handler begun\n"
        process.communicate("\n", timeout=PATIENCE)


def test_a_forked_child_ends_of_the_signal() -> None:
    """What multiprocessing forks and terminates is no server."""
    lines, *_ = drains("forked_child")
    assert lines == ["ready", f"child {-signal.SIGTERM}", "end"]


def test_a_forked_child_may_drain() -> None:
    """If it asks for it: so do the workers of servers that fork."""
    assert lines_of("forked_server") == ["child 9", "end"]


def test_the_deadline_is_the_masters() -> None:
    """It counts from the signal; before that it is not known."""
    lines, status, _ = drains("deadline", {"OVERSEER_DRAIN_SECONDS": "40"})
    assert status == 0
    assert lines == ["ready None None", "in time True True", "end"]


def test_no_deadline_without_a_master() -> None:
    """Nobody says how long it may take."""
    assert lines_of("no_deadline") == ["None None", "end"]


@pytest.mark.parametrize("name", ["USR1", "SIGUSR1", "10", "usr1"])
def test_another_signal(name: str) -> None:
    """The one that the master uses is heeded, however it is written."""
    lines, status, _ = drains("number", {"OVERSEER_DRAIN_SIG": name}, signal.SIGUSR1)
    assert (lines[1:], status) == (["waited True", "end"], 0)


def test_term_ends_us_if_it_is_another_signal() -> None:
    """TERM has its own meaning then."""
    _, status, _ = drains("number", {"OVERSEER_DRAIN_SIG": "USR1"})
    assert status == -signal.SIGTERM
