"""Guides are executed: every command of a page in docs/, as it is written there.

A page is a list of fenced blocks, in the order in which a reader meets them:

``sh``
    commands, for ``bash -euo pipefail`` as root; with a first line ``# as alice``, as that user.
    A process may be left running in the background.
``toml``, ``ini``, ``yaml``, ``desktop``
    with a first line such as ``# /etc/overseer/app.toml``: a file, written there before what
    follows.  Without it the block shows a syntax.
``text``
    what a person sees.

The machine is a systemd in a box that nobody else uses, with a network of its own (so that :8000
is free) and in it overseer, supervisord, and a copy of the checkout as the working directory.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.systemd import FURNISH, SEEN, Box
from tests.master import HELLO, OVERSEER, ROOT
from tests.needs import need

DOCS = ROOT / "docs"
_NAMES = (
    "adopt",
    "containers",
    "deploys",
    "master",
    "migrating",
    "privileges",
    "supervisord",
    "systemd",
)
GUIDES = [DOCS / f"{name}.md" for name in _NAMES]
FILES = {"toml", "ini", "yaml", "desktop"}
LANGUAGES = {"sh", "text", *FILES}

_FENCE = re.compile(r"^ *```(.*)$")
_PATH = re.compile(r"# (/\S+)")
_USER = re.compile(r"# as (\S+)")
_CHECKOUT = "/usr/local/src/overseer"  # where a reader's checkout is, in the box
_PARTS = ("docs", "examples", "supervisor", "systemd")  # of it, which guides refer to
_ALONE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "-"]

# What /etc/systemd/system is to a reader: systemd in the box looks for units elsewhere.
_SETTLE_IN = f"""
set -e
mkdir -p {_CHECKOUT} /etc/systemd/system
cd "$1" && cp -R {" ".join(_PARTS)} {_CHECKOUT}
chmod -R u=rwX,go=rX {_CHECKOUT}
mount --bind /run/units /etc/systemd/system
mount --bind /proc/sys/net /proc/sys/net # the settings of this network, not the host's
mount -o remount,bind,rw /proc/sys/net
for program in supervisord supervisorctl; do
    ln -sf "$2/$program" /usr/local/bin/
done
"""

# The page is the script: what is no command is left empty, so that bash names the page's own lines.
_WRITE = 'mkdir -p "$(dirname "$1")" && printf %s "$2" >"$1"'
_TRAP = """trap 'echo "$0:$LINENO: exit status $?: $BASH_COMMAND" >&2' ERR; set -E"""
_RUN = """
cd "$2"
"${@:3}" timeout 240 bash -euo pipefail "$1" >"$1.output" 2>&1 </dev/null || {
    status=$?
    cat "$1.output" >&2
    exit $status
}
"""
_ENVIRONMENT = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; ``line`` is the number of its first line behind the fence."""

    language: str
    line: int
    text: str

    @property
    def path(self) -> str:
        """Where its file is to be written; empty if it is none."""
        return self._first(_PATH) if self.language in FILES else ""

    @property
    def user(self) -> str:
        """Who runs it."""
        return self._first(_USER) or "root"

    def _first(self, pattern: re.Pattern[str]) -> str:
        found = pattern.fullmatch(self.text.partition("\n")[0])
        return found[1] if found else ""


def blocks(page: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    inside: Block | None = None
    for number, line in enumerate(page.splitlines(keepends=True), start=1):
        fence = _FENCE.match(line.rstrip("\n"))
        if inside and fence:
            yield Block(inside.language, inside.line, textwrap.dedent(inside.text))
            inside = None
        elif inside:
            inside = Block(inside.language, inside.line, inside.text + line)
        elif fence:
            inside = Block(fence[1], number + 1, "")
    if inside:
        raise ValueError(f"line {inside.line - 1}: this block has no end")


class GuideBox:
    """A machine on which nothing has been done yet, for one guide."""

    def __init__(self, directory: Path) -> None:
        for program in ("curl", "ip", "runuser", "sysctl", "unshare", "useradd"):
            need(program)
        self._box = Box(directory, _ALONE)
        self._run("/bin/sh", FURNISH, str(OVERSEER), HELLO[1], sys.executable)
        self._run("/bin/sh", _SETTLE_IN, str(ROOT), str(OVERSEER.parent))
        (self._box.units / "service.d").mkdir()
        (self._box.units / "service.d" / "seen.conf").write_text(SEEN)
        self._box.run("systemctl", "daemon-reload")

    def follow(self, page: Path) -> Iterator[Block]:
        """Do what a guide says, from its top to its end; yield each block that was executed."""
        for block in blocks(page.read_text()):
            if block.path:
                self._run("/bin/sh", _WRITE, block.path, block.text)
                yield block
            elif block.language == "sh":
                self._execute(f"/run/guide/docs/{page.name}", block)
                yield block

    def _execute(self, script: str, block: Block) -> None:
        text = _TRAP + "\n" * (block.line - 1) + block.text
        self._run("/bin/sh", _WRITE, script, text)
        words = ["env", "-i", *_ENVIRONMENT, *_as(block.user)]
        self._run("/bin/bash", _RUN, script, _CHECKOUT, *words)

    def _run(self, shell: str, script: str, *words: str) -> str:
        # Entered once more from inside: its network is its own, too.
        enter = ["nsenter", "--target", "1", "--net"]
        words = (*enter, shell, "-c", script, "-", *words)
        return self._box.run(*words, patience=300)

    def close(self) -> str:
        """End it; return what it complained of."""
        return self._box.close()


def _as(user: str) -> list[str]:
    if user == "root":
        return ["HOME=/root", "USER=root"]
    return ["runuser", "--user", user, "--", "env", f"HOME=/home/{user}", f"USER={user}"]
