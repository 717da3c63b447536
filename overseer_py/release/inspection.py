"""Whether a release may be installed: everything that was asked for is checked, or it is vetoed.

The bytes are judged as they were fetched, before anything parses them; what is judged is what is
unpacked, from the same open file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from overseer_py.errors import FetchError, VetoError
from overseer_py.release import archive, hooks, program, verify, versions
from overseer_py.release.candidate import Candidate

ReadText = Callable[[str], bytes]  # the content at a URL; raises FetchError


@dataclass(frozen=True, slots=True)
class Demands:
    """What a release must be, as the settings have it; empty: not asked for."""

    url: str
    sha256: str = ""
    minisign: str = ""
    allow_downgrade: bool = False
    check: str = ""
    max_size: int = 1 << 30


def verified(
    artifact: BinaryIO, digest: str, candidate: Candidate, demands: Demands, read: ReadText
) -> tuple[str, bool]:
    """Return the version of what was fetched, once digest and signature are as asked for.

    And whether the signature states it: whoever can make a tag need not have the key.

    Raises VetoError; and FetchError if what they must be compared with cannot be read now.
    """
    if demands.sha256:
        verify.check_sha256(digest, _wanted(demands.sha256, candidate, read))
    stated = ""
    if demands.minisign:
        made = verify.signature(read(companion(demands.url, candidate, ".minisig")))
        artifact.seek(0)
        verify.check_signature(artifact, made, verify.public_key(demands.minisign))
        stated = versions.stated(made.trusted_comment)
    return stated or candidate.version, bool(stated)


def unpacked(artifact: BinaryIO, candidate: Candidate, into: str, demands: Demands) -> str:
    """Unpack what was verified below a directory; return the path of it.  Raises VetoError."""
    staged = archive.unpack(artifact, candidate.name, into, demands.max_size)
    if not os.path.isdir(staged):
        program.check_program(staged)
    return staged


def checked(staged: str, demands: Demands, facts: dict[str, str]) -> None:
    """Let the user's own command see it; raise VetoError with what it says if it fails."""
    if demands.check and (why := hooks.run("check", demands.check, facts, staged)):
        raise VetoError(why)


def companion(url: str, candidate: Candidate, ending: str) -> str:
    """Return the URL of a file that lies beside a release, with this ending behind its name."""
    if url.startswith("github:"):
        project = url.partition("#")[0].partition("@")[0]
        return f"{project}@{candidate.version}#{candidate.name}{ending}"
    place, mark, query = url.partition("?")
    return f"{place}{ending}{mark}{query}"


def _wanted(sha256: str, candidate: Candidate, read: ReadText) -> str:
    """Return the digest that was given, or is listed at the URL that was given."""
    if ":" not in sha256:
        return verify.sha256_given(sha256)
    url = sha256.replace("{version}", candidate.version).replace("{name}", candidate.name)
    try:
        text = read(url).decode()
    except UnicodeDecodeError:
        raise FetchError("sha256: the list of digests is no text") from None
    return verify.sha256_listed(text, candidate.name)
