"""The process that stands between the master and a program that signals its parent."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.e2e.commands import TCP, document
from tests.e2e.conventions import written_for
from tests.e2e.handovers import hand_over
from tests.e2e.test_death import ended
from tests.load import Load, fetch
from tests.master import PATIENCE, Master
from tests.needs import cannot, need

# In a language that everybody may execute; says that it is ready as grace or as einhorn has it.
FOR_EVERYBODY = r"""
use IO::Socket::INET; use IO::Socket::UNIX;
my $listener = IO::Socket::INET->new; $listener->fdopen(3, 'r+') or die $!;
my $stop = 0; $SIG{TERM} = $SIG{USR2} = sub { $stop = 1 };
if (my $path = $ENV{EINHORN_SOCK_PATH}) {
    my $master = IO::Socket::UNIX->new(Peer => $path) or die $!;
    print {$master} qq({"command":"worker:ack","pid":$$}\n);
} else {
    kill TERM => getppid or die $!;
}
vec(my $wanted = '', 3, 1) = 1;
until ($stop) {
    select(my $found = $wanted, undef, undef, 0.1) > 0 or next;
    my $client = $listener->accept or next;
    while (<$client>) { last if $_ eq "\r\n" }
    print {$client} "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
}
"""


# Counts the USR1 that came until USR2 does; a child of it sends one to their group.
COUNTS = """
import os, signal
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
pid = os.fork()
if pid == 0:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.kill(0, signal.SIGUSR1)
    signal.pause()
while not heard:
    pass
os.write(2, b"a relative has called\\n")
signal.sigwait({signal.SIGUSR2})
os.write(2, b"heard %d\\n" % len(heard))
os.kill(pid, signal.SIGKILL)
signal.pause()
"""


LAST_WORDS = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
sys.stderr.write("it waits\\n")
signal.sigwait({signal.SIGUSR2})
open(sys.argv[1], "w").write("it was asked to drain")
"""


def python(code: str) -> list[str]:
    """Return what runs this code."""
    return [sys.executable, "-c", code]


def test_who_stands_in_holds_nothing(tmp_path: Path) -> None:
    """No listener, no log: one pipe.  Its memory is not counted as the program's."""
    with Master(tmp_path, *TCP, "--inherit", "grace", *written_for("grace")) as master:
        master.ready()
        (pid,) = master.workers()
        (child,) = psutil.Process(pid).children()
        assert fetch(master.port()).split()[1] == str(child.pid)
        assert len(os.listdir(f"/proc/{pid}/fd")) == 1
        (worker,) = document(tmp_path, "dialect_program")["workers"]
        assert worker["pid"] == pid
        assert 0 < worker["rss_bytes"] < 1.5 * child.memory_info().rss
        assert master.stop() == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, 137), (signal.SIGABRT, 134)])
def test_a_programs_end_is_its_own(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """By which signal it ended is told as if nobody had been between."""
    options = [*TCP, "--inherit", "grace", "--on-exit", "exit"]
    with Master(tmp_path, *options, *written_for("grace")) as master:
        master.ready()
        os.kill(int(fetch(master.port()).split()[1]), number)
        assert master.saw("worker-exited")["how"].startswith(f"was killed by {number.name}")
        assert master.wait() == status


def test_a_program_that_cannot_be_executed(tmp_path: Path) -> None:
    """The system's own reason is told."""
    with Master(tmp_path, *TCP, "--inherit", "grace", "--", "/no/such/program") as master:
        assert master.wait() == 5
        reason = "could not execute /no/such/program: No such file or directory"
        assert master.saw("worker-exited")["how"] == reason


def test_signals_to_the_worker_reach_the_program(tmp_path: Path) -> None:
    """By the pid that the log and the status show: an operator's TERM ends it as any other's."""
    with Master(tmp_path, *TCP, "--inherit", "grace", *written_for("grace")) as master:
        master.ready()
        os.kill(master.workers()[0], signal.SIGTERM)
        assert master.saw("worker-exited", expected=False)["how"] == "exited with status 0"
        master.saw("worker-ready", worker="1/0#2")
        assert master.stop() == 0


def test_in_a_container(tmp_path: Path) -> None:
    """A master that is PID 1 is told, though grace tells no init; signals from outside go on."""
    if os.geteuid() != 0:
        cannot("only root can make a namespace of processes")
    alone = [need("unshare"), "--pid", "--fork", "--kill-child", "--mount-proc"]
    options = [*TCP, "--inherit", "grace"]
    with Master(tmp_path, *options, *written_for("grace"), wrapper=alone) as master:
        assert master.saw("overseer-started")["pid"] == 1
        master.ready()
        (one,) = psutil.Process(master.pid).children()
        (between,) = [p for p in one.children() if p.name() == "overseer-parent"]
        between.send_signal(signal.SIGTERM)
        assert master.saw("worker-exited", expected=False)["how"] == "exited with status 0"
        master.saw("worker-ready", worker="1/0#2")
        one.send_signal(signal.SIGTERM)
        assert master.wait() == 0


def test_a_signal_to_the_group_comes_once(tmp_path: Path) -> None:
    """A relative that means the whole group has reached the program already."""
    with Master(tmp_path, "--inherit", "grace", "--", *python(COUNTS)) as master:
        master.saw_line("a relative has called")
        os.kill(master.workers()[0], signal.SIGUSR2)  # goes on to the program behind all others
        assert master.saw_line("heard").endswith("heard 1")
        assert master.stop() == 0


def test_the_masters_death_is_heard(tmp_path: Path) -> None:
    """The program gets the drain signal, through whoever stands in, before the guard kills."""
    said = tmp_path / "said"
    command = [*python(LAST_WORDS), str(said)]
    with Master(tmp_path, "--inherit", "overseer", "--", *command) as master:
        master.saw_line("it waits")
        family = master.descendants()
        master.process.kill()
        assert ended(family, PATIENCE)
        assert said.read_text() == "it was asked to drain"


@pytest.mark.parametrize("convention", ["grace", "einhorn"])
def test_a_program_with_a_user_of_its_own(convention: str) -> None:
    """It may signal whoever stands in, or connect, though it may not signal the master.

    The master is as root is in a container: it may not look into other users' processes.
    """
    if os.geteuid() != 0:
        cannot("only root can run workers as another user")
    drop = [need("setpriv"), "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    options = [*TCP, "--inherit", convention, "--user", "nobody", "--chdir", "/"]
    options += ["--quiet-timeout", "30s"]
    if convention == "einhorn":
        options += ["--ready", "fd"]
    with tempfile.TemporaryDirectory() as place:  # tmp_path is not for others
        command = [*options, "--", need("perl"), "-e", FOR_EVERYBODY]
        with Master(Path(place), *command, wrapper=drop) as master:
            master.ready()
            for process in psutil.Process(master.pid).children(recursive=True):
                if process.name() != "overseer-guard":
                    assert process.username() == "nobody"
            with Load(master.port()) as load:
                hand_over(master, load, 1)
            assert load.failures == []
            assert master.stop() == 0
