"""What is done with releases by choice: probation, hooks, how many are kept, when they come."""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from overseer_py import RolloutError
from tests.e2e.commands import overseer
from tests.e2e.shops import BROKEN, Service, Shop, digest, dying, hurry, release
from tests.master import Master
from tests.release.servers import body

HANGS = f"{sys.executable} -c 'import time; time.sleep(60)'"
ONE, TWO, THREE = release("one"), release("two"), release("three")


pytestmark = pytest.mark.usefixtures("here")


def script(tmp_path: Path, name: str, *lines: str) -> str:
    """Write a hook that notes its facts, and then does what these lines say; return it."""
    file, notes = tmp_path / f"{name}.py", tmp_path / "notes"
    head = [
        "import json, os, sys, time",
        "facts = {k[9:].lower(): v for k, v in os.environ.items() if k.startswith('OVERSEER_')}",
        "told = json.load(sys.stdin)",
        "note = json.dumps({'env': facts, 'told': told, 'words': sys.argv[1:]})",
        f"notes = os.open({str(notes)!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)",
        "os.write(notes, note.encode() + b'\\n')",
    ]
    file.write_text("\n".join([*head, *lines]) + "\n")
    return f"{sys.executable} {file}"


def notes(tmp_path: Path) -> list[dict[str, Any]]:
    """Return what the hooks have noted."""
    return [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]


# -- after the commit -----------------------------------------------------------------------------


def test_a_release_that_dies_after_its_commit(tmp_path: Path, shop: Shop) -> None:
    """Within its probation the previous one comes back by itself, and it is held."""
    on_rollback = script(tmp_path, "rollback")
    options = ("--backoff", "10ms", "--on-rollback", on_rollback)
    with Service(tmp_path, shop.url, *options) as service:
        service.committed(ONE)
        bad = shop.offer(dying("two"))
        after = service.master.facts.index(service.committed(bad))
        service.committed(ONE, after=after)
        held = service.held(bad)
        assert held["reason"].endswith("exited with status 3, crash 3 in a row")
        assert (service.says(), service.path.read_bytes()) == ("one", ONE)
        assert service.releases() == {digest(ONE): "current", digest(bad): "held"}
        while not (tmp_path / "notes").exists():
            os.sched_yield()
        assert notes(tmp_path)[0]["env"]["release"] == digest(bad)
        assert "is held" in service.client.fetch()["found"]
        shop.offer(THREE)
        service.committed(THREE)


def test_users_of_a_release_that_dies_after_its_commit(tmp_path: Path, shop: Shop) -> None:
    """Those who come while it dies wait, and are served by it or by the previous one."""
    with Service(tmp_path, shop.url, "--backoff", "10ms") as service:
        service.crowd()
        service.committed(ONE)
        bad = shop.offer(dying("two"))
        service.held(bad)
        service.served_all()


# -- which, and when ------------------------------------------------------------------------------


def test_how_many_are_kept(tmp_path: Path, shop: Shop) -> None:
    """So many besides the current one; what is pruned is gone from the disk, too."""
    with Service(tmp_path, shop.url, "--keep", "1", interval="10m") as service:
        service.committed(ONE)
        for content in (TWO, THREE):
            shop.offer(content)
            service.client.fetch()
        service.committed(THREE)
        assert service.releases() == {digest(THREE): "current", digest(TWO): "previous"}
        there = {name for name in os.listdir(f"{service.path}.releases") if "." not in name}
        assert there == {digest(THREE), digest(TWO)}
        done = overseer(tmp_path, "rollback", digest(ONE)[:12])
        assert done.returncode == 1
        assert "none begins so" in done.stderr


def test_one_that_is_too_young(tmp_path: Path, shop: Shop) -> None:
    """By what the source says of its age, or else since it was first seen."""
    with Service(tmp_path, shop.url, "--min-age", "2s") as service:
        first = service.committed(ONE)
        began, came = (
            datetime.fromisoformat(fact["timestamp"])
            for fact in (service.master.saw("updater-started"), first)
        )
        assert (came - began).total_seconds() > 2
        shop.answer(body(TWO, Last_Modified="Sun, 06 Nov 1994 08:49:37 GMT"))
        service.committed(TWO)
        shop.answer(body(THREE, Last_Modified="Fri, 31 Dec 2100 23:59:59 GMT"))
        assert "too young" in service.client.fetch()["found"]
        assert service.says() == "two"


def test_one_that_waits_for_a_restart(tmp_path: Path, shop: Shop) -> None:
    """A newer one takes its place; the restart commits it, and a broken one is taken back."""
    with Service(tmp_path, shop.url, "--no-restart-after-fetch", interval="10m") as service:
        master = service.master
        service.crowd()
        service.committed(ONE)
        for content in (TWO, THREE):
            shop.offer(content)
            found = service.client.fetch()["found"]
            assert found == f"release {digest(content)[:12]} is installed, and waits for a restart"
            assert (service.path.read_bytes(), service.says_still()) == (content, "one")
        assert service.releases()[digest(THREE)] == "trying"
        assert master.all("rollout-started") == []
        master.send(signal.SIGUSR2)
        service.committed(THREE)
        assert service.says() == "three"
        assert service.releases()[digest(ONE)] == "previous"
        shop.offer(BROKEN)
        service.client.fetch()
        with pytest.raises(RolloutError):
            service.client.restart()
        service.held(BROKEN)
        assert (service.path.read_bytes(), service.says()) == (THREE, "three")
        service.served_all()


def test_one_that_waits_can_be_taken_back(tmp_path: Path, shop: Shop) -> None:
    """It was never started, so nothing is rolled out; it is held like any other."""
    with Service(tmp_path, shop.url, "--no-restart-after-fetch", interval="10m") as service:
        service.committed(ONE)
        shop.offer(TWO)
        service.client.fetch()
        found = service.client.rollback()["found"]
        assert found == f"release {digest(TWO)[:12]} is taken back before it was started"
        assert (service.path.read_bytes(), service.says()) == (ONE, "one")
        assert service.releases() == {digest(ONE): "current", digest(TWO): "held"}
        assert service.master.all("rollout-started") == []


# -- commands of the user's -------------------------------------------------------------------


def test_hooks_get_the_facts(tmp_path: Path, shop: Shop) -> None:
    """In the environment and as JSON, each at its time; the check has the path behind its words."""
    hooks = ("check", "pre-upgrade", "post-upgrade", "on-rollback")
    options = [
        word for hook in hooks for word in (f"--{hook}", script(tmp_path, hook) + f" {hook}")
    ]
    with Service(tmp_path, shop.url, *options, interval="10m") as service:
        service.crowd()
        service.committed(ONE)
        shop.offer(TWO)
        service.client.fetch()
        shop.offer(BROKEN)
        with pytest.raises(RolloutError):
            service.client.fetch()
        service.client.releases()  # answered after the hook
        found = notes(tmp_path)
        order = ["check", "pre-upgrade", "post-upgrade"]
        assert [note["env"]["hook"] for note in found] == [
            *order,
            *order,
            *order[:2],
            "on-rollback",
        ]
        for note in found:
            assert note["told"] == {key: note["env"][key] for key in note["told"]}
            assert note["told"]["path"] == str(service.path)
            assert note["told"]["name"] == "app"
        check, _, post, *_ = found[3:]
        assert check["words"] == f"check {check['told']['staged']}".split()
        assert check["told"]["release"] == digest(TWO)
        assert (post["told"]["release"], post["told"]["previous_release"]) == (
            digest(TWO),
            digest(ONE),
        )
        assert found[-1]["told"]["release"] == digest(BROKEN)
        assert "exited with status 1" in found[-1]["told"]["reason"]
        service.served_all()


def test_vetoes(tmp_path: Path, shop: Shop) -> None:
    """A check's is for good, and its words are the reason; a pre-upgrade's is for now."""
    refuse = tmp_path / "refuse"
    check = script(
        tmp_path,
        "check",
        "if b'two' in open(sys.argv[1], 'rb').read():",
        "    sys.exit('it says two')",
    )
    pre = script(tmp_path, "pre", f"if os.path.exists({str(refuse)!r}):", "    sys.exit('not now')")
    with Service(
        tmp_path, shop.url, "--check", check, "--pre-upgrade", pre, interval="10m"
    ) as service:
        service.crowd()
        service.committed(ONE)
        shop.offer(TWO)
        service.refused("check: ended with status 1: it says two")
        service.held(TWO)
        assert "is held: check: ended with status 1" in service.client.fetch()["found"]
        refuse.touch()
        shop.offer(THREE)
        service.refused("pre-upgrade: ended with status 1: not now")
        assert service.releases() == {digest(ONE): "current", digest(TWO): "held"}
        refuse.unlink()
        assert service.client.fetch()["outcome"] == "committed"
        assert service.says() == "three"
        service.served_all()


@pytest.mark.parametrize(
    ("hook", "command", "reason"),
    [
        ("check", HANGS, "did not end within 1 s"),
        ("pre-upgrade", HANGS, "did not end within 1 s"),
        ("check", "/does/not/exist", "/does/not/exist: No such file or directory"),
    ],
)
def test_hooks_that_fail(tmp_path: Path, shop: Shop, hook: str, command: str, reason: str) -> None:
    """One that hangs, or is not there: a release that it should see is refused."""
    app = tmp_path / "srv" / "app.py"
    app.parent.mkdir()
    app.write_bytes(TWO)
    env = hurry(tmp_path, hooks=1.0)
    with Service(tmp_path, shop.url, f"--{hook}", command, env=env, interval="10m") as service:
        service.crowd()
        service.master.saw("release-vetoed", reason=f"{hook}: {reason}")
        assert app.read_bytes() == TWO
        service.served_all()


def test_a_hook_that_hangs_after_the_fact(tmp_path: Path, shop: Shop) -> None:
    """It ends after a while with all that it has started, and is told of; the release stays."""
    hang = script(
        tmp_path, "hang", "os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '61'); time.sleep(9)"
    )
    with Service(
        tmp_path, shop.url, "--post-upgrade", hang, env=hurry(tmp_path, hooks=1.0), interval="10m"
    ) as service:
        service.committed(ONE)
        service.master.saw("hook-failed", reason="post-upgrade: did not end within 1 s")
        left = psutil.Process(service.master.pid).children(recursive=True)
        assert not [process for process in left if "61" in words_of(process)]
        assert service.says() == "one"


def words_of(process: psutil.Process) -> list[str]:
    """Return the command of a process; none if it has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


# -- how it is written ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ("--fetch file:/a", "fetch: needs to"),
        ("--to /a", "to: needs fetch"),
        (f"--sha256 {'0' * 64}", "sha256: nothing is fetched"),
        ("--check true", "check: nothing is fetched"),
        ("--fetch file:/a --to /a --check '", 'check: "\'": No closing quotation'),
        ("--fetch file:/a --to /a --on-rollback=", "on-rollback: '' is no command"),
        ("--fetch file:a --to /a", "fetch: 'file:a' is not the absolute path"),
        ("--fetch https:///a --to /a", "fetch: https:/a names no host"),
        ("--fetch github:me --to /a", "fetch: 'github:me' is no release"),
        ("--fetch /srv/app --to /a", "fetch: '/srv/app' is not a source"),
        ("--fetch file:/a --to /a --max-size much", "max_size: 'much' is not a size"),
    ],
)
def test_what_cannot_be_meant(tmp_path: Path, options: str, key: str) -> None:
    """Status 2, and the key is named; by ``check`` the same."""
    words = [*options.split(), "--", sys.executable, "-c", "pass"]
    done = overseer(tmp_path, "check", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert key in done.stderr.replace("--max-size", "max_size").replace("--", "")
    with Master(tmp_path, *words) as master:
        assert master.wait() == 2
        assert key in "\n".join(master.stderr).replace("--max-size", "max_size").replace("--", "")
