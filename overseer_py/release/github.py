"""``github:OWNER/REPO[@TAG-GLOB]#ASSET-GLOB``: an asset of a release.

Without a tag glob it is the release that GitHub calls the latest, which is no draft and no
pre-release.  With one it is the most recently published that matches; so it may be a pre-release.
https://docs.github.com/en/rest/releases has the API; a 304 is free there for who shows a token.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import product
from typing import Any, BinaryIO

from overseer_py.errors import ConfigError, FetchError
from overseer_py.release import places, refusals
from overseer_py.release.candidate import Candidate, Limits
from overseer_py.release.web import Ask, Web

_API = "https://api.github.com"
_MOST_PAGES = 10
_PER_PAGE = 30  # a release with many assets is long
_DOCUMENT = 16 << 20  # bytes of such a page
_SYSTEMS = ("linux", "Linux")
_MACHINES = (("x86_64", "amd64"), ("aarch64", "arm64"))
_ACCESS = "is GITHUB_TOKEN set, and may it read the contents of this repository?"
_REMEDIES = {
    401: "GITHUB_TOKEN is wrong or has expired",
    403: f"denied, or too many requests: without GITHUB_TOKEN there are 60 an hour; {_ACCESS}",
    404: f"no such repository, no release in it, or it is private; {_ACCESS}",
    429: "too many requests: without GITHUB_TOKEN there are 60 an hour",
}


@dataclass(frozen=True, slots=True)
class Release:
    """What is read of a release; anything may be sent, so anything is checked."""

    tag: str
    published: float | None
    draft: bool
    prerelease: bool
    assets: tuple[Asset, ...]


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of a release; ``uploaded`` is False while it is still on its way to GitHub."""

    number: int
    name: str
    size: int
    uploaded: bool


class GithubSource:
    """The releases of one repository."""

    interval = 300.0

    def __init__(self, url: str, limits: Limits, environ: Mapping[str, str]) -> None:
        self._url = url
        self._place = places.github(url)
        self._web = Web(limits, environ)
        token = environ.get("GITHUB_TOKEN", "").strip()
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError("GITHUB_TOKEN: holds what no token holds, such as a blank")
        self._secrets = {"Authorization": f"Bearer {token}"} if token else {}
        base = environ.get("GITHUB_API_URL", "").rstrip("/") or _API
        self._base = f"{base}/repos/{self._place.owner}/{self._place.repo}/releases"

    def look(self, known: Mapping[str, str]) -> Candidate | None:
        """Return the asset of the release that is meant; None if it is known or not yet there."""
        for etag, releases in self._pages(known.get("ETag", "")):
            meant = [release for release in releases if self._meant(release)]
            if meant:
                return self._candidate(max(meant, key=lambda r: r.published or 0), etag, known)
        return None

    def download(self, candidate: Candidate, into: BinaryIO) -> None:
        """Write the asset, which GitHub hands out itself or from a store elsewhere."""
        headers = self._headers("application/octet-stream")
        ask = Ask(candidate.place, headers, self._secrets, _remedy)
        size = self._web.download(ask, into)
        if size != candidate.size:
            raise FetchError(f"{self._url}: {size} bytes came instead of {candidate.size}")

    def _pages(self, etag: str) -> Iterator[tuple[str, list[Release]]]:
        """Give an ETag and releases, page by page; nothing if they are those of the given ETag."""
        if not self._place.tag:
            yield from self._page(f"{self._base}/latest", etag)
            return
        for number in range(1, _MOST_PAGES + 1):
            url = f"{self._base}?per_page={_PER_PAGE}&page={number}"
            pages = list(self._page(url, etag if number == 1 else ""))
            # The ETag of a later page says nothing of the ones before, where the newer ones are.
            yield from pages if number == 1 else (("", releases) for _, releases in pages)
            if not pages or len(pages[0][1]) < _PER_PAGE:
                return

    def _page(self, url: str, etag: str) -> Iterator[tuple[str, list[Release]]]:
        headers = self._headers("application/vnd.github+json")
        headers |= {"If-None-Match": etag} if etag else {}
        with self._web.look(Ask(url, headers, self._secrets, _remedy), _DOCUMENT) as answer:
            if answer.unchanged:
                return
            document, new = answer.read(), answer.headers.get("ETag", "")
        yield new, self._read(document)

    def _read(self, document: bytes) -> list[Release]:
        try:
            found = json.loads(document)
            return [_release(item) for item in (found if isinstance(found, list) else [found])]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise FetchError(
                f"{self._url}: {self._base} sent what is no list of releases"
            ) from error

    def _meant(self, release: Release) -> bool:
        if not self._place.tag:
            return not release.draft and not release.prerelease
        return not release.draft and fnmatchcase(release.tag, self._place.tag)

    def _candidate(self, release: Release, etag: str, known: Mapping[str, str]) -> Candidate | None:
        asset = self._asset(release)
        if asset is None or not asset.uploaded or known.get("asset") == str(asset.number):
            return None
        recognised = {"asset": str(asset.number), "ETag": etag}
        return Candidate(
            name=asset.name,
            place=f"{self._base}/assets/{asset.number}",  # not the address that the answer names
            version=release.tag,
            published=release.published,
            size=asset.size,
            known={name: value for name, value in recognised.items() if value},
        )

    def _asset(self, release: Release) -> Asset | None:
        """Return the one asset that is meant; None while the release has none at all."""
        for glob in globs(self._place.asset, platform.machine()):
            matching = [asset for asset in release.assets if fnmatchcase(asset.name, glob)]
            if len(matching) == 1:
                return matching[0]
            if matching:
                raise self._unclear(release, matching, "several assets match")
        if release.assets:
            raise self._unclear(release, release.assets, "no asset matches")
        return None

    def _unclear(self, release: Release, assets: Sequence[Asset], what: str) -> FetchError:
        names = ", ".join(asset.name for asset in assets[:10])
        return FetchError(
            f"{self._url}: {release.tag}: {what} {self._place.asset}; there are {names}"
        )

    def _headers(self, accept: str) -> dict[str, str]:
        return {"Accept": accept, "X-GitHub-Api-Version": "2022-11-28"}


def globs(asset: str, machine: str) -> list[str]:
    """Return an asset's glob with ``{os}`` and ``{arch}`` in every spelling, the system's first."""
    spellings = next((names for names in _MACHINES if machine in names), (machine,))
    machines = sorted(spellings, key=lambda name: name != machine)
    pairs = product(_SYSTEMS, machines)
    made = [asset.replace("{os}", system).replace("{arch}", arch) for system, arch in pairs]
    return list(dict.fromkeys(made))


def _release(item: dict[str, Any]) -> Release:
    published = item["published_at"]  # null in a draft
    return Release(
        tag=str(item["tag_name"])[:200],
        published=datetime.fromisoformat(published).timestamp() if published else None,
        draft=bool(item["draft"]),
        prerelease=bool(item["prerelease"]),
        assets=tuple(_asset(asset) for asset in item["assets"]),
    )


def _asset(item: dict[str, Any]) -> Asset:
    name = str(item["name"])
    if "/" in name or name.startswith(".") or not name.isprintable():
        raise ValueError(name)
    return Asset(int(item["id"]), name, int(item["size"]), item["state"] == "uploaded")


def _remedy(status: int, beginning: str) -> str:
    return _REMEDIES.get(status) or refusals.remedy(status, beginning)
