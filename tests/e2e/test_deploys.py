"""Deploys by a flipped link: a generation is of one release, whatever becomes of the link."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.e2e.commands import TCP, document, overseer
from tests.e2e.deployment import Deployment, Told, asked
from tests.load import Load
from tests.master import Master


@pytest.fixture
def site(tmp_path: Path) -> Deployment:
    """Give a server with release one deployed, and two built."""
    site = Deployment(tmp_path / "site")
    site.deploy("one")
    site.build("two")
    return site


def crash(master: Master, worker: str, again: str) -> None:
    """Kill a worker; wait until the one is ready that takes its slot."""
    os.kill(master.saw("worker-started", worker=worker)["pid"], signal.SIGKILL)
    master.saw("worker-ready", worker=again)


def is_of(told: Told, release: Path) -> bool:
    """Whether a worker is of this release, in whatever it knows."""
    places = (told["cwd"], told["environ"]["PWD"], str(Path(told["script"]).parent))
    return (
        told["version"] == release.name
        and told["prefix"] == str(release / "venv")
        and set(places) == {str(release)}
    )


WAYS = {
    "relative": ["venv/bin/python", "app.py"],
    "absolute": ["{current}/venv/bin/python", "app.py"],
    "by PATH": ["python", "app.py"],
    "a script": ["./run"],
    "a script, absolute": ["{current}/run"],
    "a link to a script": ["{root}/app"],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_respawn_is_what_its_generation_was(tmp_path: Path, site: Deployment, way: str) -> None:
    """However the program is named: a flip is for the next generation, not for who crashed."""
    (site.root / "app").symlink_to("current/run")
    command = [word.format(current=site.current, root=site.root) for word in WAYS[way]]
    path = f"{site.current}/venv/bin:{os.environ['PATH']}"
    options = [*TCP, "--chdir", str(site.current), "--env", f"PATH={path}"]
    with Master(tmp_path, *options, "--", *command) as master:
        port = master.ready().port()
        assert is_of(asked(port), site.release("one"))
        site.flip("two")
        crash(master, "1/0#1", "1/0#2")
        assert is_of(asked(port), site.release("one"))
        master.restart()
        assert is_of(asked(port), site.release("two"))
        site.flip("one")
        crash(master, "2/0#1", "2/0#2")
        assert is_of(asked(port), site.release("two"))
        assert master.stop() == 0


def test_the_directory_of_the_start_is_followed_by_its_links(
    tmp_path: Path, site: Deployment
) -> None:
    """``cd current && overseer run``: the shell's $PWD leads to what is deployed next.

    With it what is named relatively: the configuration, environment files and directories.
    """
    for name in ("one", "two"):
        release = site.release(name)
        (release / "overseer.toml").write_text(
            'listen = ["127.0.0.1:0"]\ncommand = ["venv/bin/python", "app.py"]\n'
            f'env_file = ["local.env"]\nenv_dir = ["env"]\n[env]\nFROM_TOML = "{name}"\n'
        )
        (release / "local.env").write_text(f"FROM_FILE={name}\n")
        (release / "env").mkdir()
        (release / "env" / "FROM_DIRECTORY").write_text(f"{name}\n")
    here = {"PWD": str(site.current)}
    with Master(tmp_path, cwd=site.current, env=here) as master:
        port = master.ready().port()
        site.flip("two")
        shutil.rmtree(site.release("one"))  # the master's own working directory
        master.send(signal.SIGHUP)
        assert master.saw("reloaded")["changed"] == [
            "env.FROM_DIRECTORY",
            "env.FROM_FILE",
            "env.FROM_TOML",
        ]
        master.saw("generation-gone", generation=1)
        told = asked(port)
        assert is_of(told, site.release("two"))
        for source in ("FROM_TOML", "FROM_FILE", "FROM_DIRECTORY"):
            assert told["environ"][source] == "two"
        assert master.stop() == 0


def test_status_tells_what_each_generation_runs(tmp_path: Path, site: Deployment) -> None:
    """With links resolved, for each worker; ``command`` is what was asked for."""
    command = [f"{site.current}/venv/bin/python", "app.py"]
    with Master(
        tmp_path, *TCP, "--chdir", str(site.current), "--name", "app", "--", *command
    ) as master:
        master.ready()
        for release in ("one", "two"):
            site.flip(release)
            master.restart()
            where = site.release(release)
            found = document(tmp_path, "app")
            assert (found["command"], found["chdir"]) == (command, str(where))
            (worker,) = found["workers"]
            assert worker["directory"] == str(where)
            assert worker["executable"] == f"{where}/venv/bin/python"
            line = f"  {found['generation']}: {where}/venv/bin/python, in {where}\n"
            assert line in overseer(tmp_path, "status", "app").stdout
        assert master.stop() == 0


# -- releases that were removed -----------------------------------------------------------------


@pytest.mark.parametrize("inside", [True, False])
def test_a_release_that_was_removed_is_replaced_when_it_crashes(
    tmp_path: Path, site: Deployment, inside: bool
) -> None:
    """It cannot be started again, so what is deployed now is; those that still run serve on."""
    where = ["--chdir", str(site.current)] if inside else ["--chdir", "/"]
    program = [f"{site.current}/venv/bin/python", str(site.current / "app.py")]
    with Master(tmp_path, *TCP, *where, "--workers", "2", "--", *program) as master:
        port = master.ready().port()
        site.flip("two")
        shutil.rmtree(site.release("one"))
        with Load(port) as load:
            os.kill(master.saw("worker-started", worker="1/1#1")["pid"], signal.SIGKILL)
            gone = f"directory {site.release('one')}"
            if not inside:
                gone = f"program {site.release('one')}/venv/bin/python"
            failed = master.saw("worker-exited", worker="1/1#2")
            assert failed["how"] == f"could not be started: its {gone} is gone"
            started = master.saw("rollout-started", generation=2)
            assert started["reason"] == f"{gone} of generation 1 is gone"
            master.saw("generation-gone", generation=1)
            load.more()
        assert len(load.failures) <= load.clients  # what the killed worker had
        assert asked(port)["version"] == "two"
        assert len(master.all("rollout-started")) == 1
        assert master.stop() == 0


def test_a_removed_release_is_replaced_once_there_is_something_to_run(
    tmp_path: Path, site: Deployment
) -> None:
    """While nothing can be started it is tried again, each time the slot is."""
    options = [*TCP, "--chdir", str(site.current), "--backoff", "50ms", "--backoff-limit", "50ms"]
    with Master(tmp_path, *options, "--", "venv/bin/python", "app.py") as master:
        port = master.ready().port()
        site.current.unlink()
        shutil.rmtree(site.release("one"))
        os.kill(master.workers()[0], signal.SIGKILL)
        for generation in (2, 3):
            failed = master.saw("rollout-rolled-back", generation=generation)
            reason = f"could not be started: chdir: {site.current}: no such directory"
            assert reason in failed["reason"]
        site.flip("two")
        committed = master.saw("rollout-committed")
        assert asked(port)["version"] == "two"
        assert [f["generation"] for f in master.all("rollout-committed")] == [
            committed["generation"]
        ]
        assert master.stop() == 0


def test_a_rollout_from_a_directory_that_is_gone(tmp_path: Path, site: Deployment) -> None:
    """It fails, with the directory's name; who serves from there goes on to."""
    one = site.release("one")
    with Master(
        tmp_path, *TCP, "--", "venv/bin/python", "app.py", cwd=one, env={"PWD": str(one)}
    ) as master:
        served = asked(master.ready().port())
        shutil.rmtree(one)
        master.send(signal.SIGUSR2)
        failed = master.saw("rollout-rolled-back", generation=2)
        assert f"could not be started: chdir: {one}: no such directory" in failed["reason"]
        assert asked(master.port()) == served
        done = overseer(tmp_path, "restart")
        assert done.returncode == 1
        assert f"chdir: {one}: no such directory" in done.stderr
        site.build("one")  # deployed again, by the same name
        master.restart()
        assert is_of(asked(master.port()), one)
        assert master.stop() == 0


def test_the_next_master_knows_it_all(tmp_path: Path, site: Deployment) -> None:
    """An upgrade of the master, from a directory that is gone, keeps each generation's release."""
    variables = site.shared / "app.env"
    options = [*TCP, "--name", "app", "--env-file", "app.env"]
    here = {"PWD": str(site.current)}
    command = ["venv/bin/python", "app.py"]
    with Master(tmp_path, *options, "--", *command, cwd=site.current, env=here) as master:
        port = master.ready().port()
        variables.write_text("COLOUR=blue\n")
        assert overseer(tmp_path, "reload", "app").returncode == 0
        before = document(tmp_path, "app")
        site.flip("two")
        shutil.rmtree(site.release("one"))
        assert overseer(tmp_path, "upgrade-master", "app").returncode == 0
        after = document(tmp_path, "app")
        for key in ("last_reload", "chdir", "command"):
            assert after[key] == before[key]
        for key in ("pid", "executable", "directory"):
            assert after["workers"][0][key] == before["workers"][0][key]
        variables.write_text("COLOUR=green\n")
        assert overseer(tmp_path, "reload", "app").returncode == 0
        assert document(tmp_path, "app")["last_reload"]["changed"] == ["env.COLOUR"]
        assert is_of(asked(port), site.release("two"))
        shutil.rmtree(site.release("two"))
        site.deploy("three")
        assert overseer(tmp_path, "upgrade-master", "app").returncode == 0
        os.kill(asked(port)["pid"], signal.SIGKILL)
        master.saw("generation-gone", generation=3)
        assert is_of(asked(port), site.release("three"))
        assert master.stop() == 0


# -- variables -----------------------------------------------------------------------------------


def test_variables_of_a_directory(tmp_path: Path, site: Deployment) -> None:
    """Read anew for each generation from a clean base; who crashed gets what its generation had."""
    variables = tmp_path / "variables"
    variables.mkdir()
    (variables / "COLOUR").write_text("blue\n")
    (variables / "SIZE").write_text("9\n")
    (variables / "FOREIGN").touch()
    options = [*TCP, "--chdir", str(site.current), "--env-dir", str(variables)]
    options += ["--env", "SIZE=10"]
    with Master(
        tmp_path, *options, "--", "venv/bin/python", "app.py", env={"FOREIGN": "1", "COLOUR": "red"}
    ) as master:
        port = master.ready().port()
        environ = asked(port)["environ"]
        assert (environ["COLOUR"], environ["SIZE"]) == ("blue", "10")
        assert "FOREIGN" not in environ
        (variables / "COLOUR").unlink()
        (variables / "FOREIGN").unlink()
        crash(master, "1/0#1", "1/0#2")
        assert asked(port)["environ"]["COLOUR"] == "blue"
        master.restart()
        environ = asked(port)["environ"]
        assert (environ["COLOUR"], environ["FOREIGN"]) == ("red", "1")  # the base's
        assert master.stop() == 0


# -- one after the other ---------------------------------------------------------------------------


def deploy_under_load(tmp_path: Path, times: int) -> None:
    """Deploy releases one after the other, as a tool would; all but two old ones are removed."""
    site = Deployment(tmp_path / "site")
    site.deploy("release-00")
    options = [*TCP, "--name", "app", "--workers", "2", "--chdir", str(site.current)]
    options += ["--env-file", "app.env"]
    with Master(
        tmp_path,
        *options,
        "--",
        "venv/bin/python",
        "app.py",
        cwd=site.current,
        env={"PWD": str(site.current)},
    ) as master:
        port = master.ready().port()
        with Load(port) as load:
            for number in range(1, times + 1):
                name = f"release-{number:02}"
                (site.shared / "app.env").write_text(f"NUMBER={number}\n")
                site.deploy(name)
                done = overseer(tmp_path, "restart", "app")
                assert (done.returncode, done.stderr) == (0, "")
                begun = len(load.answers)
                site.prune(keep=2)
                load.more()
                last = [json.loads(body) for body in load.bodies[begun + load.clients :]]
                assert {told["version"] for told in last} == {name}
                assert {told["environ"]["NUMBER"] for told in last} == {str(number)}
            bodies = [json.loads(body) for body in load.bodies]
        assert load.failures == []
        assert all(is_of(told, site.release(told["version"])) for told in bodies)
        assert len({told["version"] for told in bodies}) == times + 1
        assert len(list(site.root.glob("releases/*"))) == 2
        assert master.stop() == 0


def test_deploys_under_load(tmp_path: Path) -> None:
    """No request fails, and no answer is of two releases at once."""
    deploy_under_load(tmp_path, 4)


@pytest.mark.soak
def test_twenty_deploys_under_load(tmp_path: Path) -> None:
    """The same for as long as it takes to fill a list of releases."""
    deploy_under_load(tmp_path, 20)
