"""Releases of a repository, from a small GitHub (github.py)."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from io import BytesIO

import pytest

from overseer_py.errors import ConfigError, FetchError
from overseer_py.release.candidate import Candidate, Limits
from overseer_py.release.github import GithubSource, globs
from tests.release.github import RELEASES, TOKEN, Github, asset, release
from tests.release.servers import Server, body, refusal

NONE: Mapping[str, str] = {}


def source(github: Github, url: str = "github:octo/app#app") -> GithubSource:
    """Return the source of a URL at this GitHub."""
    return GithubSource(url, Limits(), github.environ)


def looked(github: Github, url: str = "github:octo/app#app") -> Candidate:
    """Return the candidate that there is."""
    candidate = source(github, url).look(NONE)
    assert candidate is not None
    return candidate


def fails(github: Github, url: str = "github:octo/app#app") -> FetchError:
    """Return why a look fails; the token is not in it."""
    with pytest.raises(FetchError) as caught:
        source(github, url).look(NONE)
    assert TOKEN not in str(caught.value)
    return caught.value


def test_the_latest_release(server: Server) -> None:
    """Version, date, name, size and address of its asset; the token is shown."""
    github = Github(server, release("v2", asset(7, "app"), day=2), release("v1", asset(6, "app")))
    candidate = looked(github)
    assert (candidate.version, candidate.name, candidate.size) == ("v2", "app", 3)
    assert candidate.published == 1767323045.0
    assert candidate.place == f"{server.url}{RELEASES}/assets/7"
    assert candidate.known["asset"] == "7"
    assert server.seen[0].headers["Authorization"] == f"Bearer {TOKEN}"
    assert server.seen[0].headers["X-GitHub-Api-Version"] == "2022-11-28"


def test_drafts_and_pre_releases_are_not_the_latest(server: Server) -> None:
    """Not by what GitHub calls so, and not if it should send one nevertheless."""
    newest = [release("v4", draft=True), release("v3-rc1", asset(8, "app"), prerelease=True)]
    github = Github(server, *newest, release("v2", asset(7, "app")))
    assert looked(github).version == "v2"
    for odd in newest:
        server.at(f"{RELEASES}/latest", body(json.dumps(odd).encode()))
        assert source(github).look(NONE) is None


@pytest.mark.parametrize(
    ("glob", "version"),
    [
        ("v2.*", "v2.1"),
        ("v3*", "v3-rc1"),
        ("v[12].0", "v2.0"),
        ("*", "v3-rc1"),
        ("tool@1/*", "tool@1/x"),
    ],
)
def test_a_tag_glob_takes_the_newest_that_matches(server: Server, glob: str, version: str) -> None:
    """By its date and not by its place in the list; a pre-release as well, but never a draft."""
    github = Github(
        server,
        release("v2.9", draft=True),
        release("v2.0", asset(1, "app"), day=2),
        release("v2.1", asset(2, "app"), day=4),
        release("v3-rc1", asset(3, "app"), day=5, prerelease=True),
        release("v1.0", asset(4, "app"), day=1),
        release("tool@1/x", asset(5, "app"), day=1),
    )
    assert looked(github, f"github:octo/app@{glob}#app").version == version


def test_a_tag_may_be_pages_away(server: Server) -> None:
    """The pages are asked for one by one, up to ten; what is not there is nothing."""
    others = [release(f"other-{i}") for i in range(70)]
    github = Github(server, *others, release("v1", asset(1, "app")))
    candidate = looked(github, "github:octo/app@v*#app")
    assert (candidate.version, candidate.known) == ("v1", {"asset": "1"})
    assert len(server.seen) == 3
    assert source(github, "github:octo/app@w*#app").look(NONE) is None
    github.releases = others * 10
    assert source(github, "github:octo/app@v*#app").look(NONE) is None
    assert len(server.seen) == 3 + 3 + 10


@pytest.mark.parametrize("url", ["github:octo/app#app", "github:octo/app@v*#app"])
def test_what_is_known_is_not_offered(server: Server, url: str) -> None:
    """By 304, which GitHub does not count; and by its number, should anything else change."""
    github = Github(server, release("v1", asset(1, "app"), day=1))
    known = looked(github, url).known
    assert source(github, url).look(known) is None
    assert server.seen[-1].headers["If-None-Match"] == known["ETag"]
    github.releases[0]["assets"][0]["download_count"] += 1
    assert source(github, url).look(known) is None
    github.releases.insert(0, release("v2", asset(2, "app"), day=2))
    candidate = source(github, url).look(known)
    assert candidate is not None
    assert candidate.version == "v2"


def test_an_asset_that_is_not_yet_uploaded_is_not_yet_there(server: Server) -> None:
    """Nor is a release without any; later they are."""
    github = Github(server, release("v1"))
    assert source(github).look(NONE) is None
    github.releases = [release("v1", asset(1, "app", state="starter"))]
    assert source(github).look(NONE) is None
    github.releases = [release("v1", asset(1, "app"))]
    assert looked(github).version == "v1"


@pytest.mark.parametrize(
    ("glob", "reason"),
    [
        ("app-*", "several assets match app-*; there are app-linux, app-linux.minisig"),
        ("ap", "no asset matches ap; there are app-linux, app-linux.minisig"),
    ],
)
def test_which_asset_is_meant_must_be_clear(server: Server, glob: str, reason: str) -> None:
    """Otherwise the error names those that there are."""
    github = Github(server, release("v1", asset(1, "app-linux"), asset(2, "app-linux.minisig")))
    assert reason in str(fails(github, f"github:octo/app#{glob}"))


@pytest.mark.parametrize(
    ("machine", "spelt"),
    [
        ("x86_64", "app_linux_x86_64"),
        ("x86_64", "app_Linux_amd64"),
        ("aarch64", "app_linux_arm64"),
        ("aarch64", "app_Linux_aarch64"),
        ("riscv64", "app_linux_riscv64"),
    ],
)
def test_system_and_machine_in_any_spelling(
    server: Server, monkeypatch: pytest.MonkeyPatch, machine: str, spelt: str
) -> None:
    """Assets for other machines are not taken."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    others = [asset(1, "app_linux_ppc64le"), asset(2, "app_darwin_arm64")]
    github = Github(server, release("v1", *others, asset(3, spelt)))
    assert looked(github, "github:octo/app#app_{os}_{arch}").name == spelt


def test_the_own_spelling_comes_first() -> None:
    """A release may have both."""
    assert globs("a-{arch}", "amd64") == ["a-amd64", "a-x86_64"]
    assert globs("a-{os}", "x86_64") == ["a-linux", "a-Linux"]
    assert globs("a", "x86_64") == ["a"]


def test_a_download_from_the_api_itself(server: Server) -> None:
    """GitHub may hand it out without a redirect."""
    github = Github(server, release("v1", asset(1, "app")))
    github.hold(1, b"one")
    into = BytesIO()
    source(github).download(looked(github), into)
    assert into.getvalue() == b"one"
    assert server.seen[-1].headers["Authorization"] == f"Bearer {TOKEN}"


def test_a_download_from_a_store_does_not_show_the_token_there(
    server: Server, foreign: Server
) -> None:
    """It is another host; the signature in its address is all that it wants."""
    github = Github(server, release("v1", asset(1, "app")))
    github.hold(1, b"one", store=foreign)
    into = BytesIO()
    source(github).download(looked(github), into)
    assert into.getvalue() == b"one"
    assert foreign.seen[0].path == "/1?X-Amz-Signature=secret"
    assert "Authorization" not in foreign.seen[0].headers


def test_a_download_of_another_length_is_an_error(server: Server) -> None:
    """GitHub has said how many bytes it has."""
    github = Github(server, release("v1", asset(1, "app", size=3)))
    github.hold(1, b"four")
    with pytest.raises(FetchError, match="4 bytes came instead of 3"):
        source(github).download(looked(github), BytesIO())


@pytest.mark.parametrize(
    ("status", "headers", "away", "reason"),
    [
        (401, {}, None, "GITHUB_TOKEN is wrong or has expired"),
        (403, {"Retry_After": "60"}, 60, "60 an hour"),
        (403, {"X_RateLimit_Remaining": "0", "X_RateLimit_Reset": "1"}, 0, "60 an hour"),
        (404, {}, None, "is GITHUB_TOKEN set"),
        (429, {"Retry_After": "5"}, 5, "too many requests"),
        (502, {}, None, "the server has a problem"),
    ],
)
def test_refusals(
    server: Server, status: int, headers: dict[str, str], away: float | None, reason: str
) -> None:
    """The remedy is GitHub's, and so is when to come back."""
    github = Github(server)
    server.at(f"{RELEASES}/latest", refusal(status, **headers))
    error = fails(github)
    assert error.retry_after == away
    assert reason in str(error)


def test_a_repository_without_releases(server: Server) -> None:
    """GitHub does not tell it from one that is not there, so neither do we."""
    assert "no release in it" in str(fails(Github(server)))


def _released(assets: str, published: str = "null") -> bytes:
    text = '{"tag_name": "v1", "draft": false, "prerelease": false, "published_at": PUBLISHED, '
    return (text.replace("PUBLISHED", published) + f'"assets": [{assets}]}}').encode()


@pytest.mark.parametrize(
    "document",
    [
        *(b"<html>", b"", b"[1]", b"{}", b"null", b"[" * 100000, b"\xff"),
        _released("", published="5"),
        _released('{"id": 1, "name": "../x", "size": 1, "state": "uploaded"}'),
        _released('{"id": "../x", "name": "app", "size": 1, "state": "uploaded"}'),
    ],
)
def test_anything_else_is_an_error(server: Server, document: bytes) -> None:
    """A page of a captive portal, and what would lead elsewhere."""
    github = Github(server)
    server.at(f"{RELEASES}/latest", body(document))
    assert "no list of releases" in str(fails(github))


def test_without_a_token_nothing_is_shown(server: Server) -> None:
    """Public repositories need none."""
    github = Github(server, release("v1", asset(1, "app")))
    there = GithubSource("github:octo/app#app", Limits(), {"GITHUB_API_URL": f"{server.url}/"})
    assert there.look(NONE) is not None
    assert github.server.seen[0].headers["Authorization"] is None


@pytest.mark.parametrize("token", ["x\ny", "x y", "ä"])
def test_a_token_that_is_none_is_refused_and_not_quoted(token: str) -> None:
    """It was read from the wrong file, perhaps."""
    with pytest.raises(ConfigError, match="GITHUB_TOKEN") as caught:
        GithubSource("github:octo/app#app", Limits(), {"GITHUB_TOKEN": token})
    assert token not in str(caught.value).partition(":")[2]
