"""A small GitHub: releases and their assets, in the shape that its documentation shows.

https://docs.github.com/en/rest/releases/releases and …/assets; of each object the fields that are
always there, and not only those that are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.release.servers import Answer, Exchange, Server, body, redirect

TOKEN = "ghp_secret"
RELEASES = "/repos/octo/app/releases"
PUBLISHED = "2026-01-0{}T03:04:05Z"

Document = dict[str, Any]


def asset(number: int, name: str, size: int = 3, state: str = "uploaded") -> Document:
    """Return an asset; its numbers are GitHub's, one for each upload."""
    base = f"https://api.github.com{RELEASES}/assets/{number}"
    return {
        "url": base,
        "browser_download_url": f"https://github.com/octo/app/releases/download/v1/{name}",
        "id": number,
        "node_id": "MDEyOlJlbGVhc2VBc3NldDE=",
        "name": name,
        "label": None,
        "state": state,
        "content_type": "application/octet-stream",
        "size": size,
        "digest": None,
        "download_count": 42,
        "created_at": PUBLISHED.format(1),
        "updated_at": PUBLISHED.format(1),
        "uploader": {"login": "octocat", "id": 1, "type": "User", "site_admin": False},
    }


def release(tag: str, *assets: Document, day: int = 1, **flags: bool) -> Document:
    """Return a release of that day; ``flags`` are ``draft`` and ``prerelease``."""
    return {
        "url": f"https://api.github.com{RELEASES}/1",
        "html_url": f"https://github.com/octo/app/releases/{tag}",
        "id": 1,
        "node_id": "MDc6UmVsZWFzZTE=",
        "tag_name": tag,
        "target_commitish": "main",
        "name": None,
        "body": None,
        "draft": False,
        "prerelease": False,
        "created_at": PUBLISHED.format(1),
        "published_at": None if flags.get("draft") else PUBLISHED.format(day),
        "author": {"login": "octocat", "id": 1, "type": "User", "site_admin": False},
        "assets": list(assets),
        **flags,
    }


class Github:
    """The API of one repository on a server; every list is conditional, as GitHub's are."""

    def __init__(self, server: Server, *releases: Document) -> None:
        self.server = server
        self.releases = list(releases)
        server.at(RELEASES, self._list)
        server.at(f"{RELEASES}/latest", self._latest)

    @property
    def environ(self) -> Mapping[str, str]:
        """The variables of who uses it."""
        return {"GITHUB_API_URL": self.server.url, "GITHUB_TOKEN": TOKEN}

    def hold(self, number: int, content: bytes, store: Server | None = None) -> None:
        """Hand out an asset: itself, or by a redirect to a store with another address."""

        def answer(to: Exchange) -> None:
            assert to.headers["Accept"] == "application/octet-stream"
            if store is None:
                body(content)(to)
            else:
                there = store.at(f"/{number}", body(content))
                redirect(f"{there}?X-Amz-Signature=secret")(to)

        self.server.at(f"{RELEASES}/assets/{number}", answer)

    def _list(self, to: Exchange) -> None:
        query = parse_qs(urlsplit(to.path).query)
        size, page = int(query.get("per_page", ["30"])[0]), int(query.get("page", ["1"])[0])
        _document(self.releases[(page - 1) * size : page * size])(to)

    def _latest(self, to: Exchange) -> None:
        full = [item for item in self.releases if not (item["draft"] or item["prerelease"])]
        missing = body(b'{"message": "Not Found", "status": "404"}', 404)
        (_document(full[0]) if full else missing)(to)


def _document(content: object) -> Answer:
    text = json.dumps(content).encode()
    etag = f'W/"{hashlib.sha256(text).hexdigest()}"'

    def answer(to: Exchange) -> None:
        assert to.headers["Accept"] == "application/vnd.github+json"
        if to.headers.get("If-None-Match") == etag:
            to.head(304, {"ETag": etag})
        else:
            body(text, 200, ETag=etag, Content_Type="application/json; charset=utf-8")(to)

    return answer
