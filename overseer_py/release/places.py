"""How the places of releases are written: ``file:``, ``http(s):``, ``github:`` and ``s3:``.

Pure, and light: it also reads what a configuration says, and loads no client for it.  Each parser
raises ``ValueError`` with what would have been right; the caller adds the name of the key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from overseer_py.suggest import did_you_mean

_GITHUB = re.compile(
    r"github:(?P<owner>[A-Za-z0-9_][A-Za-z0-9_-]*)"
    r"/(?P<repo>(?!\.{1,2}[@#])[A-Za-z0-9_.-]+)"  # ".." would be another place of the API
    r"(?:@(?P<tag>[^#]+))?"  # tags may hold "/" and "@"
    r"#(?P<asset>[^/]+)"
)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_S3_KEYS = ("endpoint", "region", "version")


class Github(NamedTuple):
    """An asset of a repository's releases; ``tag`` is empty if the latest release is meant."""

    owner: str
    repo: str
    tag: str
    asset: str


class S3Object(NamedTuple):
    """An object in a bucket; what is not given is as boto3 finds it."""

    bucket: str
    key: str
    endpoint: str = ""
    region: str = ""
    version: str = ""


def file(url: str) -> str:
    """Return the path of ``file:/path`` or ``file:///path``; nothing in it is decoded."""
    path = url.removeprefix("file:")
    if path.startswith("//"):
        host, slash, rest = path[2:].partition("/")
        if host not in ("", "localhost"):
            raise ValueError(f"{url!r} names another machine; write file:/path")
        path = slash + rest
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError(f"{url!r} is not the absolute path of a file; write file:/path")
    return path


def web(url: str) -> str:
    """Return an ``http(s)://`` URL that has a host, and nothing that no URL has."""
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise ValueError(f"{shown(url)} holds a blank or a backslash; write %20 or %5C")
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError as error:  # the port is no number, or a bracket is not closed
        raise ValueError(f"{shown(url)}: {error}") from None
    if not named:
        raise ValueError(f"{shown(url)} names no host; write https://HOST/path")
    return url


def github(url: str) -> Github:
    """Return the parts of ``github:OWNER/REPO[@TAG-GLOB]#ASSET-GLOB``."""
    match = _GITHUB.fullmatch(url)
    if match is None:
        raise ValueError(f"{url!r} is no release; write github:OWNER/REPO[@TAG-GLOB]#ASSET-GLOB")
    for placeholder in re.findall(r"\{.*?\}", match["asset"]):
        if placeholder not in ("{os}", "{arch}"):
            raise ValueError(f"{url!r}: {placeholder} is unknown; there are {{os}} and {{arch}}")
    return Github(match["owner"], match["repo"], match["tag"] or "", match["asset"])


def s3(url: str) -> S3Object:
    """Return the parts of ``s3://BUCKET/KEY[?endpoint=…&region=…&version=…]``."""
    place, _, query = url.removeprefix("s3://").partition("?")
    bucket, _, key = place.partition("/")
    if not url.startswith("s3://") or not _BUCKET.fullmatch(bucket) or key.strip("/") == "":
        raise ValueError(f"{shown(url)} is no object; write s3://BUCKET/KEY")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in _S3_KEYS:
            hint = did_you_mean(name, _S3_KEYS) or f"; there are {', '.join(_S3_KEYS)}"
            raise ValueError(f"{shown(url)}: {name!r} is unknown{hint}")
    if "endpoint" in options:
        web(options["endpoint"])
    return S3Object(bucket, key, **options)


def shown(url: str) -> str:
    """Return a URL as messages may show it: without user, password and query."""
    try:
        parts = urlsplit(url)
    except ValueError:  # it has no parts: say what kind it was
        return re.split(r"[:/?#@]", url, maxsplit=1)[0] + ":…"
    host = parts.netloc.rpartition("@")[2]
    slashes = f"//{host}" if parts.netloc else ""
    query = "?…" if parts.query else ""
    return f"{parts.scheme}:{slashes}{parts.path}{query}" if parts.scheme else parts.path


# What reads the URLs of a scheme; of any other one a plug-in must know.
CHECKS: Mapping[str, Callable[[str], object]] = {
    "file": file,
    "http": web,
    "https": web,
    "github": github,
    "s3": s3,
}
