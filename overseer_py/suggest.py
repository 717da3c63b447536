"""The nearest known name, for errors that are a typing error away from right."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return ``"; did you mean …?"`` for the nearest known name, or nothing.

    A ``prefix`` that all have in common makes none of them nearer.
    """
    names = [name.removeprefix(prefix) for name in known]
    near = get_close_matches(word.removeprefix(prefix), names, n=1, cutoff=0.6)
    return f"; did you mean {prefix}{near[0]}?" if near else ""
