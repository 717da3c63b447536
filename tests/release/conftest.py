"""Servers for the tests of sources."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.release import certificates
from tests.release.servers import Server


@pytest.fixture
def server() -> Iterator[Server]:
    """Give a web server without TLS."""
    with Server() as running:
        yield running


@pytest.fixture
def foreign() -> Iterator[Server]:
    """Give another one, which is another host to whom it concerns."""
    with Server() as running:
        yield running


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a key and a certificate of 127.0.0.1 in one file."""
    return certificates.certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secure(certificate: Path) -> Iterator[Server]:
    """Give a web server with TLS; who trusts ``certificate`` trusts it."""
    with Server(certificate) as running:
        yield running


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Give a small program in a directory."""
    tree = tmp_path / "srv" / "app"
    (tree / "package").mkdir(parents=True)
    for name in ("main.py", "package/__init__.py", "package/code.py"):
        (tree / name).write_text(f"# {name}\n")
    return tree


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """Where a release is to be; in the end nothing of what is made on the way is left there."""
    place = tmp_path / "srv"
    place.mkdir()
    yield str(place / "app")
    assert set(os.listdir(place)) <= {"app", "app.releases", "elsewhere"}
    if (place / "app.releases").is_dir():
        assert not [name for name in os.listdir(place / "app.releases") if name.startswith(".")]
