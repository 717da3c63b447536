"""A container by a real OCI runtime, crun: it makes the namespaces, the mounts and the user."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.e2e.containers import Image, furnish
from tests.master import OVERSEER, PATIENCE, Master
from tests.needs import cannot, need

_NAME = "app"
_CRUN = ["--root=/run/crun", "--cgroup-manager=disabled"]

# crun wants a machine with cgroup2 alone.  The bundle's root is this machine's, as furnished.
_BUNDLE = """
umount --lazy /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs run /run
mkdir -p /run/bundle/rootfs
mount --rbind / /run/bundle/rootfs
printf %s "$0" >/run/bundle/config.json
"""


class Bundle(Master):
    """``overseer run`` as PID 1 of a container of crun's."""

    def __init__(self, tmp_path: Path, image: Image, *arguments: str) -> None:
        if os.geteuid() != 0:
            cannot("only root can make namespaces of all kinds")
        command = [*image.entry, "--log-format", "json", *arguments]
        self._user = f"{image.uid}:{image.uid}"
        self._crun = [need("crun"), *_CRUN]
        run = shlex.join([*self._crun, "run", "--bundle=/run/bundle", _NAME])
        script = f"{furnish(replace(image, run=''))}{_BUNDLE}exec {run}"
        configuration = json.dumps(_configuration(image, command))
        wrapper = [need("unshare"), "--mount", "sh", "-ec", script, configuration]
        super().__init__(tmp_path, *arguments, wrapper=wrapper)

    def crun(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run crun beside the one that runs the container, to its end."""
        beside = [need("nsenter"), f"--target={self.process.pid}", "--mount", *self._crun, *words]
        return subprocess.run(beside, check=False, capture_output=True, text=True, timeout=PATIENCE)

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container."""
        return self.crun("exec", f"--user={self._user}", _NAME, *command)

    def kill(self, name: str) -> None:
        """Have crun send a signal to PID 1."""
        done = self.crun("kill", _NAME, name)
        assert done.returncode == 0, done.stderr


def _configuration(image: Image, command: list[str]) -> dict[str, Any]:
    """Return config.json, as of the OCI runtime specification."""
    variables = {"PATH": f"{OVERSEER.parent}:{os.environ['PATH']}", **image.env}
    run = ["nosuid", "nodev", "noexec", *image.run.split(",")]
    kinds = ("pid", "mount", "ipc", "uts")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": image.uid, "gid": image.uid},
            "args": command,
            "env": [f"{name}={value}" for name, value in variables.items()],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": {},
        },
        "root": {"path": "rootfs", "readonly": image.read_only},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "dev", "options": ["mode=755"]},
            {"destination": "/run", "type": "tmpfs", "source": "run", "options": run},
        ],
        "linux": {"namespaces": [{"type": kind} for kind in kinds]},
    }
