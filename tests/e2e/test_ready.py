"""``overseer status --ready``, and the probes of the shipped examples that ask it."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml  # type: ignore[import-untyped]  # comes with moto

from tests.e2e.commands import TCP, Gate, overseer
from tests.e2e.containers import Container, Image, instruction, shipped, until
from tests.load import fetch
from tests.master import HELLO, PATIENCE, ROOT, Master, program

PROBE = ["overseer", "status", "--ready"]


def probe(place: Path, *words: str) -> tuple[int, str, str]:
    """Return its exit status, what it printed, and what it complained of."""
    done = overseer(place, "status", "--ready", *words)
    return done.returncode, done.stdout.rstrip("\n"), done.stderr.rstrip("\n")


# -- the command -----------------------------------------------------------------------------------


def test_from_before_it_is_ready_to_its_end(tmp_path: Path) -> None:
    """1 while it starts, 0 while it serves, 1 from TERM on although it serves, 3 without one."""
    gate = Gate(tmp_path).shut()
    options = [*TCP, *gate.options, "--stop-delay", "1h"]
    assert probe(tmp_path, "service")[0] == 3
    with Master(tmp_path, *options, "--", *program("service")) as master:
        master.saw("worker-started")
        why = "overseer: service is not ready: it is starting"
        assert probe(tmp_path, "service") == (1, "", why)
        gate.open()
        port = master.ready().port()
        line = "service is ready: generation 1, 1 of 1 workers"
        assert probe(tmp_path, "service") == (0, line, "")
        assert probe(tmp_path, "--pid", str(master.pid)) == (0, line, "")
        master.send(signal.SIGTERM)
        master.saw("stopping")
        why = "overseer: service is not ready: it is stopping"
        assert probe(tmp_path, "service") == (1, "", why)
        assert fetch(port)
        master.send(signal.SIGTERM)
        assert master.wait() == 0
    assert probe(tmp_path, "service")[0] == 3


def test_a_crash_and_a_rollout(tmp_path: Path) -> None:
    """Some of the current workers are enough; those of a candidate serve nobody yet."""
    ready = f"exec:sh -c 'test -e {tmp_path}/go-$OVERSEER_GENERATION-$OVERSEER_SLOT'"
    options = [*TCP, "--workers", "2", "--backoff", "1h", "--backoff-limit", "1h", "--ready", ready]
    for worker in ("1-0", "1-1", "2-0"):
        (tmp_path / f"go-{worker}").touch()
    with Master(tmp_path, *options, "--", *HELLO) as master:
        master.ready()
        _crash(master, slot=0)
        assert probe(tmp_path, "hello")[:2] == (0, "hello is ready: generation 1, 1 of 2 workers")
        _crash(master, slot=1)
        why = "overseer: hello is not ready: workers of generation 1: backoff"
        assert probe(tmp_path, "hello") == (1, "", why)
        master.send(signal.SIGUSR2)
        master.saw("worker-ready", worker="2/0#1")
        assert probe(tmp_path, "hello") == (1, "", why)
        (tmp_path / "go-2-1").touch()
        master.saw("rollout-committed")
        assert probe(tmp_path, "hello")[:2] == (0, "hello is ready: generation 2, 2 of 2 workers")
        assert master.stop() == 0


def _crash(master: Master, slot: int) -> None:
    """End a worker twice: after the first time it is started again at once."""
    for launch in (1, 2):
        name = f"1/{slot}#{launch}"
        master.saw("worker-ready", worker=name)
        os.kill(master.saw("worker-started", worker=name)["pid"], signal.SIGKILL)
    master.saw("worker-backoff", worker=f"1/{slot}#2")


def test_for_scripts(tmp_path: Path) -> None:
    """With --json it prints the document; --watch has no exit status to ask for."""
    with Master(tmp_path, *TCP, "--stop-delay", "1h", "--", *HELLO) as master:
        master.ready()
        status, said, complaint = probe(tmp_path, "hello", "--json")
        assert (status, json.loads(said)["pid"], complaint) == (0, master.pid, "")
        status, _, complaint = probe(tmp_path, "--watch")
        assert (status, "--watch" in complaint) == (2, True)
        master.send(signal.SIGTERM)
        master.saw("stopping")
        status, said, complaint = probe(tmp_path, "hello", "--json")
        assert (status, json.loads(said)["state"]) == (1, "stopping")
        assert complaint == "overseer: hello is not ready: it is stopping"
        master.send(signal.SIGQUIT)
        assert master.wait() == 0


def test_which_of_several(tmp_path: Path) -> None:
    """A probe is for one: where two run it has to say which."""
    with Master(tmp_path, *TCP, "--", *HELLO) as one:
        with Master(tmp_path, *TCP, "--name", "other", "--", *HELLO) as other:
            one.ready()
            other.ready()
            status, _, complaint = probe(tmp_path)
            assert (status, "hello" in complaint, "other" in complaint) == (2, True, True)
            assert probe(tmp_path, "other")[0] == 0
            assert other.stop() == 0
        assert one.stop() == 0


# -- the examples ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """What one of the files says of a container."""

    image: Image
    arguments: list[str]
    probes: list[list[str]]
    grace: float  # seconds from TERM to KILL; 0 if it does not say
    patience: float  # seconds that the first start may take


def containerfile() -> Example:
    """Return what the image does by itself."""
    check = instruction("HEALTHCHECK")
    probes = [json.loads(check.partition("CMD ")[2])]
    patience = re.findall(r"--start-period=(\d+)s", check)
    return Example(shipped(), json.loads(instruction("CMD")), probes, 0, float(patience[0]))


def compose() -> Example:
    """Return what the Compose file makes of it."""
    app = yaml.safe_load((ROOT / "examples" / "compose.yaml").read_text())["services"]["app"]
    (tmpfs,) = app["tmpfs"]
    place, _, options = tmpfs.partition(":")
    assert (place, app["cap_drop"]) == ("/run", ["ALL"])
    check = app["healthcheck"]
    kind, *words = check["test"]
    assert kind == "CMD"
    image = shipped(read_only=app["read_only"], run=options)
    grace, patience = (
        float(each.removesuffix("s")) for each in (app["stop_grace_period"], check["start_period"])
    )
    return Example(image, app["command"], [words], grace, patience)


def pod() -> dict[str, Any]:
    """Return the pod of the Kubernetes example."""
    documents = yaml.safe_load_all((ROOT / "examples" / "kubernetes.yaml").read_text())
    kinds = {document["kind"]: document for document in documents}
    assert set(kinds) == {"ConfigMap", "Deployment", "Service"}
    found: dict[str, Any] = kinds["Deployment"]["spec"]["template"]["spec"]
    return found


def kubernetes() -> Example:
    """Return what the Kubernetes file makes of it; an emptyDir is open to all."""
    (container,) = pod()["containers"]
    allowed = container["securityContext"]
    assert allowed["capabilities"] == {"drop": ["ALL"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"run": "/run", "config": "/etc/app"}
    assert not {"command", "lifecycle"} & container.keys()  # the entry point, and --stop-delay
    names = ("startupProbe", "readinessProbe", "livenessProbe")
    first = container["startupProbe"]
    return Example(
        shipped(read_only=allowed["readOnlyRootFilesystem"], run="mode=0777", prepare=CONFIG),
        container["args"],
        [container[name]["exec"]["command"] for name in names],
        pod()["terminationGracePeriodSeconds"],
        first["periodSeconds"] * first["failureThreshold"],
    )


# A ConfigMap as the kubelet mounts it, and how it replaces it: by one link.
CONFIG = """
mkdir -p /run/config/..1 /run/config/..2
echo GREETING=hello >/run/config/..1/app.env
echo GREETING=salut >/run/config/..2/app.env
ln -s ..1 /run/config/..data
ln -s ..data/app.env /run/config/app.env
chown -R 65532 /run/config
"""
FLIP = "cd /run/config && ln -s ..2 ..data_tmp && mv -T ..data_tmp ..data"

EXAMPLES = [containerfile(), compose(), kubernetes()]
NAMES = ["Containerfile", "compose.yaml", "kubernetes.yaml"]


def here(arguments: list[str]) -> list[str]:
    """Return the arguments with another port, and paths that there are."""
    words = [word.replace(":8000", "127.0.0.1:0") for word in arguments]
    words = [word.replace("/etc/app", "/run/config") for word in words]
    assert words[-3:] == ["--", "python3", "app.py"]
    return [*words[:-2], *HELLO]


@pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)
def test_the_probes_of_the_examples(tmp_path: Path, example: Example) -> None:
    """As they stand there, in the container that is described there: 1, 0, and 1 once it stops."""
    *options, separator, python, app = here(example.arguments)
    options += ["--ready", "exec:test -e /run/gate", "--stop-delay", "1h", separator]
    with Container(tmp_path, example.image, *options, python, app) as master:
        master.saw("worker-not-ready-yet")
        assert all(_probed(master, each) == (1, "starting") for each in example.probes)
        assert master.inside("touch", "/run/gate").returncode == 0
        port = master.ready().port()
        assert all(_probed(master, each) == (0, "workers") for each in example.probes)
        master.send(signal.SIGTERM)
        master.saw("stopping")
        assert all(_probed(master, each) == (1, "stopping") for each in example.probes)
        assert fetch(port).startswith("hello from")
        master.send(signal.SIGTERM)
        assert master.wait() == 0


def _probed(master: Container, words: list[str]) -> tuple[int, str]:
    """Return its exit status, and the last word of what it says."""
    assert words == PROBE
    done = master.inside(*words)
    return done.returncode, (done.stdout or done.stderr).split()[-1]


@pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)
def test_the_times_of_the_examples(tmp_path: Path, example: Example) -> None:
    """Who stops it waits for the drain, and who looks for the start: by what overseer computes."""
    words = [word for word in here(example.arguments) if "env-file" not in word]
    section = overseer(tmp_path, "init", "supervisor", *words)
    assert section.returncode == 0, section.stderr
    needed = re.findall(r"stopwaitsecs=(\d+)", section.stdout)
    assert example.grace >= int(needed[0]) or example.grace == 0
    unit = overseer(tmp_path, "init", "systemd", *words).stdout
    assert example.patience >= int(re.findall(r"TimeoutStartSec=(\d+)", unit)[0])


def test_the_stop_delay_of_the_examples(tmp_path: Path) -> None:
    """There is one where something stands before it that has to hear of the end."""
    for example, seconds in zip(EXAMPLES, (0, 5, 10), strict=True):
        with Container(tmp_path, example.image, *here(example.arguments)) as master:
            master.ready().send(signal.SIGTERM)
            assert master.saw("stopping")["delay"] == seconds
            master.send(signal.SIGTERM)
            assert master.wait() == 0


def test_a_config_map_is_rolled_out(tmp_path: Path) -> None:
    """The kubelet flips a link: one rollout, ready all the time, and the new values are there."""
    example = kubernetes()
    with Container(tmp_path, example.image, *here(example.arguments)) as master:
        master.ready()
        assert _greetings(master) == {"hello"}
        assert master.inside("sh", "-c", FLIP).returncode == 0
        until(lambda: _probed(master, PROBE) == (0, "workers") and master.all("generation-gone"))
        assert _greetings(master) == {"salut"}
        assert [fact["generation"] for fact in master.all("rollout-committed")] == [2]
        master.send(signal.SIGQUIT)
        assert master.wait(PATIENCE) == 0


def _greetings(master: Container) -> set[str]:
    children = psutil.Process(master.pid).children()
    workers = [child for child in children if "hello.py" in " ".join(child.cmdline()[1:2])]
    return {worker.environ()["GREETING"] for worker in workers}


def test_liveness_is_slower_than_what_overseer_mends() -> None:
    """A crash loop with the longest pauses, or a rollout that is not ready, kills no pod."""
    (container,) = pod()["containers"]
    live = container["livenessProbe"]
    assert live["periodSeconds"] * live["failureThreshold"] >= 10 * 60
    assert all(container[name]["timeoutSeconds"] > 1 for name in container if "Probe" in name)
