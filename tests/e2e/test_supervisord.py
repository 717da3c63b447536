"""Under supervisord, with the section that is shipped: one pid, no gap, a clean end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.supervisord import Supervisord
from tests.load import Load, fetch, free_port, other_worker
from tests.master import HELLO, OVERSEER, ROOT


def _shipped(port: int) -> str:
    """Return the shipped program section, for the example and this checkout."""
    section = (ROOT / "supervisor" / "overseer.conf").read_text()
    for shipped, here in (
        ("/usr/local/bin/overseer", str(OVERSEER)),
        ("--listen :8000", f"--listen 127.0.0.1:{port}"),
        ("--chdir /srv/app/current ", ""),
        ("/usr/bin/python3 app.py", " ".join(HELLO)),
    ):
        assert shipped in section
        section = section.replace(shipped, here)
    return section


def test_supervisord_sees_one_pid_and_no_restart(tmp_path: Path) -> None:
    """Three restarts under load by ``supervisorctl signal``: no request lost, nothing to notice."""
    pytest.importorskip("supervisor")
    port = free_port()
    supervisord = Supervisord(tmp_path, _shipped(port))
    try:
        pid = supervisord.saw("RUNNING")
        with Load(port, clients=2) as load:
            worker = fetch(port).strip()
            for _ in range(3):
                assert supervisord.control("signal", "SIGUSR2", "app") == "app: signalled"
                worker = other_worker(port, than=worker)
            load.more()
        assert load.failures == []
        assert supervisord.saw("RUNNING") == pid
        assert supervisord.control("stop", "app") == "app: stopped"
        assert supervisord.log().count("spawned: 'app'") == 1
        assert "stopped: app (exit status 0)" in supervisord.log()
    finally:
        assert supervisord.close() == 0
