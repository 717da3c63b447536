"""What several tests start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.shops import Shop, release
from tests.e2e.systemd import Box, boot
from tests.release.servers import Server


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Give a systemd with the shipped units."""
    box = boot(tmp_path_factory.mktemp("box"))
    yield box
    assert box.close() == ""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for instances where the test's masters have theirs."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def server() -> Iterator[Server]:
    """Give a web server."""
    with Server() as running:
        yield running


@pytest.fixture
def shop(server: Server) -> Shop:
    """Give a place on it where the first version is to be had."""
    shop = Shop(server)
    shop.offer(release("one"))
    return shop
