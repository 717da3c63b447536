"""A real systemd in a box of its own, with the shipped units."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.master import HELLO, OVERSEER, PATIENCE, ROOT

SDBOX = str(ROOT / "tests" / "sdbox.sh")
CANNOT = 77  # exit status of sdbox.sh where there can be no systemd in a box
UNITS = ROOT / "systemd"
UNIT_NAMES = {
    "overseer@.service": "overseer@app.service",  # a template is checked as one of its instances
    "overseer-example.service": "overseer-example.service",
    "overseer-example.socket": "overseer-example.socket",
}
DROP_INS = ("hardening.conf",)

# The interpreter and the checkout may lie in somebody's home, which the units hide.
SEEN = f"[Service]\nProtectHome=tmpfs\nBindReadOnlyPaths={ROOT} {sys.prefix} {sys.base_prefix}\n"


class Box:
    """A systemd of its own that sees this machine's files and keeps its hands off them."""

    def __init__(self, directory: Path, wrapper: Sequence[str] = ()) -> None:
        """Boot it; ``wrapper`` is a command to put in front, such as unshare."""
        self._directory = directory
        self.units = directory / "units"
        self.units.mkdir()
        mounted = [str(path) for path in (ROOT, sys.prefix, sys.base_prefix) if _mounted(path)]
        self._process = subprocess.Popen(
            [*wrapper, SDBOX, "boot", str(directory), *mounted],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        if self._process.stdout.readline() != "up\n":
            why = self.close()
            if self._process.returncode == CANNOT:
                pytest.skip(why)
            raise AssertionError(why)

    def run(self, *command: str, check: bool = True, patience: float = PATIENCE) -> str:
        """Run a command inside; return its output."""
        words = [SDBOX, "run", str(self._directory), *command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=patience, check=False)
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.stderr}\n{self.run('journalctl', '-n100')}")
        return done.stdout.strip()

    def begin(self, *command: str) -> subprocess.Popen[bytes]:
        """Begin a command inside; return who waits for its end."""
        return subprocess.Popen([SDBOX, "run", str(self._directory), *command])

    @property
    def pid(self) -> int:
        """Its systemd, as this machine knows it."""
        return int((self._directory / "pid").read_text())

    def show(self, unit: str) -> dict[str, str]:
        """Return the properties of a unit."""
        lines = self.run("systemctl", "show", unit).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def saw(self, unit: str, **properties: str) -> dict[str, str]:
        """Wait until a unit has these properties; return all of them."""
        give_up_at = time.monotonic() + PATIENCE
        while time.monotonic() < give_up_at:
            shown = self.show(unit)
            if properties.items() <= shown.items():
                return shown
        raise AssertionError(f"{unit} is not {properties}: {self.run('journalctl', '-n100')}")

    def close(self) -> str:
        """End it; return what it complained of."""
        return self._process.communicate(timeout=PATIENCE)[1].strip()


def _mounted(path: Path | str) -> bool:
    """Whether a path is not on the root file system."""
    return not all(not parent.is_mount() for parent in [Path(path), *list(Path(path).parents)[:-1]])


# Inside, /usr/local/bin/overseer is the one under test, and whoever the service runs as may
# enter the directories on the way to it.  What was written before somebody reads the journal is in
# it: by itself it comes a moment later.  Nothing of this leaves the box.
FURNISH = """
set -e
mkdir -p /etc/overseer /srv/example/current /usr/local/bin
ln -sf "$1" /usr/local/bin/overseer
ln -sf "$2" /srv/example/current/app.py
cat >/usr/local/bin/journalctl <<'END'
#!/bin/sh
/usr/bin/journalctl --sync
exec /usr/bin/journalctl "$@"
END
chmod +x /usr/local/bin/journalctl
[ -e /usr/bin/python3 ] || ln -s "$3" /usr/bin/python3
for path in "$1" "$2" "$(readlink -f "$3")"; do
    while [ "$path" != / ]; do
        path=$(dirname "$path")
        chmod o+x "$path" 2>/dev/null || true
    done
done
"""


def boot(directory: Path) -> Box:
    """Boot a box with the shipped units in it; skip, with the reason, where there can be none."""
    box = Box(directory)
    for name in UNIT_NAMES:
        shutil.copy(UNITS / name, box.units)
    for name in ("overseer@.service", "overseer-example.service"):
        (box.units / f"{name}.d").mkdir()
        (box.units / f"{name}.d" / "seen.conf").write_text(SEEN)
    box.run("/bin/sh", "-c", FURNISH, "-", str(OVERSEER), HELLO[1], sys.executable)
    return box
