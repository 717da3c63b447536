"""What need be fetched of a source, and what is known of it already."""

from __future__ import annotations

import os
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from overseer_py.errors import FetchError
from overseer_py.proposals import Begin
from overseer_py.release.candidate import Candidate
from overseer_py.release.scout import Scout


def scout(path: Path, **settings: Any) -> Scout:
    """Return one for a file, which has been still for long."""
    os.utime(path, (1_000_000_000, 1_000_000_000))
    defaults = {"interval": None, "max_size": 1 << 20, "fetch_user": "", "min_age": 0.0}
    return Scout(Begin({"fetch": f"file:{path}", **defaults, **settings}, "/", "", 0))


def found(of: Scout, known: dict[str, str] | None = None) -> Candidate | str:
    """Return what it finds, once the file is still."""
    result = of.look(known or {})
    while result == "nothing new" and not known:
        result = of.look({})
    return result


def test_what_is_known_is_not_offered(tmp_path: Path) -> None:
    """By the same source; what another one has said means nothing here."""
    app = tmp_path / "app"
    app.write_text("one")
    mine = scout(app)
    candidate = found(mine)
    assert isinstance(candidate, Candidate)
    known = mine.known(candidate)
    assert found(mine, known) == "nothing new"
    assert found(scout(app), known) == "nothing new"
    foreign = {**known, "overseer.source": "another"}
    while not isinstance(mine.look(foreign), Candidate):  # two looks must agree
        pass


def test_what_was_judged_is_not_fetched_again(tmp_path: Path) -> None:
    """Its verdict is repeated until it is forgotten, or something else is there."""
    app = tmp_path / "app"
    app.write_text("one")
    mine = scout(app)
    candidate = found(mine)
    assert isinstance(candidate, Candidate)
    into = BytesIO()
    mine.download(candidate, into)
    assert into.read() == b"one"
    mine.judge(candidate, "it is held")
    assert mine.look({}) == "it is held"
    mine.forget()
    assert isinstance(found(mine), Candidate)
    mine.judge(candidate, "it is held")
    app.write_text("two and more")
    os.utime(app, (1_000_000_001, 1_000_000_001))
    assert isinstance(found_other(mine), Candidate)


def found_other(of: Scout) -> Candidate | str:
    """Return what it finds besides what was judged."""
    result: Candidate | str = "it is held"
    while result == "it is held":
        result = of.look({})
    return result


def test_how_old_it_must_be(tmp_path: Path) -> None:
    """By what the source says of its age."""
    app = tmp_path / "app"
    app.write_text("one")
    assert isinstance(found(scout(app, min_age=60.0)), Candidate)
    mine = scout(app, min_age=1e10)
    verdict = "nothing new"
    while verdict == "nothing new":
        result = mine.look({})
        assert isinstance(result, str)
        verdict = result
    assert "too young" in verdict


def test_what_lies_beside_a_release(tmp_path: Path) -> None:
    """A list of digests, a signature: something small, read at once."""
    beside = tmp_path / "SHA256SUMS"
    beside.write_text("0" * 64)
    os.utime(beside, (1_000_000_000, 1_000_000_000))
    app = tmp_path / "app"
    app.write_text("one")
    while True:
        with suppress(FetchError):  # not before it has been still for a second
            assert scout(app).read(f"file:{beside}") == b"0" * 64
            return
