"""A container without an engine: PID 1 of namespaces of its own, on a root that may be read-only.

What the shipped examples say is done to the letter: the entry point of the Containerfile becomes
PID 1 by execve(2), the probes run beside it as `docker exec` and the kubelet would run them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tests.master import OVERSEER, PATIENCE, ROOT, Master
from tests.needs import cannot, need

RUN = "size=1m,mode=0755,uid=65532,gid=65532"  # a tmpfs for the user of the examples

T = TypeVar("T")

_UNSHARE = ["--mount", "--pid", "--fork", "--mount-proc"]
_DROPPED = ["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]

# What is mounted below the root is as read-only as the root; /proc stays what it is.
_READ_ONLY = """
for place in $(findmnt -rno TARGET); do
    case $place in /proc | /proc/*) ;; *) mount -o remount,bind,ro "$place" ;; esac
done"""


@dataclass(frozen=True)
class Image:
    """What a container is made of, beside this machine's files."""

    entry: Sequence[str] = ("overseer", "run")  # all of the command up to the word ``run``
    env: Mapping[str, str] = field(default_factory=dict)
    uid: int = 0  # another one has no capabilities, and gets none
    read_only: bool = False
    run: str = "mode=0755"  # options of a tmpfs on /run (tmpfs(5)); empty: there is none
    prepare: str = ""  # a script for what else is to be there, as root


def instruction(name: str) -> str:
    """Return what the one instruction of that name in the shipped Containerfile says."""
    lines = (ROOT / "examples" / "Containerfile").read_text().splitlines()
    (found,) = [line for line in lines if line.startswith(f"{name} ")]
    return found.removeprefix(f"{name} ").strip()


def shipped(**other: Any) -> Image:
    """Return the image of the shipped Containerfile, or one that is ``other`` in some respect.

    The directory that it makes below /run is in a tmpfs here: this machine's /run is its own.
    """
    entry = json.loads(instruction("ENTRYPOINT"))
    variable, _, value = instruction("ENV").partition("=")
    uid = int(instruction("USER").partition(":")[0])
    return replace(Image(entry, {variable: value}, uid, run=RUN), **other)


class Container(Master):
    """``overseer run`` as PID 1."""

    def __init__(self, tmp_path: Path, image: Image, *arguments: str) -> None:
        if os.geteuid() != 0:
            cannot("only root can make namespaces of all kinds")
        self._user = _user(image.uid)
        self._env = {"PATH": f"{OVERSEER.parent}:{os.environ['PATH']}", **image.env}
        self._inner = 0
        # What follows the script as arguments begins with: python -m overseer_py run
        become = f'shift 4\nexec {shlex.join([*self._user, *image.entry])} "$@"'
        wrapper = [need("unshare"), *_UNSHARE, "sh", "-ec", f"{furnish(image)}\n{become}", "-"]
        super().__init__(tmp_path, *arguments, env=self._env, wrapper=wrapper)

    @property
    def pid(self) -> int:
        """The pid of the container's PID 1, as it is outside."""
        if not self._inner and until(self._begun):
            self._inner = _child(self.process.pid)
        return self._inner or self.process.pid  # it has not come so far

    def _begun(self) -> bool:
        return bool(_child(self.process.pid)) or self.process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to PID 1, as an engine does: from outside."""
        os.kill(self.pid, number)

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it to its end, as ``docker exec``: the image's user and variables."""
        words = [need("nsenter"), f"--target={self.pid}", "--mount", "--pid", *self._user, *command]
        return subprocess.run(
            words,
            check=False,
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def holds(self, number: signal.Signals) -> bool:
        """Whether PID 1 is the entry point, or more, and blocks a signal."""
        # Only then: shells block all of them for a moment when they start a program.
        begun = self.executes("env", "tini", "python")
        return begun and bool(_mask(self.pid, "SigBlk") >> (number - 1) & 1)

    def ignores(self, number: signal.Signals) -> bool:
        """Whether PID 1 ignores a signal."""
        return bool(_mask(self.pid, "SigIgn") >> (number - 1) & 1)

    def pending(self, number: signal.Signals) -> bool:
        """Whether a signal waits for PID 1; a dropped one does not."""
        return bool(_mask(self.pid, "ShdPnd") >> (number - 1) & 1)

    def progress(self) -> int:
        """Return how many pages PID 1 has touched: a clock of what it has done, not of time."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[7])  # minflt, proc_pid_stat(5)

    def executes(self, *programs: str) -> bool:
        """Whether PID 1 has become one of these, of whatever version."""
        try:
            return Path(os.readlink(f"/proc/{self.pid}/exe")).name.startswith(programs)
        except FileNotFoundError:
            return False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:  # with PID 1 all in it; --kill-child ends at setuid(2)
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        super().__exit__(kind, error, trace)


def _user(uid: int) -> list[str]:
    return [need("setpriv"), f"--reuid={uid}", f"--regid={uid}", *_DROPPED] if uid else []


def furnish(image: Image) -> str:
    """Return the script that makes of a mount namespace what the image says."""
    steps = ["unset XDG_RUNTIME_DIR RUNTIME_DIRECTORY"]  # the test's own
    steps += [f"export {name}={shlex.quote(value)}" for name, value in image.env.items()]
    if image.uid:
        steps.append(reachable(ROOT, sys.prefix, sys.base_prefix))
    if image.read_only:
        steps.append(_READ_ONLY)
    if image.run:
        steps.append(f"mount -t tmpfs -o {image.run} run /run")
    return "\n".join([*steps, image.prepare])


def until(look: Callable[[], T]) -> T:
    """Look again and again until what is seen is true; return it."""
    give_up_at = time.monotonic() + PATIENCE
    while not (seen := look()):
        assert time.monotonic() < give_up_at, "it never happened"
    return seen


def rest_of(connection: socket.socket) -> str:
    """Finish half a request, and return the whole answer."""
    connection.sendall(b"\r\n")
    with connection.makefile(errors="replace") as answer:
        return answer.read()


def reachable(*paths: str | Path) -> str:
    """Return a script that lets everybody reach these, in the mount namespace that it runs in.

    The interpreter and the checkout may lie in somebody's home.  A directory on the way that is
    closed to others is covered by one that is not, with nothing in it but those paths.
    """
    closed: dict[Path, list[Path]] = {}
    for path in map(Path, paths):
        for parent in reversed(path.parents):
            if not parent.stat().st_mode & 0o001:
                closed.setdefault(parent, []).append(path)
                break
    lines = ["", "mount -t tmpfs aside /mnt"]
    for number, (parent, hidden) in enumerate(closed.items()):
        for index, path in enumerate(hidden):
            aside = f"/mnt/{number}-{index}"
            lines.append(f"mkdir {aside} && mount --bind {path} {aside}")
        lines.append(f"mount -t tmpfs -o mode=0755 cover {parent}")
        for index, path in enumerate(hidden):
            lines.append(f"mkdir -p {path} && mount --move /mnt/{number}-{index} {path}")
    return "\n".join([*lines, "umount /mnt"])


def _child(pid: int) -> int:
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return 0
    return int(words[0]) if words else 0


def _mask(pid: int, which: str) -> int:
    try:
        found = re.search(rf"{which}:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:  # it has ended
        return 0
    return int(found[1], 16) if found else 0
