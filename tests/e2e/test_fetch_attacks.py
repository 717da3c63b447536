"""Sources that are broken or hostile: users are served, what is installed stays, it says why."""

from __future__ import annotations

import gzip
import os
import struct
import tarfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from overseer_py import RequestError
from tests.e2e.shops import Maker, Service, Shop, digest, hurry, named, release
from tests.release.certificates import certificate
from tests.release.packing import Member, tar, zipped
from tests.release.servers import (
    Answer,
    Server,
    body,
    chunked,
    conditional,
    endless,
    redirect,
    refusal,
    trickle,
    truncated,
)

ONE, TWO, THREE = release("one"), release("two"), release("three")
TRUE = Path("/bin/true").read_bytes()
MOST = 300_000  # bytes of a release

_FILE = Member("app", TWO, mode=0o755)
ESCAPES = [
    ("up", Member("../evil", b"x"), r"\.\."),
    ("absolute", Member("/etc/evil", b"x"), "relative|absolute|/etc/evil"),
    ("link", Member("evil", kind=tarfile.SYMTYPE, target="../../../etc"), "outside"),
    ("absolute link", Member("evil", kind=tarfile.SYMTYPE, target="/etc"), "outside"),
    ("hard link", Member("evil", kind=tarfile.LNKTYPE, target="../app.py"), "hard link|\\.\\."),
    ("device", Member("evil", kind=tarfile.CHRTYPE), "neither a file"),
    ("pipe", Member("evil", kind=tarfile.FIFOTYPE), "neither a file"),
]


class Stall(NamedTuple):
    """A service that fetches over TLS with a password, and those who could be asked instead."""

    service: Service
    shop: Shop
    secure: Server
    foreign: Server
    plain: Server


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the runtime directory of all of these."""
    place = tmp_path_factory.mktemp("attacks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(place))
        yield place


@pytest.fixture(scope="module")
def stall(here: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stall]:
    """Give one service for all of these attacks, under load."""
    place = tmp_path_factory.mktemp("stall")
    key = certificate(place)
    with Server(key) as secure, Server(key) as foreign, Server() as plain:
        shop = Shop(secure)
        shop.offer(ONE)
        url = shop.url.replace("://", "://user:secret@")
        env = {**hurry(place, looks=5.0), "SSL_CERT_FILE": str(key), "XDG_RUNTIME_DIR": str(here)}
        options = ("--max-size", str(MOST), "--name", "stall")
        with Service(place, url, *options, env=env, interval="10m") as service:
            service.crowd()
            service.committed(ONE)
            yield Stall(service, shop, secure, foreign, plain)
            assert "secret" not in service.master.transcript()


def _elf(machine: int) -> bytes:
    return TRUE[:18] + struct.pack("<H", machine) + TRUE[20:]


def _bomb(size: int = 64 << 20) -> bytes:
    return gzip.compress(bytes(size), 9)


# Of each: what is answered, and why it is refused.
FAULTS: dict[str, tuple[Callable[[], Answer], str]] = {
    "truncated body": (lambda: truncated(TWO[:100], len(TWO)), "cut short"),
    "no end": (lambda: chunked(TWO[:100], end=False), "cut short"),
    "endless body": (endless, f"more than {MOST} bytes"),
    "too long": (lambda: truncated(b"x", MOST + 1), f"more than {MOST} bytes"),
    "trickle": (lambda: trickle(0.2), "not done after 5s"),
    "compressed": (lambda: body(_bomb(), Content_Encoding="gzip"), "Content-Encoding 'gzip'"),
    "a part": (lambda: body(TWO, 206), "206"),
    "no content": (lambda: body(b"", 204), "204"),
    "403": (lambda: refusal(403), "403: access is denied"),
    "429": (lambda: refusal(429), "429: too many requests"),
    "500": (lambda: refusal(500), "500: the server has a problem"),
}
VETOES: dict[str, tuple[Callable[[], Answer], str]] = {
    "0 bytes": (lambda: body(b""), "empty"),
    "gzip bomb": (lambda: named(_bomb(), "app.gz"), f"more than {MOST} bytes"),
    "tar bomb": (
        lambda: named(gzip.compress(tar(Member("a", bytes(1 << 24)))), "app.tar.gz"),
        f"more than {MOST} bytes",
    ),
    "zip bomb": (
        lambda: named(zipped(Member("a", bytes(1 << 24))), "app.zip"),
        f"more than {MOST} bytes",
    ),
    "damaged": (lambda: named(gzip.compress(TWO)[:-9] + bytes(9), "app.gz"), "damaged"),
    "cut archive": (lambda: named(tar(Member("a", TWO))[:700], "app.tar"), "cut short|damaged"),
    "strange packing": (lambda: named(TWO, "app.tar.zst"), "packing is not known"),
    "another machine": (lambda: body(_elf(0x1234)), "another machine"),
    "cut ELF": (lambda: body(TRUE[:5000]), "cut short: an ELF file of 5000 bytes"),
    "CRLF": (lambda: body(b"#!/bin/sh\r\necho\r\n"), "CR LF"),
    **{
        f"tar, {how}": ((lambda m=member: named(tar(_FILE, m, packed="gz"), "app.tar.gz")), why)  # type: ignore[misc]
        for how, member, why in ESCAPES
    },
    **{
        f"zip, {how}": ((lambda m=member: named(zipped(_FILE, m), "app.zip")), why)  # type: ignore[misc]
        for how, member, why in ESCAPES
        if member.kind in (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE)
    },
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_does_not_come(stall: Stall, name: str) -> None:
    """Late, not whole, too much, or not at all."""
    answer, reason = FAULTS[name]
    stall.shop.answer(answer())
    stall.service.refused(reason, "fetch-failed")


@pytest.mark.parametrize("name", VETOES)
def test_what_cannot_be_meant(stall: Stall, name: str) -> None:
    """It has come, and is refused before anything is installed."""
    answer, reason = VETOES[name]
    stall.shop.answer(answer())
    stall.service.refused(reason)


def test_redirects(stall: Stall) -> None:
    """No loop is followed for long, none to http at all, and none with the password."""
    stall.shop.answer(redirect(stall.shop.url))
    stall.service.refused("more than 5 redirects", "fetch-failed")
    stall.shop.answer(redirect(stall.plain.at("/app.py", body(TWO))))
    stall.service.refused("from https to http", "fetch-failed")
    assert stall.plain.seen == []
    stall.shop.answer(redirect(stall.foreign.at("/app.py", body(b""))))
    stall.service.refused("empty")
    assert stall.foreign.seen
    assert all("Authorization" in seen.headers for seen in stall.secure.seen)
    assert not any("Authorization" in seen.headers for seen in stall.foreign.seen)


def test_an_etag_that_changes_every_time(stall: Stall) -> None:
    """The same bytes are fetched, known by their digest, and not installed again."""
    stall.shop.answer(*(conditional(ONE, f'"{number}"') for number in range(99)))
    after = stall.service.master.now()
    for _ in range(3):
        assert "is installed" in stall.service.client.fetch()["found"]
    facts = [fact["event"] for fact in stall.service.master.facts[after:]]
    assert not {"release-installed", "rollout-started"} & {*facts}
    stall.service.served_all()


def test_who_asks_to_stay_away_is_not_asked(stall: Stall) -> None:
    """Not a moment earlier than Retry-After says."""
    stall.shop.answer(refusal(429, Retry_After="1000"))
    for _ in range(3):
        found = stall.service.refused("429", "fetch-failed")
        looked, following = (
            datetime.fromisoformat(found[key]) for key in ("last_checked_at", "next_check_at")
        )
        assert (following - looked).total_seconds() > 999.9
        stall.shop.answer(refusal(500), refusal(429, Retry_After="1000"))
        stall.service.refused("500", "fetch-failed")


def test_a_server_that_flaps(tmp_path: Path, here: Path) -> None:
    """It is asked again and again, at its pace, until the release comes."""
    with Server() as server:
        shop = Shop(server)
        shop.offer(ONE)
        env = {"XDG_RUNTIME_DIR": str(here)}
        with Service(tmp_path, shop.url, "--name", "flaps", env=env) as service:
            service.crowd()
            service.committed(ONE)
            shop.answer(
                refusal(403), refusal(429, Retry_After="1"), refusal(500), conditional(TWO, '"2"')
            )
            service.committed(TWO)
            failed = [fact["reason"] for fact in service.master.all("fetch-failed")]
            assert [re_status(reason) for reason in failed] == ["403", "429", "500"]
            service.master.saw("fetch-recovered")
            assert service.says() == "two"
            service.served_all()


def re_status(reason: str) -> str:
    """Return the status that a reason speaks of."""
    return next(word.strip(":") for word in reason.split() if word.strip(":").isdigit())


# -- what was asked for -------------------------------------------------------------------------


class Guarded(NamedTuple):
    """A service that wants a digest from a list, and a signature."""

    service: Service
    server: Server
    maker: Maker

    def offer(self, content: bytes, sums: Answer | None, made: Answer | None) -> None:
        """Lay down a release, with the list and the signature; None: there is none."""
        Shop(self.server).offer(content)
        self.server.at("/SHA256SUMS", sums or refusal(404))
        self.server.at("/app.py.minisig", made or refusal(404))


def listed(content: bytes) -> Answer:
    """Return a list of digests with that of these bytes, and others."""
    return body(f"{'0' * 64}  other\n{digest(content)} *app.py\n".encode())


@pytest.fixture(scope="module")
def guarded(here: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Give one with version 1.0 of the first release, under load."""
    place, maker = tmp_path_factory.mktemp("guarded"), Maker()
    with Server() as server:
        demands = ("--sha256", f"{server.url}/SHA256SUMS", "--minisign", maker.public)
        env = {"XDG_RUNTIME_DIR": str(here)}
        service = Service(
            place, f"{server.url}/app.py", "--name", "guarded", *demands, env=env, interval="10m"
        )
        guarded = Guarded(service, server, maker)
        guarded.offer(ONE, listed(ONE), body(maker.sign(ONE, "version:1.0")))
        with service:
            service.crowd()
            service.committed(ONE)
            yield guarded


@pytest.mark.parametrize(
    ("sums", "reason", "event"),
    [
        (listed(THREE), "its SHA-256 is", "release-vetoed"),
        (None, "SHA256SUMS: 404", "fetch-failed"),
        (body(b""), "no SHA-256 for app.py", "release-vetoed"),
        (body(f"{digest(TWO)}  app.pyc\n0 app.py\n".encode()), "no SHA-256", "release-vetoed"),
        (
            body(f"{digest(TWO)}  app.py\n{digest(ONE)}  app.py\n".encode()),
            "several different SHA-256",
            "release-vetoed",
        ),
        (body(bytes(range(128, 256))), "no text", "fetch-failed"),
        (endless(), "more than", "fetch-failed"),
    ],
    ids=["wrong", "absent", "empty", "not in it", "twice", "no text", "endless"],
)
def test_a_list_of_digests(guarded: Guarded, sums: Answer | None, reason: str, event: str) -> None:
    """What does not say clearly that it is this release lets none in."""
    guarded.offer(TWO, sums, body(guarded.maker.sign(TWO, "version:1.1")))
    guarded.service.refused(reason, event)


@pytest.mark.parametrize(
    ("made", "reason", "event"),
    [
        (lambda maker: maker.sign(THREE, "version:1.1"), "bad signature", "release-vetoed"),
        (lambda _: Maker().sign(TWO, "version:1.1"), "wrong key", "release-vetoed"),
        (
            lambda maker: maker.sign(TWO, "version:0.9").replace(b":0.9", b":1.9"),
            "altered trusted comment",
            "release-vetoed",
        ),
        (lambda _: None, "app.py.minisig: 404", "fetch-failed"),
        (lambda _: b"", "malformed signature", "release-vetoed"),
        (lambda maker: maker.sign(TWO, "x")[:100], "malformed signature", "release-vetoed"),
        (lambda maker: maker.sign(TWO, "version:0.9"), "0.9 is before 1.0", "release-vetoed"),
        (lambda maker: maker.sign(TWO, "version:no"), "cannot be compared", "release-vetoed"),
        (lambda maker: maker.sign(TWO, "x"), "its signature states no version", "release-vetoed"),
    ],
    ids=["bytes", "key", "comment", "absent", "empty", "cut", "lower", "incomparable", "none"],
)
def test_a_signature(
    guarded: Guarded, made: Callable[[Maker], bytes | None], reason: str, event: str
) -> None:
    """It is of these bytes, by this key, with this comment and no lower version, or it is none."""
    content = made(guarded.maker)
    guarded.offer(TWO, listed(TWO), None if content is None else body(content))
    guarded.service.refused(reason, event)


def test_after_all_that_a_good_one(guarded: Guarded) -> None:
    """It is installed at once: nothing that was refused stands in its way."""
    guarded.offer(TWO, listed(TWO), body(guarded.maker.sign(TWO, "a version:1.1, signed")))
    assert guarded.service.client.fetch()["outcome"] == "committed"
    assert guarded.service.says() == "two"
    found = {each["digest"]: each for each in guarded.service.client.releases()["releases"]}
    assert found[digest(TWO)]["version"] == "1.1"
    guarded.service.served_all()


def test_a_digest_that_is_given_and_a_downgrade_that_is_allowed(tmp_path: Path, here: Path) -> None:
    """Only those bytes come in; and a lower version if it was said that it may."""
    maker = Maker()
    with Server() as server:
        shop = Shop(server)

        def offer(content: bytes, version: str) -> None:
            server.at("/app.py.minisig", body(maker.sign(content, f"version:{version}")))
            shop.offer(content)

        options = ("--minisign", maker.public, "--allow-downgrade", "--name", "lower")
        env = {"XDG_RUNTIME_DIR": str(here)}
        offer(TWO, "2.0")
        with Service(tmp_path, shop.url, *options, env=env, interval="10m") as service:
            service.crowd()
            service.committed(TWO)
            offer(ONE, "1.0")
            assert service.client.fetch()["outcome"] == "committed"
            assert service.says() == "one"
            service.served_all()
        (tmp_path / "given.py").write_bytes(ONE)
        given = Service(
            tmp_path,
            shop.url,
            "--sha256",
            digest(THREE).upper(),
            "--name",
            "given",
            env=env,
            interval="10m",
            to="given.py",
        )
        with given as service:
            service.crowd()
            offer(TWO, "2.0")
            service.refused(f"its SHA-256 is {digest(TWO)}")
            offer(THREE, "3.0")
            assert service.client.fetch()["outcome"] == "committed"
            assert service.says() == "three"
            service.served_all()


# -- the place itself ---------------------------------------------------------------------------


def test_what_was_planted_where_releases_are_made(tmp_path: Path, here: Path) -> None:
    """Nothing is written through a link, nothing is removed behind one, and it says what to do."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "state.json").write_text("precious")
    app = tmp_path / "srv" / "app.py"
    releases = Path(f"{app}.releases")
    releases.mkdir(parents=True)
    app.write_bytes(ONE)
    for planted in (".app.py.staging-0123456789abcdef", ".app.py.put-0", ".app.py.state-0"):
        (releases / planted).symlink_to(victim)
    with Server() as server:
        shop = Shop(server)
        shop.offer(TWO)
        (releases / digest(TWO)).symlink_to(victim)
        env = {"XDG_RUNTIME_DIR": str(here)}
        with Service(tmp_path, shop.url, "--name", "planted", env=env, interval="10m") as service:
            service.crowd()
            service.master.saw("fetch-failed")
            with pytest.raises(RequestError, match=str(releases)):
                service.client.fetch()
            (releases / digest(TWO)).unlink()
            aside = releases.rename(tmp_path / "aside")
            releases.symlink_to(victim)
            with pytest.raises(RequestError, match="a link or a file; remove it"):
                service.client.fetch()
            releases.unlink()
            aside.rename(releases)
            releases.chmod(0o777)
            with pytest.raises(RequestError, match="others can write to it"):
                service.client.fetch()
            releases.chmod(0o755)
            assert app.read_bytes() == ONE
            assert service.client.fetch()["outcome"] == "committed"
            assert service.says() == "two"
            service.served_all()
    assert os.listdir(victim) == ["state.json"]
    assert (victim / "state.json").read_text() == "precious"
