"""The table of signals: what each does to the master and to the workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.commands import Gate
from tests.e2e.test_broken_versions import EXAMPLES, deploy
from tests.load import Load, fetch
from tests.master import HELLO, PATIENCE, PROGRAMS, Master, program
from tests.needs import need

LISTEN = ("--listen", "127.0.0.1:0")


def has(path: Path, text: str) -> bool:
    """Wait until a file holds the text."""
    give_up_at = time.monotonic() + PATIENCE
    while not (path.exists() and text in path.read_text()):
        if time.monotonic() > give_up_at:
            return False
    return True


def test_a_storm_of_usr2_makes_one_rollout_and_one_more(tmp_path: Path) -> None:
    """1,000 signals in a second: the one that runs, exactly one after it, nothing else."""
    gate = Gate(tmp_path)
    with Master(tmp_path, *LISTEN, *gate.options, "--", *program("service")) as master:
        master.ready()
        gate.shut()
        master.send(signal.SIGUSR2)
        master.saw("worker-started", worker="2/0#1")
        for _ in range(1000):
            master.send(signal.SIGUSR2)
        master.send(signal.SIGWINCH)  # is heard after the last of them, signalfd(2)
        master.saw("signal", signal="WINCH")
        gate.open()
        master.saw("rollout-committed", generation=3)
        master.saw("generation-gone", generation=2)
        assert [f["generation"] for f in master.all("rollout-started")] == [2, 3]
        assert len(master.all("rollout-queued")) == 1
        assert master.stop() == 0
        assert len(master.all("rollout-started")) == 2


def test_term_in_the_midst_of_a_rollout_drains_everything(tmp_path: Path) -> None:
    """The rollout is cancelled, both generations drain, the exit status is 0."""
    with Master(tmp_path, *LISTEN, "--settle", "1h", "--workers", "2", "--", *HELLO) as master:
        master.ready()
        master.send(signal.SIGUSR2)
        master.saw("worker-ready", worker="2/1#1")
        assert master.stop() == 0
        master.saw("rollout-cancelled", generation=2)
        drained = {f["worker"] for f in master.all("worker-exited", expected=True)}
        assert drained == {"1/0#1", "1/1#1", "2/0#1", "2/1#1"}


def test_term_drains_and_a_second_one_kills(tmp_path: Path) -> None:
    """The first asks the workers to finish, the second does not wait for them; exit status 0."""
    worker = program("slow_to_stop", "3600")
    with Master(tmp_path, *LISTEN, "--", *worker, env=EXAMPLES) as master:
        master.ready()
        master.send(signal.SIGTERM)
        master.saw("worker-draining")
        assert fetch(master.port()).startswith("hello")
        master.send(signal.SIGINT)
        assert master.wait() == 0
        assert master.saw("worker-exited")["how"] == "was killed by SIGKILL"


def test_quit_does_not_drain(tmp_path: Path) -> None:
    """QUIT ends everything at once, with exit status 0."""
    with Master(tmp_path, *LISTEN, "--", *program("slow_to_stop", "3600"), env=EXAMPLES) as master:
        master.ready()
        master.send(signal.SIGQUIT)
        assert master.wait() == 0
        assert master.saw("worker-exited")["how"] == "was killed by SIGKILL"


def test_a_drain_that_takes_too_long_is_cut(tmp_path: Path) -> None:
    """After --drain-timeout the worker is killed, and the rollout has long been committed."""
    options = [*LISTEN, "--drain-timeout", "500ms"]
    with Master(tmp_path, *options, "--", *program("slow_to_stop", "3600"), env=EXAMPLES) as master:
        master.ready()
        master.send(signal.SIGUSR2)
        master.saw("rollout-committed", generation=2)
        master.saw("drain-timed-out", worker="1/0#1")
        master.saw("generation-gone", generation=1)
        assert master.stop() == 0


def test_ttin_and_ttou_change_the_number_of_workers(tmp_path: Path) -> None:
    """One more, one less, never under one, under load without a loss."""
    with Master(tmp_path, *LISTEN, "--", *HELLO) as master:
        master.ready()
        with Load(master.port()) as load:
            master.send(signal.SIGTTIN)
            master.saw("worker-ready", worker="1/1#1")
            load.more()
            master.send(signal.SIGTTOU)
            master.saw("worker-exited", worker="1/1#1", expected=True)
            after = master.now()
            master.send(signal.SIGTTOU)
            assert master.saw("scaled", after=after)["workers"] == 1
            load.more()
        assert load.failures == []
        assert len(master.workers()) == 1
        assert master.stop() == 0


def test_other_signals_go_to_the_workers(tmp_path: Path) -> None:
    """USR1 and WINCH are forwarded; USR2 too, if it is not the restart signal."""
    notes = tmp_path / "notes"
    options = ["--restart-signal", "USR1"]
    with Master(tmp_path, *options, "--", *program("tells", str(notes))) as master:
        master.ready()
        assert has(notes, "up")
        for number in (signal.SIGWINCH, signal.SIGUSR2):
            master.send(number)
            assert has(notes, number.name)
        master.send(signal.SIGUSR1)
        master.saw("rollout-committed", generation=2)
        master.saw("generation-gone", generation=1)
        assert "SIGUSR1" not in notes.read_text()
        assert master.stop() == 0


def test_the_log_names_the_sender(tmp_path: Path) -> None:
    """Who asked for a rollout is in the log: pid and command."""
    with Master(tmp_path, *LISTEN, "--", *HELLO) as master:
        master.ready()
        code = "import os, sys, signal; os.kill(int(sys.argv[1]), signal.SIGUSR2); sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", code, str(master.pid)], stdin=subprocess.PIPE
        ) as sender:
            heard = master.saw("signal", signal="USR2")
            assert sender.stdin
            sender.stdin.close()
        assert heard["pid"] == sender.pid
        assert sys.executable in heard["command"]
        assert master.stop() == 0


def test_a_signal_during_the_start_waits(tmp_path: Path) -> None:
    """TERM as soon as the command has blocked its signals is honoured, not fatal."""
    with Master(tmp_path, *LISTEN, "--", *HELLO) as master:
        status = Path(f"/proc/{master.pid}/status")
        blocked = f"{1 << (signal.SIGTERM - 1):016x}"
        give_up_at = time.monotonic() + PATIENCE
        while not _blocks(status, int(blocked, 16)):
            assert time.monotonic() < give_up_at
        assert master.stop() == 0


def _blocks(status: Path, bit: int) -> bool:
    lines = status.read_text().splitlines()
    return any(line.startswith("SigBlk") and int(line.split()[1], 16) & bit for line in lines)


def test_stop_delay_keeps_serving(tmp_path: Path) -> None:
    """At stop the workers serve on for the delay, so that a load balancer can look elsewhere."""
    with Master(tmp_path, *LISTEN, "--stop-delay", "1h", "--", *HELLO) as master:
        master.ready()
        master.send(signal.SIGTERM)
        assert master.saw("stopping")["delay"] == 3600
        assert fetch(master.port()).startswith("hello")
        assert not master.all("worker-draining")
        master.send(signal.SIGTERM)
        assert master.wait() == 0


def test_hup_rereads_the_configuration(tmp_path: Path) -> None:
    """Workers and environment change with the file; what a bad file says changes nothing."""
    file = tmp_path / "overseer.toml"
    good = 'listen = ["127.0.0.1:0"]\nworkers = {}\n[env]\nCOLOUR = "{}"\n'
    file.write_text(good.format(1, "blue"))
    with Master(tmp_path, "--config", str(file), "--", *HELLO) as master:
        master.ready()
        port = master.port()
        with Load(port) as load:
            file.write_text("workerz = 3\n")
            master.send(signal.SIGHUP)
            failed = master.saw("reload-failed")
            assert failed["reason"] == f"{file}: workerz: unknown key; did you mean workers?"
            file.write_text(good.format(2, "green"))
            master.send(signal.SIGHUP)
            assert set(master.saw("reloaded")["changed"]) == {"workers", "env.COLOUR"}
            master.saw("rollout-committed", generation=2)
            master.saw("generation-gone", generation=1)
            load.more()
        assert load.failures == []
        assert len(master.workers()) == 2
        for pid in master.workers():
            assert "COLOUR=green" in Path(f"/proc/{pid}/environ").read_text().split("\0")
        assert master.stop() == 0


def test_hup_changes_listeners_as_a_whole(tmp_path: Path) -> None:
    """New addresses are bound first; if one cannot be had, all stays as it was."""
    file = tmp_path / "overseer.toml"
    old, new = tmp_path / "old.sock", tmp_path / "new.sock"
    file.write_text(f'listen = ["tcp=127.0.0.1:0", "old=unix:{old}"]\n')
    options = ["--config", str(file), "--ready", "accept:tcp"]  # it serves the first one only
    with Master(tmp_path, *options, "--", *HELLO) as master:
        master.ready()
        port = master.port("tcp")
        with Load(port) as load:
            file.write_text(f'listen = ["tcp=127.0.0.1:0", "x=unix:{new}", "no=unix:/no/where"]\n')
            master.send(signal.SIGHUP)
            assert "unix:/no/where" in master.saw("reload-failed")["reason"]
            assert old.exists()
            assert not new.exists()
            file.write_text(f'listen = ["tcp=127.0.0.1:0", "new=unix:{new}"]\n')
            master.send(signal.SIGHUP)
            master.saw("listener-closed", name="old")
            load.more()
        assert load.failures == []
        assert new.exists()
        assert not old.exists()
        assert master.port("tcp") == port
        assert master.stop() == 0
        assert not new.exists()


def test_hup_keeps_each_port_with_its_name(tmp_path: Path) -> None:
    """Two listeners on ports that the kernel chose are two, also after a reload."""
    file = tmp_path / "overseer.toml"
    file.write_text('listen = ["a=127.0.0.1:0", "b=127.0.0.1:0"]\nready = "accept:a"\n')
    with Master(tmp_path, "--config", str(file), "--", *HELLO) as master:
        master.ready()
        ports = {name: master.port(name) for name in "ab"}
        file.write_text('listen = ["b=127.0.0.1:0", "a=127.0.0.1:0"]\nready = "accept:b"\n')
        after = master.now()
        master.send(signal.SIGHUP)
        master.saw("rollout-committed", generation=2)
        for name, port in ports.items():
            assert master.saw("listening", after=after, name=name)["address"].endswith(f":{port}")
        assert fetch(ports["b"]).startswith("hello")
        assert not master.all("listener-closed")
        assert master.stop() == 0


def test_hup_does_not_take_a_lost_file_for_an_empty_one(tmp_path: Path) -> None:
    """The file that was there at the start must be there, or the listeners would be closed."""
    (tmp_path / "overseer.toml").write_text('listen = ["127.0.0.1:0"]\n')
    with Master(tmp_path, "--", *HELLO, cwd=tmp_path) as master:
        master.ready()
        file = tmp_path / "overseer.toml"
        file.unlink()
        master.send(signal.SIGHUP)
        assert master.saw("reload-failed")["reason"] == f"{file}: No such file or directory"
        assert fetch(master.port()).startswith("hello")
        assert master.stop() == 0


def test_hup_is_refused_on_the_way_out(tmp_path: Path) -> None:
    """A service that stops binds nothing new."""
    with Master(tmp_path, *LISTEN, "--stop-delay", "1h", "--", *HELLO) as master:
        master.ready()
        master.send(signal.SIGTERM)
        master.saw("stopping")
        master.send(signal.SIGHUP)
        assert master.saw("reload-refused")["reason"] == "the service is stopping"
        assert not master.all("reload-begun")
        master.send(signal.SIGTERM)
        assert master.wait() == 0


def test_hup_during_an_exclusive_rollout_is_not_lost(tmp_path: Path) -> None:
    """A rollout runs what was configured when it began, the one that waits what HUP has read."""
    file, app, gate = (tmp_path / name for name in ("overseer.toml", "app.py", "gate"))
    file.write_text('surge = "exclusive"\n[env]\nX = "A"\n')
    os.mkfifo(gate)
    deploy(PROGRAMS / "slow_to_stop.py", app)
    command = ["--config", str(file), *LISTEN, "--", sys.executable, str(app), str(gate)]
    with Master(tmp_path, *command, env=EXAMPLES) as master:
        master.ready()
        deploy(PROGRAMS / "wants_b.py", app)
        master.send(signal.SIGUSR2)
        master.saw("worker-draining", worker="1/0#1")
        file.write_text('surge = "exclusive"\n[env]\nX = "B"\n')
        master.send(signal.SIGHUP)
        master.saw("rollout-queued")
        gate.write_text("")
        assert "status 4" in master.saw("rollout-rolled-back", generation=2)["reason"]
        master.saw("rollout-committed", generation=3)
        assert master.stop() == 0


def test_a_worker_that_starts_gets_no_forwarded_signal(tmp_path: Path) -> None:
    """It may have no handler yet, and the default action would end it."""
    go = tmp_path / "go"
    with Master(tmp_path, "--ready", f"exec:test -e {go}", "--", "sleep", "1000") as master:
        master.saw("worker-started")
        master.send(signal.SIGUSR1)
        master.saw("signal", signal="USR1")
        go.touch()
        master.ready()
        assert not master.all("worker-exited")
        assert master.stop() == 0


def test_a_master_that_was_stopped_hears_first_and_judges_then(tmp_path: Path) -> None:
    """What came in time is not late because the master was: a virtual machine may pause."""
    options = ["--workers", "3", "--ready", "notify", "--ready-timeout", "5s"]
    with Master(tmp_path, *options, "--", *program("says_ready", str(tmp_path))) as master:
        for slot in range(3):
            master.saw("worker-started", worker=f"1/{slot}#1")
        master.send(signal.SIGSTOP)
        (tmp_path / "go").touch()
        while len(list(tmp_path.glob("said-*"))) < 3:
            assert master.process.poll() is None
        time.sleep(5.5)  # longer than the time-out: that is the point
        master.send(signal.SIGCONT)
        master.ready()
        assert not master.all("worker-late")
        assert master.stop() == 0


def test_the_master_may_have_more_descriptors_than_its_workers(tmp_path: Path) -> None:
    """It takes what it may have, three a worker; the workers get the limit that was set."""
    wrapper = [need("prlimit"), "--nofile=64:4096"]
    with Master(tmp_path, "--workers", "30", "--", "sleep", "1000", wrapper=wrapper) as master:
        master.ready()
        pid = master.workers()[0]
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        (line,) = [line for line in limits if line.startswith("Max open files")]
        assert line.split()[3:5] == ["64", "4096"]
        assert master.stop() == 0


def test_a_failed_rollout_takes_the_reload_back(tmp_path: Path) -> None:
    """Listeners of a configuration that did not become current are closed again."""
    file = tmp_path / "overseer.toml"
    new = tmp_path / "new.sock"
    file.write_text('listen = ["tcp=127.0.0.1:0"]\n')
    with Master(tmp_path, "--config", str(file), "--", *HELLO) as master:
        master.ready()
        file.write_text(
            f'listen = ["tcp=127.0.0.1:0", "new=unix:{new}"]\n'
            'ready = "notify"\nready_timeout = 0.2\n'
        )
        master.send(signal.SIGHUP)
        master.saw("rollout-rolled-back", generation=2)
        master.saw("listener-closed", name="new")
        assert not new.exists()
        master.restart()  # by the old configuration: ready without READY=1
        assert fetch(master.port("tcp")).startswith("hello")
        assert master.stop() == 0


def test_a_listener_that_a_worker_shuts_down_serves_again(tmp_path: Path) -> None:
    """shutdown(2) closes it for everybody; the master listens again."""
    with Master(tmp_path, *LISTEN, "--", *program("shuts_down"), env=EXAMPLES) as master:
        master.ready()
        (pid,) = master.workers()
        port = master.port()
        os.kill(pid, signal.SIGUSR1)
        master.saw("listener-shut-down")
        assert fetch(port).startswith("hello")
        assert master.stop() == 0


def test_a_unix_listener_that_is_shut_down_is_made_anew(tmp_path: Path) -> None:
    """Those who have it cannot be helped, so a rollout follows by itself."""
    path = tmp_path / "app.sock"
    with Master(
        tmp_path, "--listen", f"unix:{path}", "--", *program("shuts_down"), env=EXAMPLES
    ) as master:
        master.ready()
        (pid,) = master.workers()
        os.kill(pid, signal.SIGUSR1)
        master.saw("rollout-committed", generation=2)
        assert fetch(str(path)).startswith("hello")
        assert master.stop() == 0
        assert not path.exists()
