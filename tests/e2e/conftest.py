"""What is costly to have, and is had once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.supervisors import Box, boot


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Give a systemd with the shipped units."""
    box = boot(tmp_path_factory.mktemp("box"))
    yield box
    assert box.close() == ""
