"""The HTTP client as the tests of it ask: in an empty environment, and quickly."""

from __future__ import annotations

import time
from io import BytesIO

import pytest

from overseer_py.errors import FetchError
from overseer_py.release.candidate import Limits
from overseer_py.release.web import Ask, Web
from tests.master import PATIENCE

CONTENT = bytes(range(256)) * 1000
SHORT = Limits(look=0.3, download=0.3)  # for what does not end by itself, and for nothing else


def web(limits: Limits | None = None, **environ: str) -> Web:
    """Return a client; nothing of this process' environment has a say."""
    return Web(limits or Limits(), environ)


def fetched(ask: Ask | str, limits: Limits | None = None, **environ: str) -> bytes:
    """Return what a download writes."""
    into = BytesIO()
    asked = ask if isinstance(ask, Ask) else Ask(ask)
    assert web(limits, **environ).download(asked, into) == len(into.getvalue())
    return into.getvalue()


def fails(ask: Ask | str, limits: Limits | None = None, **environ: str) -> FetchError:
    """Return why a download fails; in one line, in time, and without a secret."""
    begun = time.monotonic()  # what is waited for in vain comes never, or in hours
    with pytest.raises(FetchError) as caught:
        fetched(ask, limits, **environ)
    assert time.monotonic() - begun < PATIENCE
    message = str(caught.value)
    assert "\n" not in message
    assert "secret" not in message
    return caught.value
