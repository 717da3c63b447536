"""New versions by themselves: a release from its source into the hands of users, or taken back."""

from __future__ import annotations

import gzip
import os
import stat
import sys
import tarfile
from pathlib import Path
from urllib.parse import quote

import boto3  # type: ignore[import-untyped]
import pytest
from moto.server import ThreadedMotoServer

from overseer_py import RequestError, RolloutError
from tests.e2e.commands import overseer
from tests.e2e.shops import BROKEN, Service, Shop, digest, plug_in, release
from tests.load import fetch
from tests.release.github import Github, asset
from tests.release.github import release as github_release
from tests.release.packing import Member, tar, zipped
from tests.release.servers import Server, refusal

ONE, TWO, THREE = release("one"), release("two"), release("three")


pytestmark = pytest.mark.usefixtures("here")


# -- the whole of it ----------------------------------------------------------------------------


def test_the_example_of_the_handbook(tmp_path: Path, shop: Shop) -> None:
    """Of three versions the second is broken: no request fails, and the third one answers."""
    with Service(tmp_path, shop.url) as service:
        master, load = service.master, service.crowd()
        service.committed(ONE)
        assert fetch(master.port()) == f"one {digest(ONE)}"
        found = service.status()
        assert (found["release"], found["previous_release"]) == (digest(ONE), None)
        assert (found["held"], found["fetcher"]["last_error"]) == ([], None)
        assert found["fetcher"]["url"] == shop.url

        shop.offer(BROKEN)
        service.held(BROKEN)
        names = [fact["event"] for fact in master.facts if fact.get("release") == digest(BROKEN)]
        assert names == ["release-found", "release-installed", "release-held"]
        master.saw("rollout-rolled-back")
        master.saw("release-restored", release=digest(ONE), instead_of=digest(BROKEN))
        assert (service.path.read_bytes(), service.says()) == (ONE, "one")
        assert service.releases() == {digest(ONE): "current", digest(BROKEN): "held"}
        load.more()

        after = master.now()
        shop.offer(THREE)
        service.committed(THREE)
        assert (service.path.read_bytes(), service.says()) == (THREE, "three")
        states = {THREE: "current", ONE: "previous", BROKEN: "held"}
        assert service.releases() == {digest(each): state for each, state in states.items()}
        found = service.status()
        assert (found["release"], found["previous_release"]) == (digest(THREE), digest(ONE))
        assert (found["held"], found["state"]) == ([digest(BROKEN)], "running")
        master.saw("generation-gone", after=after)
        service.served_all()
        labels = [body.partition(" ")[0] for body in load.bodies]
        assert set(labels) == {"one", "three"}
        assert master.stop() == 0


def test_what_is_held_is_not_tried_again(tmp_path: Path, shop: Shop) -> None:
    """Not at any look, nor by the next master; a new one is, and after ``unhold`` it is, too."""
    with Service(tmp_path, shop.url) as service:
        service.crowd()
        service.committed(ONE)
        shop.offer(BROKEN)
        service.held(BROKEN)
        assert service.status()["held"] == [digest(BROKEN)]
        assert f"{digest(BROKEN)[:12]} is held" in service.client.fetch()["found"]
        downloads, looks = shop.downloads, shop.looks
        for _ in range(3):  # those that are asked for fetch it again, to see what it is
            assert "is held" in service.client.fetch()["found"]
        assert shop.downloads == downloads + 3
        assert shop.looks > looks
        assert len(service.master.all("release-installed", release=digest(BROKEN))) == 1
        service.served_all()
        assert service.master.stop() == 0

        master = service.start().ready()
        assert f"{digest(BROKEN)[:12]} is held" in service.client.fetch()["found"]
        assert service.says() == "one"
        assert master.all("release-installed") == []
        shop.offer(TWO)
        service.committed(TWO)
        shop.offer(BROKEN)
        assert "is held" in service.client.fetch()["found"]
        done = overseer(tmp_path, "unhold", "app", digest(BROKEN)[:10])
        assert (done.returncode, done.stderr) == (0, "")
        master.saw("release-unheld", release=digest(BROKEN))
        service.held(BROKEN)
        assert service.says() == "two"
        assert len(master.all("release-installed", release=digest(BROKEN))) == 1
        done = overseer(tmp_path, "unhold", "0000000")
        assert done.returncode == 1
        assert "none begins so" in done.stderr


def test_looks_at_what_is_held_fetch_nothing(tmp_path: Path, shop: Shop) -> None:
    """The server is asked whether it is still the same, and no more."""
    with Service(tmp_path, shop.url) as service:
        service.committed(ONE)
        shop.offer(BROKEN)
        service.held(BROKEN)
        service.client.fetch()
        downloads, looks = shop.downloads, shop.looks
        while shop.looks < looks + 2:
            checked = service.client.status()["fetcher"]["last_checked_at"]
            while service.client.status()["fetcher"]["last_checked_at"] == checked:
                os.sched_yield()
        assert shop.downloads == downloads
        assert len(service.master.all("rollout-started")) == 1


def test_going_back_by_hand(tmp_path: Path, shop: Shop) -> None:
    """To the previous release, or to that of a digest; what is left is held."""
    with Service(tmp_path, shop.url, interval="10m") as service:
        service.crowd()
        service.committed(ONE)
        for content in (TWO, THREE):
            shop.offer(content)
            service.client.fetch()
        done = overseer(tmp_path, "rollback")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("generation 4 committed after ")
        assert (service.says(), service.path.read_bytes()) == ("two", TWO)
        service.held(THREE)
        assert service.releases()[digest(THREE)] == "held"
        assert "is held" in service.client.fetch()["found"]  # which the shop still has
        done = overseer(tmp_path, "rollback", "app", digest(ONE)[:8])
        assert (done.returncode, done.stderr) == (0, "")
        assert (service.says(), service.path.read_bytes()) == ("one", ONE)
        service.held(TWO)
        found = service.status()
        assert (found["release"], found["previous_release"]) == (digest(ONE), None)
        done = overseer(tmp_path, "rollback")
        assert done.returncode == 1
        assert "there is no release to go back to" in done.stderr
        done = overseer(tmp_path, "rollback", digest(TWO))
        assert done.returncode == 1
        assert "overseer unhold" in done.stderr
        assert service.says() == "one"
        service.served_all()


def test_fetch_now(tmp_path: Path, shop: Shop) -> None:
    """It waits for how it ends: nothing new, something new, a broken one, no source."""
    with Service(tmp_path, shop.url, interval="10m") as service:
        service.crowd()
        service.committed(ONE)
        done = overseer(tmp_path, "fetch", "--now")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "nothing new\n"
        shop.offer(TWO)
        done = overseer(tmp_path, "fetch", "--now", "app")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("generation 2 committed after ")
        assert service.says() == "two"
        shop.offer(BROKEN)
        done = overseer(tmp_path, "fetch", "--now")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("overseer: generation 3 rolled-back: ")
        assert "ModuleNotFoundError" in done.stderr
        shop.answer(refusal(503))
        with pytest.raises(RequestError, match="503: the server has a problem"):
            service.client.fetch()
        done = overseer(tmp_path, "fetch", "--now")
        assert (done.returncode, done.stdout) == (1, "")
        assert "503: the server has a problem" in done.stderr
        done = overseer(tmp_path, "fetch")
        assert (done.returncode, done.stderr) == (0, "")
        url, looked, following, error = done.stdout.splitlines()
        assert url == shop.url
        assert looked.startswith("  looked at: 20")
        assert following.startswith("  next look: 20")
        assert "503" in error
        assert "503" in service.status()["fetcher"]["last_error"]
        shop.offer(THREE)
        assert service.client.fetch()["outcome"] == "committed"
        service.master.saw("fetch-recovered")
        shop.offer(BROKEN + b"1")
        with pytest.raises(RolloutError, match="rolled-back"):
            service.client.fetch()
        service.served_all()


# -- each source --------------------------------------------------------------------------------


def test_a_file_keeps_mode_and_owner(tmp_path: Path) -> None:
    """A program copied from elsewhere on this machine; what was there before is the way back."""
    app, source = tmp_path / "srv" / "app", tmp_path / "app"
    app.parent.mkdir()
    app.write_bytes(ONE)
    app.chmod(0o750)
    if os.geteuid() == 0:
        os.chown(app, 65534, 65534)
    before = app.stat()
    with Service(tmp_path, f"file:{source}", to="srv/app", command=(str(app),)) as service:
        service.crowd()
        assert service.says() == "one"
        source.write_bytes(TWO)
        source.chmod(0o4777)
        service.committed(TWO)
        now = app.stat()
        assert (now.st_mode, now.st_uid, now.st_gid) == (
            before.st_mode,
            before.st_uid,
            before.st_gid,
        )
        assert (service.says(), app.read_bytes()) == ("two", TWO)
        source.write_bytes(BROKEN)
        service.held(BROKEN)
        assert service.client.rollback()["outcome"] == "committed"
        assert (service.says(), app.read_bytes()) == ("one", ONE)
        assert app.stat().st_mode == before.st_mode
        service.served_all()


def test_github(tmp_path: Path, server: Server) -> None:
    """The latest release's asset for this machine, from a store that sees no token; its tag."""
    machine = os.uname().machine
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    with Server() as store:
        github = Github(server)

        def publish(tag: str, number: int, content: bytes) -> None:
            name = f"app-linux-{names.get(machine, machine)}.gz"
            packed = gzip.compress(content, mtime=0)
            item = github_release(tag, asset(number, name, len(packed)), day=number)
            github.releases.insert(0, item)
            github.hold(number, packed, store)

        publish("v1.0", 1, ONE)
        url = "github:octo/app#app-{os}-{arch}.gz"
        with Service(tmp_path, url, env=github.environ, to="srv/app") as service:
            service.crowd()
            publish("v1.1", 2, TWO)
            installed = service.master.saw("release-installed", version="v1.1")
            service.master.saw("release-committed", release=installed["release"])
            assert fetch(service.master.port()).startswith("two ")
            after = service.master.now()
            publish("v0.9", 3, THREE)
            service.master.saw("release-vetoed", after=after)
            assert fetch(service.master.port()).startswith("two ")
            assert [each["version"] for each in service.client.releases()["releases"]] == [
                "v1.1",
                "v1.0",
            ]
            service.served_all()
            assert store.seen
            assert not [seen for seen in store.seen if "Authorization" in seen.headers]
            assert "secret" not in service.master.transcript()


def test_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object in a bucket, a .zip of a tree."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        endpoint = "http://{}:{}".format(*moto.get_host_and_port())
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket="releases")

        def put(content: bytes) -> bytes:
            body = zipped(Member("bin/app.py", content, mode=0o755))
            client.put_object(Bucket="releases", Key="app.zip", Body=body)
            return body

        url = f"s3://releases/app.zip?endpoint={quote(endpoint)}&region=us-east-1"
        command = (sys.executable, "srv/app/bin/app.py")
        put(ONE)
        with Service(tmp_path, url, "--chdir", str(tmp_path), to="srv/app", command=command) as it:
            it.crowd()
            it.committed(put(TWO))
            assert it.says() == "two"
            it.held(put(BROKEN))
            assert it.says() == "two"
            it.served_all()
        client.close()
    finally:
        moto.stop()


def test_a_tree_behind_a_link(tmp_path: Path, server: Server) -> None:
    """A .tar.gz is unpacked beside the path; each generation runs where the link led it."""
    shop = Shop(server, "/app.tar.gz")

    def pack(content: bytes, fault: str = "") -> bytes:
        members = [Member("bin/app", content, mode=0o6755), Member("data", fault.encode())]
        members.append(Member("app", kind=tarfile.SYMTYPE, target="bin/app"))
        return shop.offer(tar(*members, packed="gz"))

    first = pack(ONE)
    tree = str(tmp_path / "srv/tree")
    options = ("--chdir", tree)
    with Service(tmp_path, shop.url, *options, to="srv/tree", command=("./app",)) as service:
        service.crowd()
        service.committed(first)
        assert os.readlink(tree) == f"tree.releases/{digest(first)}"
        second = pack(TWO)
        service.committed(second)
        assert (service.says(), os.readlink(tree)) == ("two", f"tree.releases/{digest(second)}")
        (worker,) = (w["pid"] for w in service.status()["workers"] if w["state"] == "ready")
        assert os.readlink(f"/proc/{worker}/cwd") == os.path.realpath(tree)
        service.held(pack(BROKEN))
        assert (service.says(), os.readlink(tree)) == ("two", f"tree.releases/{digest(second)}")
        assert service.client.rollback()["outcome"] == "committed"
        assert (service.says(), os.readlink(tree)) == ("one", f"tree.releases/{digest(first)}")
        assert stat.S_IMODE(os.stat(f"{tree}/bin/app").st_mode) == 0o755
        service.served_all()


_PLUG_IN = """
import os
from overseer_py.release.candidate import Candidate

class Source:
    interval = 1.0

    def __init__(self, url, limits, environ):
        self._folder = url.partition(":")[2]

    def look(self, known):
        name = max(os.listdir(self._folder))
        if "fault" in name:
            raise ValueError("a fault of the plug-in's")
        return Candidate(name, name, known={"name": name}) if known.get("name") != name else None

    def download(self, candidate, into):
        with open(os.path.join(self._folder, candidate.place), "rb") as release:
            into.write(release.read())
"""


def test_a_plug_in(tmp_path: Path) -> None:
    """One that is installed where Python looks; what it raises is a reason, and no more."""
    releases = tmp_path / "releases"
    releases.mkdir()
    (releases / "1.py").write_bytes(ONE)
    with Service(tmp_path, f"ours:{releases}", env=plug_in(tmp_path, _PLUG_IN)) as service:
        service.crowd()
        service.committed(ONE)
        (releases / "2-fault").touch()
        service.master.saw("fetch-failed", reason="ValueError: a fault of the plug-in's")
        (tmp_path / "next").write_bytes(TWO)
        (tmp_path / "next").rename(releases / "3.py")
        service.committed(TWO)
        assert service.says() == "two"
        assert service.master.all("updater-exited") == []
        service.served_all()
