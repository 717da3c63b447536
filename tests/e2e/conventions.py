"""Programs that are written for other masters."""

from __future__ import annotations

from tests.master import program


def written_for(convention: str, *arguments: str) -> list[str]:
    """Return what runs a program of that kind."""
    return ["--", *program("dialect_program", convention, *arguments)]
