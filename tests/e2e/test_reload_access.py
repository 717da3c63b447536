"""``reload`` of a unix listener with another mode, user or group: it changes with the cut-over."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.e2e.commands import Command, document, overseer
from tests.load import Load, fetch
from tests.master import Master, program
from tests.needs import cannot


class Access:
    """A service at a path, and who may connect there."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "app.sock"
        self.file = directory / "overseer.toml"

    def write(self, options: str, *more: str) -> None:
        """Write the configuration with these options of the listener."""
        lines = [f'listen = ["unix:{self.path}?{options}"]', 'name = "app"', *more]
        words = ", ".join(f'"{word}"' for word in program("all_listeners"))
        self.file.write_text("\n".join([*lines, f"command = [{words}]", ""]))

    @property
    def mode(self) -> int:
        """The mode of the path."""
        return stat.S_IMODE(self.path.stat().st_mode)

    @property
    def owner(self) -> tuple[int, int]:
        """The user and the group of the path."""
        found = self.path.stat()
        return found.st_uid, found.st_gid


@pytest.fixture
def access(tmp_path: Path) -> Access:
    """Give a service that its own user can ask."""
    access = Access(tmp_path)
    access.write("mode=0600")
    return access


def test_a_mode_changes_with_the_cut_over(tmp_path: Path, access: Access) -> None:
    """Not before: a rollout that fails leaves the path as it was; and nobody is lost."""
    with Master(tmp_path, "--config", str(access.file)) as master:
        master.ready()
        with Load(str(access.path), 2) as load:
            access.write("mode=0660", 'ready = "notify"')
            with Command(tmp_path, "reload", "app") as reload:
                candidate = master.saw("worker-started", worker="2/0#1")["pid"]
                assert access.mode == 0o600
                os.kill(candidate, 9)
                assert reload.wait() == 1
            master.saw("generation-gone", generation=2)
            master.restart()
            assert access.mode == 0o600
            access.write("mode=0660")
            assert overseer(tmp_path, "reload", "app").returncode == 0
            assert document(tmp_path, "app")["last_reload"]["changed"] == ["listen"]
            assert access.mode == 0o660
            master.restart()
            assert access.mode == 0o660
            load.more()
        assert load.failures == []
        assert os.listdir(tmp_path).count(access.path.name) == 1
        assert master.stop() == 0
        assert not access.path.exists()


def test_user_and_group_change_with_it(tmp_path: Path, access: Access) -> None:
    """By root; one that does not exist is refused before anything has happened."""
    if os.geteuid() != 0:
        cannot("only root gives files away")
    with Master(tmp_path, "--config", str(access.file)) as master:
        master.ready()
        access.write("mode=0600&user=12345&group=12346")
        assert overseer(tmp_path, "reload", "app").returncode == 0
        assert access.owner == (12345, 12346)
        access.write("mode=0600&group=nobody-of-that-name")
        done = overseer(tmp_path, "reload", "app")
        assert done.returncode == 1
        assert f"listen unix:{access.path}: group nobody-of-that-name: no such group" in done.stderr
        assert not master.all("rollout-started", generation=3)
        assert access.owner == (12345, 12346)
        assert master.stop() == 0


@pytest.mark.parametrize("shared", ['surge = "1"', 'handover = "shared"'])
def test_a_shared_path_stays_as_it_is(tmp_path: Path, access: Access, shared: str) -> None:
    """There is no other socket that could have the mode; it is said, and nothing changes."""
    with Master(tmp_path, "--config", str(access.file)) as master:
        master.ready()
        served = fetch(str(access.path))
        access.write("mode=0660", shared)
        done = overseer(tmp_path, "reload", "app")
        assert done.returncode == 1
        assert "mode, user and group of a listener that is shared (" in done.stderr
        assert access.mode == 0o600
        assert fetch(str(access.path)) == served
        access.write("mode=0600", shared)
        assert overseer(tmp_path, "reload", "app").returncode == 0
        assert master.stop() == 0
