"""Which of two versions is the later one: what is installed never goes down by itself.  Pure.

The order is that of <https://semver.org/#spec-item-11>, made to fit tags as they are:

- a word in front (``v1.2``, ``app-v1.2``, ``release/1.2``) says which line of versions it is; lines
  that differ cannot be compared; a ``v`` is no word
- the numbers count as numbers, and as many zeros follow as are wanted: 1.2 = 1.2.0 < 1.10
- what follows them makes it a pre-release, which is before the release: 1.2-rc1 < 1.2rc2 < 1.2;
  but ``post`` makes it a later one: 1.2 < 1.2.post1
- within that, digits count as numbers and come before words: alpha.1 < alpha.10 < beta < rc
- what follows a ``+`` does not count
"""

from __future__ import annotations

import re

from overseer_py.errors import VetoError

_LONGEST = 128  # characters; tags are shorter, and int() has its limits
_VERSION = re.compile(r"(?P<line>[^\d+]*)(?P<numbers>\d+(?:\.\d+)*)(?P<rest>[^+]*)(?:\+.*)?")
_WORDS = re.compile(r"\d+|[a-z]+")
_STATED = re.compile(r"(?:^|[\s,;])version:([^\s,;]+)")

# The numbers; before, at or after the release; what tells pre-releases apart.
Place = tuple[tuple[int, ...], int, tuple[tuple[int, int, str], ...]]


def stated(comment: str) -> str:
    """Return the version that a trusted comment states as ``version:X``, or an empty string."""
    found = set(_STATED.findall(comment))
    if len(found) > 1:
        raise VetoError(f"the trusted comment states several versions: {', '.join(sorted(found))}")
    return found.pop() if found else ""


def check_not_older(installed: str, offered: str) -> None:
    """Raise VetoError if the offered version is, or may be, before the installed one.

    Nothing can be said if none is installed (an empty string); the same version again is no step
    down.  What allows a downgrade does not call this.
    """
    if not installed or installed == offered:
        return
    if not offered:
        raise VetoError(f"it has no version, but {installed} is installed; --allow-downgrade")
    was, will = _place(installed), _place(offered)
    if was is None or will is None or was[0] != will[0]:
        raise VetoError(
            f"its version {offered!r} cannot be compared with {installed!r}, which is installed; "
            "--allow-downgrade"
        )
    if will[1] < was[1]:
        raise VetoError(
            f"its version {offered} is before {installed}, which is installed; --allow-downgrade"
        )


def _place(text: str) -> tuple[str, Place] | None:
    """Return the line of a version and its place there, or None if it is no version."""
    match = _VERSION.fullmatch(text.strip().lower())
    if match is None or len(text) > _LONGEST:
        return None
    line = match["line"].removesuffix("v").strip("-_/. ")
    numbers = [int(number) for number in match["numbers"].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    words = _WORDS.findall(match["rest"])
    rank = 0 if not words else 1 if words[0] == "post" else -1
    told = tuple((0, int(word), "") if word.isdigit() else (1, 0, word) for word in words)
    return line, (tuple(numbers), rank, told)
