"""What a server says by a status that is neither yes nor unchanged.  Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_LONGEST = (
    24 * 3600.0
)  # seconds; who says "in a year" is mistaken, or wants to keep us from updates
_SPENT = (403, 429)  # the statuses that GitHub sends when the rate limit is used up


_REMEDIES = {
    401: "user and password are missing or wrong; write https://USER:PASSWORD@HOST/…",
    403: "access is denied; has the user, or this address, the right to read it?",
    404: "there is no such thing; check the URL",
    407: "the proxy wants user and password; write them in HTTPS_PROXY",
    410: "it is gone for good; check the URL",
    429: "too many requests; look less often with --interval",
}


def remedy(status: int, beginning: str) -> str:  # noqa: ARG001 - other sources' say more
    """Return what can be done about a status; ``beginning`` is of the body that came with it."""
    if status >= 500:  # noqa: PLR2004 - RFC 9110, 15.6
        return "the server has a problem; it is tried again"
    return _REMEDIES.get(status, "releases come with 200 or 304; check the URL")


def stay_away(status: int, headers: Mapping[str, str], now: float) -> float | None:
    """Return for how many seconds the server asks us to stay away, at most a day.

    None if it does not.  ``now`` is in seconds since the epoch; ``headers`` must not mind the case.
    """
    asked = _seconds(headers.get("Retry-After", ""), now)
    if asked is None and status in _SPENT and headers.get("X-RateLimit-Remaining") == "0":
        reset = _whole(headers.get("X-RateLimit-Reset", ""))
        asked = None if reset is None else reset - now
    return None if asked is None else min(max(asked, 0.0), _LONGEST)


def epoch(date: str) -> float | None:
    """Return the seconds since the epoch of an HTTP date; None if it is none."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):  # 3.11 raises what its parts raise
        return None


def _seconds(text: str, now: float) -> float | None:
    seconds = _whole(text)
    if seconds is not None:
        return seconds
    date = epoch(text) if text else None
    return None if date is None else date - now


def _whole(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,15}", text.strip(), re.ASCII) else None
