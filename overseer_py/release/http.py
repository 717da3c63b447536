"""``https://…`` and ``http://…``: a file on a web server.

Asked with the validators of the release that is installed, so an unchanged file costs no transfer.
A server that sends none, or other ones each time, costs a download at each look: what is the same
is decided by the digest, and not here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.message import Message
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from overseer_py.release import places, refusals
from overseer_py.release.candidate import Candidate, Limits
from overseer_py.release.web import Answer, Ask, Web

# Which header says it, and which one asks for what has changed since.
_VALIDATORS = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
_LONGEST = 1024  # characters of a validator that is kept
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~@ -]{0,127}")  # no path, no option, not hidden


class HttpSource:
    """One URL."""

    interval = 300.0

    def __init__(self, url: str, limits: Limits, environ: Mapping[str, str]) -> None:
        self._url = places.web(url)
        self._web = Web(limits, environ)

    def look(self, known: Mapping[str, str]) -> Candidate | None:
        """Return what is at the URL, unless the server says that it is what is known."""
        asked = {by: known[said] for said, by in _VALIDATORS.items() if said in known}
        with self._web.look(Ask(self._url, asked)) as answer:
            return None if answer.unchanged else self._candidate(answer)

    def download(self, candidate: Candidate, into: BinaryIO) -> None:
        """Write what is at the URL now.

        It may be newer than what was looked at.  Then its validators are not those of the
        candidate, and the next look finds it changed.
        """
        self._web.download(Ask(self._url), into)

    def _candidate(self, answer: Answer) -> Candidate:
        said = {name: answer.headers.get(name, "") for name in _VALIDATORS}
        return Candidate(
            name=file_name(answer.headers.get("Content-Disposition", ""), self._url, answer.url),
            place=places.shown(self._url),  # the URL itself may hold a password
            published=refusals.epoch(said["Last-Modified"]),
            size=answer.size,
            known={name: value for name, value in said.items() if 0 < len(value) <= _LONGEST},
        )


def file_name(disposition: str, asked: str, final: str) -> str:
    """Return what the file is called: as the server says, or as the URLs end, if that is safe.

    ``asked`` is the URL before redirects: behind it there may be a store with names of its own.
    """
    header = Message()
    header["Content-Disposition"] = re.sub(r"[\r\n]", " ", disposition)
    names = [header.get_filename() or ""]
    ends = [unquote(urlsplit(url).path.rpartition("/")[2]) for url in (asked, final)]
    names += [end for end in ends if "." in end] + ends
    return next((name for name in names if _SAFE.fullmatch(name)), "release")
