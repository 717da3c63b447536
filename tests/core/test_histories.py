"""Random histories in a random world: the promises of the fleet hold after every event.

A history is a string of bytes, so that it is made fast and shrinks well.  A failing one is
printed as a transcript, ready to become a story.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from overseer_py.core.messages import WorkerId
from tests.core.process import Process
from tests.core.world import World

pytestmark = pytest.mark.timeout(900)  # thousands of them in CI, and each that fails shrinks

DEEDS = {  # what may happen, and how often
    "ready": 14,
    "obey": 10,
    "wait": 6,
    "rollout": 6,
    "release": 3,
    "crash": 5,
    "late": 3,
    "quiet": 6,
    "unhealthy": 2,
    "extend": 2,
    "reload": 4,
    "scale": 2,
    "stop": 1,
    "stop now": 1,
}
LASTING_DEEDS = {d: w for d, w in DEEDS.items() if d not in {"stop", "stop now"}}
GENTLE_DEEDS = {d: w for d, w in DEEDS.items() if d not in {"reload", "scale", "stop", "stop now"}}
PAUSES = (0.0, 0.25, 0.5, 1.0, 3.0, 8.0, 0.0, 0.0)  # seconds
ENDINGS = (["stop"], ["stop now"], ["stop", "stop"])
CONFIGURATION = {
    "workers": ["1", "2", "3"],
    "settle": ["0", "1", "3"],
    "ready_timeout": ["9", "60"],
    "steered": ["1", "1", "1", "0"],
    "parked": ["0", "1"],
    "canary": ["none", "10:2", "50:0.5"],
    "quiet_timeout": ["5", "1", "0"],
    "drain_timeout": ["2", "60"],
    "stop_delay": ["0", "5"],
    "backoff_limit": ["2", "8"],
    "max_crashes": ["0", "0", "2"],
    "probation": ["30", "3", "0"],
    "on_exit": ["restart", "restart", "restart", "restart", "restart", "exit"],
}
STEERED = CONFIGURATION | {"steered": ["1"], "canary": ["10:2", "50:8"], "on_exit": ["restart"]}
# Nothing in it ends a service or makes it smaller.
GENTLE = CONFIGURATION | {"workers": ["2", "3"], "max_crashes": ["0"], "on_exit": ["restart"]}
SURGES = ["all", "1", "2"]
STEPS = 30
LENGTH = 2 * STEPS + 2 * (len(CONFIGURATION) + 1) + 2


class Step(NamedTuple):
    """One thing that happens."""

    what: str
    which: int  # of those to which it may happen
    pause: float  # seconds before it


class History(NamedTuple):
    """All that happens in one world."""

    start: str  # the options of the service
    reload: str  # those of a reread configuration
    served: bool  # whether all is well before the first step
    rested: bool  # whether all goes well after the last one; else it is stopped as it is
    ending: list[str]
    steps: list[Step]


def histories(
    deeds: dict[str, int], surges: list[str], configuration: dict[str, list[str]]
) -> st.SearchStrategy[History]:
    """Return histories of these deeds; zero bytes are the plainest one: nothing is done."""
    chances = ["nothing", *(deed for deed, weight in deeds.items() for _ in range(weight))]
    settings = configuration | {"surge": surges}

    def decoded(history: bytes) -> History:
        rest = iter(history)
        start, reload = (
            " ".join(
                f"{key}={values[next(rest) % len(values)]}" for key, values in settings.items()
            )
            for _ in range(2)
        )
        state, ending = next(rest), ENDINGS[next(rest) % len(ENDINGS)]
        pairs = zip(rest, rest, strict=True)
        steps = [Step(chances[a % len(chances)], b // 8, PAUSES[b % 8]) for a, b in pairs]
        return History(start, reload, bool(state & 1), bool(state & 2), ending, steps)

    # One draw, not a hundred: that is ten times as many histories in the same time.
    return st.binary(min_size=LENGTH, max_size=LENGTH).map(decoded)


@given(histories(DEEDS, [*SURGES, "exclusive"], CONFIGURATION))
def test_the_promises_hold(history: History) -> None:
    """Whatever happens in whatever order; and when all goes well, the service is whole again."""
    world = World()
    with told(world):
        begin(world, history)
        for step in history.steps:
            live(world, step, history.reload)
        end(world, history)


@given(histories(DEEDS, ["exclusive"], CONFIGURATION))
def test_exclusive_generations_never_meet(history: History) -> None:
    """4. No two generations have a process at the same time, if all of them are exclusive."""
    world = World(always_exclusive=True)
    with told(world):
        begin(world, history)
        for step in history.steps:
            live(world, step, history.reload)
        end(world, history)


@given(histories(LASTING_DEEDS, ["all"], STEERED))
def test_steered_generations_hand_over(history: History) -> None:
    """8, 9. The same promises, where much is tried by a few, and many have yet to be quiet."""
    world = World()
    with told(world):
        begin(world, history._replace(served=True))
        for step in history.steps:
            live(world, step, history.reload)
        end(world, history)


@given(histories(GENTLE_DEEDS, SURGES, GENTLE))
def test_rollouts_alone_never_cost_a_ready_worker(history: History) -> None:
    """2. While nobody who is needed crashes, as many serve as before, whatever is rolled out."""
    world = World()
    with told(world):
        begin(world, history._replace(served=True))
        size = len(world.processes)
        for step in history.steps:
            live(world, step, spare=needed(world))
            if world.crowded_out:
                return  # the one promise that is stronger: what piles up is killed
            assert len(world.serving()) >= size, "2"


@contextmanager
def told(world: World) -> Iterator[None]:
    """Print the history as a transcript if it fails."""
    try:
        yield
    except BaseException:
        note(world.transcript())
        raise


def begin(world: World, history: History) -> None:
    """Start the service, and let it serve if the history begins with that."""
    world.happens(f"rollout start {history.start}")
    if history.served:
        for worker in list(world.processes):
            world.becomes_ready(worker)


def live(
    world: World, step: Step, reload: str = "", spare: frozenset[WorkerId] = frozenset()
) -> None:
    """Let one thing happen, if there is anything that it can happen to."""
    if world.quits or step.what == "nothing":
        return
    world.now += step.pause
    match step.what:
        case "late":
            late(world, step)
        case "wait":
            world.now = max(world.now, world.fleet.next_deadline() or 0)
            world.happens("time passes")
        case "rollout":
            world.happens(f"rollout {'signal' if step.which % 2 else 'watch'}")
        case "release":
            world.happens("rollout fetched reversible")
        case "reload":
            world.happens(f"rollout reload {reload}")
        case "scale":
            world.happens(f"scale to {step.which % 5}")
        case "stop" | "stop now":
            world.happens(step.what)
        case _:
            befall(world, step, spare)


def befall(world: World, step: Step, spare: frozenset[WorkerId]) -> None:
    """Let it happen to one of the processes."""
    fits: dict[str, Callable[[Process], bool]] = {
        "ready": lambda process: process.ready_at is None and not process.killed,
        "crash": lambda process: not process.asked,
        "obey": lambda process: process.asked,
        "quiet": lambda process: process.retired_at is not None and not process.killed,
        "unhealthy": lambda process: process.ready_at is not None,
        "extend": lambda _: True,
    }
    fitting = [w for w, process in world.processes.items() if fits[step.what](process)]
    worker = fitting[step.which % len(fitting)] if fitting else None
    match step.what, worker:
        case _, None:
            pass
        case "ready", worker:
            world.becomes_ready(worker)
        case "crash", worker if worker not in spare:
            world.exits(worker, 1)
        case "obey", worker:
            world.exits(worker, 0)
        case "quiet", worker if world.processes[worker].drained:
            world.late_news(f"quiet {worker}")
        case "quiet", worker:
            world.becomes_quiet(worker)
        case "unhealthy", worker:
            world.becomes_unhealthy(worker)
        case "extend", worker:
            world.happens(f"extended {worker} by {step.which}")


def late(world: World, step: Step) -> None:
    """Bring news of a process that is past."""
    if world.past:
        worker = world.past[-1 - step.which // 5 % len(world.past)]
        news = ("exited {} 1", "ready {}", "extended {} by 600", "quiet {}", "unhealthy {}")
        world.late_news(news[step.which % len(news)].format(worker))


def needed(world: World) -> frozenset[WorkerId]:
    """Return who must not crash: who serves, unless in a candidate that has yet to prove itself."""
    candidate = world.fleet.roster.candidate
    return frozenset(
        worker
        for worker, process in world.processes.items()
        if process.serves
        if not candidate or worker.generation != candidate.number or worker.slot < candidate.proven
    )


def end(world: World, history: History) -> None:
    """Ask to stop, as often as the ending says, and let the world obey."""
    if history.rested:
        world.rests()
        world.check_rest()
    for what in history.ending:
        if not world.quits:
            world.happens(what)
    world.rests()
    world.check_end()
    world.happens("stop now")  # and the end does not come again
    world.check_end()
