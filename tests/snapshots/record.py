"""Record what this version writes down at an upgrade: ``python -m tests.snapshots.record``.

To be done once for each release, just before its tag: what is recorded then must be readable for
ever (test_old_snapshots.py).  It is a real master's, in the middle of a rollout; its names and
paths are nobody's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from overseer_py import __version__

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PATIENCE = 60.0

# A master that leaves a copy of what it writes down for its next image.
MASTER = """
import sys
from pathlib import Path
from overseer_py.system import reexec

write_down = reexec.write_down

def copied(data):
    copy.write_bytes(data)
    return write_down(data)

copy = Path(sys.argv.pop(1))
reexec.write_down = copied
from overseer_py.__main__ import main
main()
"""

# Serves, says something, leaves something; its second generation is never ready.
WORKER = """
import os, socket, sys, time
from overseer_py.worker import store
print("up", file=sys.stderr, flush=True)
print("half a line", end="", flush=True)
if os.environ["OVERSEER_GENERATION"] == "2":
    time.sleep(1000)
store("cache", b"warm")
listener = socket.socket(fileno=3)
while True:
    listener.accept()[0].close()
"""


def main() -> None:
    """Run a master, bring it into the middle of a rollout, and have it write itself down."""
    place = Path(tempfile.mkdtemp(prefix="app-"))
    document = place / "document"
    (place / "app.py").write_text(WORKER)
    options = ["--name", "app", "--listen", "web=127.0.0.1:0", "--listen", f"unix:{place}/app.sock"]
    options += ["--listen", "udp:127.0.0.1:0", "--workers", "2", "--ready", "accept:web"]
    options += ["--capture", "--watch", f"{place}/app.py", "--canary", "10:30s"]
    command = [sys.executable, "-c", MASTER, str(document), "run", *options, "--log-format", "json"]
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(place)}
    worker = ["--", sys.executable, "app.py"]
    with subprocess.Popen(
        [*command, *worker], env=environ, cwd=place, stderr=subprocess.PIPE, text=True
    ) as master:
        try:
            _wait_for(master, '"watching"', '"service-ready"')
            master.send_signal(signal.SIGUSR2)
            _wait_for(master, "2/0#1", "2/1#1")
            ask = [sys.executable, "-m", "overseer_py", "upgrade-master", "app"]
            subprocess.run(ask, env=environ, check=False, cwd=ROOT, timeout=PATIENCE)
            text = document.read_text()
        finally:
            master.terminate()
            shutil.rmtree(place)
    for path in {sys.executable, os.path.realpath(sys.executable)}:
        text = text.replace(path, "/usr/bin/python3")
    text = text.replace(str(place), "/srv/app")
    text = text.replace(str(ROOT), "/usr/lib/overseer")
    (HERE / f"{__version__}.json").write_text(json.dumps(json.loads(text), indent=1) + "\n")


def _wait_for(master: subprocess.Popen[str], *words: str) -> None:
    assert master.stderr
    left, give_up_at = set(words), time.monotonic() + PATIENCE
    while left and time.monotonic() < give_up_at:
        line = master.stderr.readline()
        left = {word for word in left if word not in line}
    assert not left, f"{left} did not come"


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
