"""One worker's process, and what the master keeps of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from overseer_py.core.messages import WorkerId
from overseer_py.output import KeptOutput, Output
from overseer_py.recipe import Recipe
from overseer_py.system.process import KeptProcess, Process
from overseer_py.watches import KeptRule, Rule
from overseer_py.words import KeptWords, Words


@dataclass(frozen=True, slots=True)
class KeptMember:
    """A worker's process, for the master's next image."""

    worker: WorkerId
    process: KeptProcess
    rule: KeptRule
    words: KeptWords
    output: KeptOutput
    started: float
    ready: float | None
    status: str
    stopping: bool


@dataclass(frozen=True, slots=True)
class KeptCrew:
    """All workers that there are, and the last lines of those that there were."""

    members: list[KeptMember]
    last_words: list[tuple[WorkerId, list[str]]]


@dataclass(slots=True)
class Member:
    """One worker's process, and what the master keeps of it."""

    worker: WorkerId
    recipe: Recipe
    process: Process
    rule: Rule
    words: Words
    output: Output
    started: float = field(default_factory=time.time)  # since the epoch
    ready: float | None = None  # likewise
    status: str = ""  # what it said of itself with STATUS=
    stopping: bool = False  # it said STOPPING=1

    def kept(self) -> KeptMember:
        """Return what the master's next image must know."""
        return KeptMember(
            self.worker,
            self.process.kept(),
            self.rule.kept(),
            self.words.kept(),
            self.output.kept(),
            self.started,
            self.ready,
            self.status,
            self.stopping,
        )
