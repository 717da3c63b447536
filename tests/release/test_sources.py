"""Which source a URL means, ours and plug-ins', and how URLs are written."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest

from overseer_py.errors import ConfigError, FetchError
from overseer_py.release.candidate import Limits
from overseer_py.release.file import FileSource
from overseer_py.release.github import GithubSource
from overseer_py.release.http import HttpSource
from overseer_py.release.places import Github, S3Object, file, github, s3, shown
from overseer_py.release.s3 import S3Source
from overseer_py.release.sources import GROUP, INTERVAL, check_url, interval, open_source

# The one of CONTRIBUTING.md.
PLUG_IN = '''
"""newest:/srv/releases/app-*.gz is, of the files that match, the last by name."""

import glob
import os
from functools import partial

from overseer_py.errors import FetchError
from overseer_py.release.allowance import CHUNK, Allowance
from overseer_py.release.candidate import Candidate


class NewestSource:
    interval = 5.0

    def __init__(self, url, limits, environ):
        self._glob, self._limits = url.removeprefix("newest:"), limits

    def look(self, known):
        path = max(glob.glob(self._glob), default="")
        if path in ("", known.get("path")):
            return None
        return Candidate(os.path.basename(path), place=path, known={"path": path})

    def download(self, candidate, into):
        allowance = Allowance(candidate.place, self._limits.download, self._limits.size)
        try:
            release = open(candidate.place, "rb")
        except OSError as error:
            raise FetchError(f"{candidate.place}: {error.strerror}") from error
        with release:
            allowance.copy(iter(partial(release.read, CHUNK), b""), into)
'''


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory in which distributions are installed for the test."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def install(site: Path, module: str, text: str, entry: str) -> None:
    """Install a distribution of one module, as pip would."""
    (site / f"{module}.py").write_text(text, encoding="utf-8")
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entry}\n")


def fails(url: str) -> str:
    """Return why a URL is refused, in one line; when it is read, and when it is opened."""
    with pytest.raises(ValueError, match=r"[a-z]") as read:
        check_url(url)
    with pytest.raises(ConfigError) as opened:
        open_source(url, Limits(), {})
    assert str(read.value) == str(opened.value)
    assert "\n" not in str(read.value)
    assert "secret" not in str(read.value)
    return str(read.value)


# -- ours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "kind", "seconds"),
    [
        ("file:/srv/app", FileSource, 1.0),
        ("http://host/app", HttpSource, INTERVAL),
        ("https://user:pw@host:8443/app?x=1", HttpSource, INTERVAL),
        ("github:octo/app#app", GithubSource, INTERVAL),
        ("s3://bucket/key", S3Source, INTERVAL),
    ],
)
def test_each_scheme_has_its_source(url: str, kind: type, seconds: float) -> None:
    """And its interval, which is the same whether it is open or not."""
    assert check_url(url) == url
    source = open_source(url, Limits(), {})
    assert isinstance(source, kind)
    assert source.interval == interval(url) == seconds


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("htps://host/app", "did you mean https?"),
        ("githbu:octo/app#x", "did you mean github?"),
        ("ftp://user:secret@host/app?secret", "known: file, http, https, github, s3"),
        ("/srv/app", "did you mean file:/srv/app?"),
        ("app", "no source is called ''"),
        ("", "no source is called ''"),
        ("file:app", "absolute path of a file"),
        ("file:/srv/", "absolute path of a file"),
        ("file://host/app", "names another machine"),
        ("https:/app", "names no host"),
        ("https://:80/app", "names no host"),
        ("https://user:secret@host:x/app", "Port could not be cast"),
        ("https://[::1/app", "https:…: Invalid IPv6 URL"),
        ("https://host/a b?secret", "write %20"),
        ("https://host\\@other/", "a backslash"),
        ("https://host/a\nb", "a blank"),
        ("github:octo/app", "write github:OWNER/REPO[@TAG-GLOB]#ASSET-GLOB"),
        ("github:octo#x", "write github:OWNER/REPO"),
        ("github:octo/..#x", "write github:OWNER/REPO"),
        ("github:octo/..@v1#x", "write github:OWNER/REPO"),
        ("github:../app#x", "write github:OWNER/REPO"),
        ("github:octo/app#x-{cpu}", "{cpu} is unknown; there are {os} and {arch}"),
        ("s3://bucket", "write s3://BUCKET/KEY"),
        ("s3:///key", "write s3://BUCKET/KEY"),
        ("s3:bucket/key", "write s3://BUCKET/KEY"),
        ("s3://bucket/key?endpiont=http://host", "did you mean endpoint?"),
        ("s3://bucket/key?colour=1", "there are endpoint, region, version"),
        ("s3://bucket/key?endpoint=host:9000", "names no host"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant(url: str, reason: str) -> None:
    """The error says what would have been right."""
    assert reason in fails(url)


def test_urls_and_their_parts() -> None:
    """What each kind is made of."""
    assert file("file:/a%20b?c#d") == file("file:///a%20b?c#d") == "/a%20b?c#d"
    assert github("github:o/r.x@v1.*#a-{os}") == Github("o", "r.x", "v1.*", "a-{os}")
    assert github("github:o/.github@a@b/*#x") == Github("o", ".github", "a@b/*", "x")
    assert s3("s3://b/k/l+m") == S3Object("b", "k/l+m")
    query = "endpoint=http%3A%2F%2Fh:9000&region=eu-west-1&version=a%2Bb"
    assert s3(f"s3://b/k?{query}") == S3Object("b", "k", "http://h:9000", "eu-west-1", "a+b")


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("https://user:pw@host:1/a?b=c#d", "https://host:1/a?…"),
        ("https://host/a", "https://host/a"),
        ("https://u:p@[::1/a", "https:…"),
        ("file:/a", "file:/a"),
        ("s3://b/k?endpoint=x", "s3://b/k?…"),
        ("/a", "/a"),
    ],
)
def test_what_is_shown_of_urls(url: str, seen: str) -> None:
    """No user, no password, no query."""
    assert shown(url) == seen


def test_checking_a_url_loads_no_client() -> None:
    """A configuration is read by what has no use for one."""
    code = """
import sys
from overseer_py.release.sources import check_url
for url in "file:/a", "https://h/a", "github:o/r#a", "s3://b/k?endpoint=http://h":
    check_url(url)
print(*sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[1:])))
"""
    heavy = ["urllib3", "boto3", "botocore", "ssl", "http", "email", "zipfile", "socket"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, check=True)
    assert done.stdout == b"\n"


# -- plug-ins -------------------------------------------------------------------------------------


def test_a_plug_in_is_a_source_as_any_other(site: Path, tmp_path: Path) -> None:
    """Twenty lines and an entry point; its name is the scheme."""
    install(site, "newest_source", PLUG_IN, "newest = newest_source:NewestSource")
    source = open_source(check_url(f"newest:{tmp_path}/app-*"), Limits(size=3), {})
    assert (source.interval, source.look({})) == (5.0, None)
    for name in ("app-1", "app-2"):
        (tmp_path / name).write_bytes(name[-3:].encode())
    candidate, into = source.look({}), BytesIO()
    assert candidate is not None
    source.download(candidate, into)
    assert (candidate.name, into.getvalue()) == ("app-2", b"p-2")
    assert source.look(candidate.known) is None
    (tmp_path / "app-2").write_bytes(b"more")
    with pytest.raises(FetchError, match="more than 3 bytes"):
        source.download(candidate, into)
    (tmp_path / "app-2").unlink()
    with pytest.raises(FetchError, match="No such file"):
        source.download(candidate, into)


def test_a_plug_in_is_among_those_that_are_known(site: Path) -> None:
    """A typing error is told of it, too."""
    install(site, "newest_source", PLUG_IN, "newest = newest_source:NewestSource")
    assert "github, s3, newest; did you mean newest?" in fails("newst:x")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nothing_of_this_name", "does not load: No module named"),
        ("1 / 0", "does not load: division by zero"),
        ("Source = 5", "cannot be called"),
        ("def Source(url, limits, environ): raise ValueError('bad: a host is needed')", "a host"),
    ],
)
def test_a_plug_in_that_does_not_work_is_named(site: Path, text: str, reason: str) -> None:
    """Whatever is wrong with it, and whatever it finds wrong with its URL."""
    install(site, "bad_source", text, "bad = bad_source:Source")
    check_url("bad:x")
    with pytest.raises(ConfigError, match=reason) as caught:
        open_source("bad:x", Limits(), {})
    assert str(caught.value).startswith("bad: ")
    sys.modules.pop("bad_source", None)


def test_a_plug_in_does_not_take_the_place_of_ours(site: Path) -> None:
    """What https means is not for a dependency of a dependency to say."""
    install(site, "bad_source", "1 / 0", "https = bad_source:Source")
    assert isinstance(open_source("https://host/a", Limits(), {}), HttpSource)


def test_the_plug_in_of_the_handbook_is_this_one() -> None:
    """What CONTRIBUTING.md shows is what was tested."""
    handbook = Path(__file__).parents[2] / "CONTRIBUTING.md"
    if "overseer_py.fetchers" not in handbook.read_text(encoding="utf-8"):
        pytest.skip("the section on fetchers is not written yet")
    lines = [line.strip() for line in handbook.read_text(encoding="utf-8").splitlines()]
    assert [line for line in PLUG_IN.strip().splitlines() if line.strip() not in lines] == []
