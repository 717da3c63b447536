"""READY=1 and its kin, from workers and to systemd."""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overseer_py.system.notify import Inbox, Message, ServiceManager, microseconds, parse
from tests.master import PATIENCE
from tests.needs import need


@pytest.fixture(name="inbox")
def fixture_inbox() -> Iterator[Inbox]:
    """Return an inbox."""
    with closing(Inbox()) as inbox:
        yield inbox


def send(inbox: Inbox, data: bytes, fds: list[int] | None = None) -> None:
    """Send a datagram, with descriptors, as any process may."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        client.sendmsg([data], rights, 0, "\0" + inbox.address[1:])


def test_a_message_has_its_senders_pid(inbox: Inbox) -> None:
    """The pid is what the kernel says, and not what the message says."""
    code = """
import os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
    client.sendto(b"READY=1\\nMAINPID=1\\nSTATUS=at work: a=b", "\\0" + sys.argv[1][1:])
"""
    with subprocess.Popen([sys.executable, "-c", code, inbox.address]) as worker:
        worker.wait()
    (message,) = list(inbox.read())
    fields = {"READY": "1", "MAINPID": "1", "STATUS": "at work: a=b"}
    assert message == Message(worker.pid, fields)


def test_systemds_own_tool_is_understood(inbox: Inbox) -> None:
    """``systemd-notify --ready`` says READY=1, and its barrier is let through."""
    notify = need("systemd-notify")
    environ = {"NOTIFY_SOCKET": inbox.address}
    command = [notify, "--ready", "--status=up"]
    with subprocess.Popen(command, env=environ, start_new_session=True) as tool:
        fields: dict[str, str] = {}
        while tool.poll() is None:  # it waits until its barrier is closed
            if select.select([inbox.fd], [], [], 0.01)[0]:
                for message in list(inbox.read()):
                    fields.update(message.fields)
    assert tool.returncode == 0
    for message in list(inbox.read()):
        fields.update(message.fields)
    assert fields["READY"] == "1"
    assert fields["STATUS"] == "up"


def test_descriptors_are_not_kept(inbox: Inbox) -> None:
    """What comes with a message is closed: nobody can fill the master's table."""
    before = os.listdir("/proc/self/fd")
    reader, writer = os.pipe()
    for count in (1, 2, 250):
        send(inbox, b"FDSTORE=1", [writer] * count)
        (message,) = list(inbox.read())
        assert message == Message(os.getpid(), {"FDSTORE": "1"})
    os.close(writer)
    assert os.read(reader, 1) == b""  # the last holder is gone
    os.close(reader)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("data", [b"", b"\0\xff", b"no sign", b"=", b"\n\n", b"A=1\nrubbish\nB="])
def test_rubbish_is_passed_over(inbox: Inbox, data: bytes) -> None:
    """A message that means nothing is no error, and its sender is still known."""
    send(inbox, data)
    (message,) = list(inbox.read())
    assert message.pid == os.getpid()
    assert message.fields in ({}, {"": ""}, {"A": "1", "B": ""})


def test_nobody_holds_the_reader_up(inbox: Inbox) -> None:
    """close(2) of a socket waits for what is unsent, if SO_LINGER says so: not of this one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        with server.accept()[0]:  # who does not read
            client.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    client.send(bytes(65536))
            client.setblocking(True)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 50))
            send(inbox, b"FDSTORE=1", [client.fileno()])
            client.close()  # the last one is on its way
            begun = time.monotonic()
            (message,) = list(inbox.read())
            assert message.fields == {"FDSTORE": "1"}
            assert time.monotonic() - begun < 25


def test_a_long_message_is_cut(inbox: Inbox) -> None:
    """What is too long loses its end, not its beginning."""
    send(inbox, b"READY=1\nSTATUS=" + b"x" * 50_000)
    (message,) = list(inbox.read())
    assert message.fields["READY"] == "1"
    assert len(message.fields["STATUS"]) < 4096


def test_many_messages_come_in_turns(inbox: Inbox) -> None:
    """A flood is read in bounded pieces; nothing to read is an empty list."""
    assert list(inbox.read()) == []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as client:
        sent = 0
        try:
            while sent < 100:
                client.sendto(f"N={sent}".encode(), "\0" + inbox.address[1:])
                sent += 1
        except BlockingIOError:  # net.unix.max_dgram_qlen
            pass
    read: list[str] = []
    while messages := list(inbox.read()):
        assert len(messages) <= 64
        read += [message.fields["N"] for message in messages]
    assert read == [str(number) for number in range(sent)]


def test_each_inbox_has_a_name_of_its_own(inbox: Inbox) -> None:
    """Two masters never hear each other's workers; a worker cannot inherit the socket."""
    with closing(Inbox()) as other:
        assert other.address != inbox.address
        send(inbox, b"READY=1")
        assert list(other.read()) == []
    assert inbox.address.startswith("@")
    assert not os.get_inheritable(inbox.fd)


@given(st.binary())
def test_parse_takes_anything(data: bytes) -> None:
    """No datagram is an error."""
    for name in parse(data):
        assert "=" not in name


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1500000", 1.5),
        ("0", 0.0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("²", None),
        ("٣", 3e-6),
        ("9" * 16, None),
    ],
)
def test_microseconds(text: str, seconds: float | None) -> None:
    """A number of microseconds is seconds; anything else is nothing, and no error."""
    assert microseconds(text) == seconds


# -- to systemd -------------------------------------------------------------------------------


@pytest.fixture(name="systemd")
def fixture_systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """Return a socket such as systemd's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(PATIENCE)
        yield systemd


def manager_for(systemd: socket.socket, **environ: str) -> ServiceManager:
    """Return the way to tell this socket."""
    return ServiceManager({"NOTIFY_SOCKET": systemd.getsockname(), **environ})


def test_systemd_is_told(systemd: socket.socket) -> None:
    """Assignments arrive, one a line."""
    with closing(manager_for(systemd)) as manager:
        assert manager.tell(READY=1, STATUS="2 of 2 workers")
        assert systemd.recv(4096) == b"READY=1\nSTATUS=2 of 2 workers"


def test_an_abstract_address_is_understood() -> None:
    """``@name`` is a name that is no file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("")
        address = "@" + systemd.getsockname()[1:].decode()
        with closing(ServiceManager({"NOTIFY_SOCKET": address})) as manager:
            assert manager.tell(WATCHDOG=1)
        assert systemd.recv(4096) == b"WATCHDOG=1"


def test_a_reload_is_dated(systemd: socket.socket) -> None:
    """RELOADING=1 comes with the time of the monotonic clock, in microseconds."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    with closing(manager_for(systemd)) as manager:
        manager.tell_reloading()
    fields = parse(systemd.recv(4096))
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert fields["RELOADING"] == "1"
    assert before <= int(fields["MONOTONIC_USEC"]) <= after


def test_nobody_to_tell_is_no_error(systemd: socket.socket, tmp_path: Path) -> None:
    """No systemd, none that lives, an impossible address: False, at once."""
    for address in ("", "/no/such/socket", "@nobody", "/" + "x" * 200, "relative", "vsock:2:1234"):
        with closing(ServiceManager({"NOTIFY_SOCKET": address})) as manager:
            assert not manager.tell(READY=1)
    with closing(ServiceManager({})) as manager:
        assert not manager.tell(READY=1)
    with closing(manager_for(systemd)) as manager:
        assert manager.tell(READY=1)
        systemd.close()
        assert not manager.tell(READY=1)
        (tmp_path / "notify").unlink()
        assert not manager.tell(READY=1)
        manager.tell_reloading()


def test_a_stuck_systemd_blocks_nobody(systemd: socket.socket) -> None:
    """When its queue is full, a message is lost, and the next is tried as if nothing had been."""
    with closing(manager_for(systemd)) as manager:
        sent = 0
        while manager.tell(N=sent):
            sent += 1
            assert sent < 100_000
        assert systemd.recv(4096) == b"N=0"
        assert manager.tell(N=sent)


def test_a_watchdog_is_for_the_process_that_it_names(systemd: socket.socket) -> None:
    """WATCHDOG_USEC counts if it is a number, and meant for us."""
    own, other = str(os.getpid()), str(os.getppid())
    for environ, seconds in (
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": own}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": other}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ):
        with closing(manager_for(systemd, **environ)) as manager:
            assert manager.watchdog == seconds
    with closing(ServiceManager({"WATCHDOG_USEC": "3000000"})) as manager:
        assert manager.watchdog is None  # nobody to tell


def test_each_message_is_dealt_with_before_the_next_is_taken(inbox: Inbox) -> None:
    """Its sender waits for that (sd_notify_barrier(3)), and could be gone a moment later."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        for number in "12":
            client.sendto(f"STATUS={number}".encode(), "\0" + inbox.address[1:])
    assert next(inbox.read()).fields == {"STATUS": "1"}
    assert next(inbox.read()).fields == {"STATUS": "2"}


def test_what_systemd_waits_for_is_not_lost(systemd: socket.socket) -> None:
    """Where its queue is full there will be room once it reads on: that is waited for."""
    with closing(manager_for(systemd)) as manager:
        while manager.tell(STATUS="busy"):
            pass
        reader = threading.Timer(0.02, systemd.recv, [4096])  # while it waits: nothing tells when
        reader.start()
        assert manager.insist(READY=1)
        reader.join()
        systemd.setblocking(False)
        said: list[bytes] = []
        with suppress(BlockingIOError):
            while True:
                said.append(systemd.recv(4096))
        assert said[-1] == b"READY=1"
