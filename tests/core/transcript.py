"""Stories: a text that drives a fleet, with the fleet's answers written into it.

A line that begins with a time is an event; the indented lines below it are what the fleet
does about it, every action in its order::

    5   rollout deploy
            rollout-started 2 reason=deploy workers=1
            spawn 2/0#1

Three reports are left out, because the line beside them says the same: ``worker-ready``,
``worker-quieting`` and ``worker-draining``.
"""

from __future__ import annotations

import re

from overseer_py.core.fleet import Fleet
from overseer_py.core.messages import (
    Action,
    BecameQuiet,
    BecameReady,
    BecameUnhealthy,
    CutOver,
    Divert,
    Drain,
    Event,
    Exited,
    Extended,
    Kill,
    Park,
    Quit,
    Report,
    Retire,
    RolloutRequested,
    ScaleRequested,
    Spawn,
    StopRequested,
    TimePassed,
    WorkerId,
)
from overseer_py.core.policy import Canary, OnExit, Policy

ECHOES = {"worker-ready", "worker-quieting", "worker-draining"}
MOST_ROUNDS = 50  # about ten are needed
SURGES = {"all": None, "exclusive": 0}


class BoundedFleet(Fleet):
    """A fleet whose joint rules must come to an end, lest a test never does."""

    rounds = 0  # of joint rules for the present event

    def handle(self, event: Event, now: float) -> list[Action]:
        """Do as the fleet does, in few rounds."""
        self.rounds = 0
        return super().handle(event, now)

    def _advance(self, now: float) -> bool:
        self.rounds += 1
        assert self.rounds < MOST_ROUNDS, "the joint rules go round in circles"
        return super()._advance(now)


class Story:
    """One fleet and what happens to it."""

    def __init__(self, draw: float = 0.5) -> None:
        """``draw`` is every random number of the story; 0.5 makes no jitter at all."""
        self.fleet = BoundedFleet(lambda: draw)

    def tells(self, text: str) -> None:
        """Send the events of the text to the fleet; its answers must be those of the text."""
        told = [line.split(maxsplit=1) for line in text.strip().splitlines()]
        events = [(words[0], words[1]) for words in told if words[0][0].isdigit()]
        assert self.answers(events) == _aligned(text)

    def answers(self, events: list[tuple[str, str]]) -> str:
        """Send the events to the fleet and return the transcript."""
        lines: list[str] = []
        for at, what in events:
            lines.append(f"{at:<8}{what}")
            lines += [f"{'':12}{line}" for line in self.happens(float(at), what)]
        return "\n".join(lines)

    def happens(self, at: float, what: str) -> list[str]:
        """Send one event to the fleet; return its answer, an action a line."""
        actions = self.fleet.handle(read(what), at)
        return [write(action) for action in actions if not _echoes(action)]


def serving(options: str = "", draw: float = 0.5) -> Story:
    """Return the story of a service that was started at 0 and is ready since then."""
    story = Story(draw)
    story.happens(0.0, f"rollout start {options}")
    current = story.fleet.roster.current
    assert current
    for worker in list(current.workers.values()):
        story.happens(0.0, f"ready {worker.id}")
    assert story.fleet.ever_ready
    return story


def read(what: str) -> Event:
    """Return the event that these words mean."""
    match what.split():
        case ["rollout", reason, *options]:
            return _rollout(reason, options)
        case ["scale", "to", size]:
            return ScaleRequested(int(size))
        case ["stop", *hurry]:
            return StopRequested(drain=hurry != ["now"])
        case ["time", "passes"]:
            return TimePassed()
        case [verb, worker, *rest]:
            return _news(verb, _worker(worker), rest)
    message = f"no event: {what}"
    raise ValueError(message)


def write(action: Action) -> str:
    """Return the action in words."""
    match action:
        case Report(name, generation, worker, facts):
            about = str(worker or generation or "")
            words = [name, about, *(f"{key}={_fact(value)}" for key, value in facts.items())]
            return " ".join(word for word in words if word)
        case Spawn(worker) | Retire(worker) | Drain(worker) | Kill(worker):
            return f"{type(action).__name__.lower()} {worker}"
        case CutOver(generation):
            return f"cut-over {generation}"
        case Park():
            return "park" + " (served)" * action.served
        case Divert(generation, percent):
            return f"divert {generation} {percent}"
        case Quit(status):
            return f"quit {status}"


def _rollout(reason: str, options: list[str]) -> RolloutRequested:
    reversible = "reversible" in options
    given = dict(option.split("=") for option in options if option != "reversible")
    size = int(given.pop("workers", 0)) or None
    policy = Policy(**{key: _setting(key, value) for key, value in given.items()})  # type: ignore[arg-type]
    return RolloutRequested(reason, policy if given else None, size, reversible)


def _news(verb: str, worker: WorkerId, rest: list[str]) -> Event:
    match verb, rest:
        case "ready", []:
            return BecameReady(worker)
        case "quiet", []:
            return BecameQuiet(worker)
        case "unhealthy", []:
            return BecameUnhealthy(worker, "is unhealthy")
        case "extended", ["by", seconds]:
            return Extended(worker, float(seconds))
        case "exited", [status]:
            return Exited(worker, f"exited {status}", int(status))
    message = f"no news of a worker: {verb} {rest}"
    raise ValueError(message)


def _setting(key: str, value: str) -> float | OnExit | Canary | None:
    match key:
        case "surge":
            return SURGES[value] if value in SURGES else int(value)
        case "canary":
            percent, _, seconds = value.partition(":")
            return Canary(int(percent), float(seconds)) if seconds else None
        case "on_exit":
            return OnExit(value)
        case "steered" | "parked":
            return value == "1"
        case "max_crashes":
            return int(value)
    return float(value)


def _worker(text: str) -> WorkerId:
    generation, slot, launch = re.split("[/#]", text)
    return WorkerId(int(generation), int(slot), int(launch))


def _fact(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case str() if " " in value:
            return f'"{value}"'
    return str(value)


def _echoes(action: Action) -> bool:
    return isinstance(action, Report) and action.name in ECHOES


def _aligned(text: str) -> str:
    """Return the text as ``answers`` would align it; how a test indents it is its own affair."""
    lines = []
    for line in text.strip().splitlines():
        first, _, rest = line.strip().partition(" ")
        event = first[0].isdigit()
        lines.append(f"{first:<8}{rest.strip()}" if event else f"{'':12}{line.strip()}")
    return "\n".join(lines)
