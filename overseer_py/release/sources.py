"""Which source is meant by a URL: one of ours, or a plug-in's.

Light: checking a URL loads no client.  A plug-in is an entry point of the group
``overseer_py.fetchers``: a callable that takes what ``open_source`` takes and returns a Source.
Its name is the scheme of its URLs.
"""

# ruff: noqa: PLC0415 - a source loads what it needs, and no other does

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from overseer_py.errors import ConfigError
from overseer_py.release import places
from overseer_py.release.candidate import Limits, Source
from overseer_py.suggest import did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "overseer_py.fetchers"
INTERVAL = 300.0  # seconds between two looks at anything far away
Fetcher = Callable[[str, Limits, Mapping[str, str]], Source]


def check_url(url: str) -> str:
    """Return the URL of a source; raise ``ValueError`` with what would have been right.

    Of a plug-in's URL only the name is looked at: the rest is the plug-in's business.
    """
    scheme = _scheme(url)
    if scheme in places.CHECKS:
        places.CHECKS[scheme](url)
    elif scheme not in (names := plug_ins()):
        raise ValueError(_unknown(url, scheme, [*places.CHECKS, *names]))
    return url


def interval(url: str) -> float:
    """Return the seconds between two looks, if nothing else is asked for."""
    return 1.0 if _scheme(url) == "file" else INTERVAL


def open_source(url: str, limits: Limits, environ: Mapping[str, str]) -> Source:
    """Return the source of a URL; raise ConfigError if there cannot be one."""
    opened = fetcher(url)
    try:
        return opened(url, limits, environ)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def fetcher(url: str) -> Fetcher:
    """Return what opens the source of a URL, loaded already; raise ConfigError."""
    try:
        check_url(url)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return _fetcher(_scheme(url))


def plug_ins() -> dict[str, EntryPoint]:
    """Return what is installed under our group, by name."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP)}


def _fetcher(scheme: str) -> Fetcher:
    match scheme:
        case "file":
            from overseer_py.release.file import FileSource

            return FileSource
        case "http" | "https":
            from overseer_py.release.http import HttpSource

            return HttpSource
        case "github":
            from overseer_py.release.github import GithubSource

            return GithubSource
        case "s3":
            from overseer_py.release.s3 import S3Source

            return S3Source
    return _plugged_in(plug_ins()[scheme])


def _plugged_in(point: EntryPoint) -> Fetcher:
    try:
        fetcher: Fetcher = point.load()
    except Exception as error:  # anything: it is another's code
        raise ConfigError(
            f"{point.name}: the plug-in {point.value} does not load: {error}"
        ) from error
    if not callable(fetcher):
        raise ConfigError(f"{point.name}: the plug-in {point.value} cannot be called")
    return fetcher


def _scheme(url: str) -> str:
    scheme, colon, _ = url.partition(":")
    return scheme if colon else ""


def _unknown(url: str, scheme: str, known: list[str]) -> str:
    if not scheme and url.startswith("/"):
        return f"{places.shown(url)} is no URL; did you mean file:{url}?"
    hint = did_you_mean(scheme, known)
    return f"{places.shown(url)}: no source is called {scheme!r}; known: {', '.join(known)}{hint}"
