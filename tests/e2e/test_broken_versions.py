"""A new version that fails changes nothing, and the log says why."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from signal import SIGHUP, SIGUSR1, SIGUSR2

import pytest

from tests.load import Load, fetch
from tests.master import PROGRAMS, ROOT, Master

EXAMPLES = {"EXAMPLES": str(ROOT / "examples")}


def deploy(version: Path, app: Path) -> None:
    """Put a version in place, as a deploy does: beside it, then renamed over."""
    beside = app.with_suffix(".new")
    shutil.copyfile(version, beside)
    os.replace(beside, app)


GOOD = ROOT / "examples" / "hello.py"


@pytest.mark.parametrize(
    ("version", "settings", "reason", "last_line"),
    [
        ("exits", "", "exited with status 1 before it was ready", "database is missing"),
        ("hangs", "ready_timeout = 1", "was not ready within 1 s", ""),
        ("dies_soon", "", "exited with status 9 before it was committed", "lost the database"),
    ],
)
def test_the_old_serves_on(
    tmp_path: Path, version: str, settings: str, reason: str, last_line: str
) -> None:
    """The old generation answers throughout, the worker and its last words are in the log.

    One shared socket gives the newcomer users before it is committed: what it has in hand when it
    dies is lost with it, one request a client at the most, and nothing else is.
    """
    app = tmp_path / "app.py"
    deploy(GOOD, app)
    config = tmp_path / "overseer.toml"
    config.touch()
    options = ["--listen", "127.0.0.1:0", "--drain-timeout", "1s", "--config", str(config)]
    if version == "dies_soon":
        options += ["--settle", "1h"]
    with Master(tmp_path, *options, "--", sys.executable, str(app), env=EXAMPLES) as master:
        # The settle time of this first generation is not awaited: there is nothing to go back to.
        master.ready()
        (old,) = master.workers()
        with Load(master.port()) as load:
            load.reached(50)
            deploy(PROGRAMS / f"{version}.py", app)
            config.write_text(settings)  # for this version alone: it fails, and they with it
            master.send(SIGHUP)
            if version == "dies_soon":
                master.saw("worker-ready", worker="2/0#1")
                os.kill(master.saw("worker-started", worker="2/0#1")["pid"], SIGUSR1)
            failed = master.saw("rollout-rolled-back", generation=2)
            master.saw("generation-gone", generation=2)
            load.more(50)
        assert len(load.failures) <= (load.clients if version == "dies_soon" else 0)
        assert not [answer for answer in load.failures if "refused" in answer.failure.lower()]
        assert f"hello from {old}" in load.bodies[-1]
        assert failed["worker"] == "2/0#1"
        assert reason in failed["reason"]
        assert last_line in "\n".join(failed["stderr_tail"])
        assert master.workers() == [old]
        deploy(GOOD, app)
        if version != "dies_soon":
            assert master.restart()["generation"] == 3
        assert master.stop() == 0


@pytest.mark.parametrize(
    ("breakage", "reason"),
    [
        ("missing", "No such file or directory"),
        ("forbidden", "Permission denied"),
        ("garbage", "Exec format error"),
        ("no interpreter", "the interpreter in its first line does not exist"),
    ],
)
def test_a_version_that_cannot_be_executed(tmp_path: Path, breakage: str, reason: str) -> None:
    """The attempt fails with the system's own reason and the path; the old serves on."""
    app = tmp_path / "app"
    app.write_text(f"#!{sys.executable}\n{GOOD.read_text()}")
    app.chmod(0o755)
    with Master(tmp_path, "--listen", "127.0.0.1:0", "--", str(app)) as master:
        master.ready()
        (old,) = master.workers()
        if breakage == "missing":
            app.unlink()
        elif breakage == "forbidden":
            app.chmod(0o644)
        else:
            shebang = "#!/no/such/interpreter\n" if breakage == "no interpreter" else "\0\1\2"
            beside = tmp_path / "beside"
            beside.write_text(shebang)
            beside.chmod(0o755)
            os.replace(beside, app)
        master.send(SIGUSR2)
        failed = master.saw("rollout-rolled-back", generation=2)
        assert reason in failed["reason"]
        assert str(app) in failed["reason"]
        assert fetch(master.port()).strip() == f"hello from {old}"
        assert master.stop() == 0


def test_a_broken_environment_file_fails_the_attempt(tmp_path: Path) -> None:
    """The file is read anew for every generation, and one that is gone fails only that attempt."""
    variables = tmp_path / "app.env"
    variables.write_text("# settings\nexport COLOUR='blue'\n")
    options = ["--listen", "127.0.0.1:0", "--env-file", str(variables)]
    with Master(tmp_path, *options, "--", sys.executable, str(GOOD)) as master:
        master.ready()
        variables.unlink()
        master.send(SIGUSR2)
        failed = master.saw("rollout-rolled-back", generation=2)
        assert f"env_file: {variables}: No such file" in failed["reason"]
        variables.write_text("COLOUR=green\n")
        committed = master.restart()
        (pid,) = master.workers()
        assert committed["generation"] == 3
        assert "COLOUR=green" in Path(f"/proc/{pid}/environ").read_text().split("\0")
        assert master.stop() == 0
