"""A server and its clients with a distance between them, which loopback does not have.

Two network namespaces, each with one end of a wire, a TUN device (Linux's
Documentation/networking/tuntap.rst).  A process carries every packet from one end to the other, as
late as the distance is long.  It owns all of it: with this process, and whoever was started
inside, the devices and the namespaces are gone.  Neither is to be seen from outside.

Run as a program, this file is the wire, or the clients:

    distance.py wire SECONDS IP      (inside unshare --net; IP is the path of iproute2's ip)
    distance.py clients PORT NUMBER SECONDS
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.load import PATIENCE, Answer, Load
from tests.master import ROOT
from tests.needs import cannot, need

SERVER, CLIENTS = "10.9.0.1", "10.9.0.2"  # only inside
LIFE = 110  # seconds after which what was started here ends, whatever its starter does
MOST = 20_000  # requests of all clients together
ME = [sys.executable, "-m", "tests.e2e.distance"]

_CLONE_NEWNET = 0x40000000
_TUN = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFREQ = struct.Struct("16sH22x")
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000  # IP packets, and nothing in front of them
_MOST_BYTES = 1 << 16  # of a packet
_STDIN = 0
_TABLE_OF_CHILDREN = "/proc/sys/net/ipv4/tcp_child_ehash_entries"  # of those to be made in here


class Distance:
    """Two network namespaces and the wire between them; what cannot be had skips the test."""

    def __init__(self, round_trip: float) -> None:
        """Stretch the wire; ``round_trip`` is in seconds."""
        self._round_trip = round_trip
        unshare, nsenter, ip = need("unshare"), need("nsenter"), need("ip")
        # With a user namespace nobody needs to be root, and root is nothing else than anybody.
        inside = [unshare, "--user", "--map-root-user", "--net", "--"]
        self._wire = _start([*inside, *ME, "wire", str(round_trip / 2), ip], subprocess.PIPE)
        ends = self._stretched()
        enter = [nsenter, "--preserve-credentials", f"--user=/proc/{self._wire.pid}/ns/user"]
        self.server = [*enter, f"--net={ends['server']}", "--"]  # in front of a command
        self.clients = [*enter, f"--net={ends['clients']}", "--"]

    def _stretched(self) -> dict[str, str]:
        """Wait for the wire; return the network namespaces of its ends."""
        assert self._wire.stdout
        line = self._wire.stdout.readline()
        if not line:
            why = self._wire.communicate()[1].strip()
            cannot(f"no network namespaces with a TUN device: {why}")
        ends: dict[str, str] = json.loads(line)
        return ends

    def load(self, port: int, clients: int) -> FarLoad:
        """Return so many clients of a server at this port, at the other end.

        They begin one after the other while the first one connects and gets its answer: so at any
        moment there are some at every stage of a request.
        """
        begin = str(2 * self._round_trip)
        command = [*self.clients, *ME, "clients", str(port), str(clients), begin]
        return FarLoad(command, port, clients)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        complaint = self._wire.communicate(timeout=PATIENCE)[1]
        assert error or self._wire.returncode == 0, complaint


class FarLoad(Load):
    """Clients in a process at the other end, which tells how each request ended."""

    def __init__(self, command: list[str], port: int, clients: int) -> None:
        super().__init__((SERVER, port), clients)
        self._command = command
        self._threads = [threading.Thread(target=self._hear, daemon=True)]

    def _hear(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with self._news:
                self.answers.append(Answer(**json.loads(line)))
                self._news.notify_all()

    def __enter__(self) -> Self:
        self._process = _start(self._command)
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        with self._process:
            assert self._process.stdin
            self._process.stdin.close()  # they finish what they have begun, and tell it
            super().__exit__(kind, error, _)
        assert error or self._process.returncode == 0


def _start(command: list[str], stderr: int | None = None) -> subprocess.Popen[str]:
    """Start a process that ends when its stdin does, and so with its starter."""
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, text=True, cwd=ROOT)


# -- the wire: a process in the clients' network namespace, which makes the server's -------------


def wire(delay: float, ip: str) -> None:
    """Make both ends, say where they are, and carry packets until stdin ends."""
    try:
        clients = tun("clients", CLIENTS, SERVER, ip)
        kept = os.open("/proc/self/ns/net", os.O_RDONLY)
        leave_network()
        server = tun("server", SERVER, CLIENTS, ip)
    except OSError as error:
        sys.exit(str(error))
    me = f"/proc/{os.getpid()}"
    tell({"server": f"{me}/ns/net", "clients": f"{me}/fd/{kept}"})
    carry(server, clients, delay)


def tun(name: str, address: str, peer: str, ip: str) -> int:
    """Make a TUN device that leads to ``peer``; return the descriptor with its packets."""
    fd = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), _IFF_TUN | _IFF_NO_PI))
    set_up = f"address add {address} peer {peer} dev {name}\nlink set {name} up\nlink set lo up\n"
    subprocess.run([ip, "-batch", "-"], input=set_up, text=True, check=True)
    return fd


def leave_network() -> None:
    """Move to a network namespace of our own: unshare(2), which Python names from 3.12 on.

    It gets a table of connections of its own, and a small one, where the kernel can (Linux 6.1):
    with the machine's, which is as large as its memory suggests, the master's look at the
    connections takes so long that meanwhile a handshake is over, whether it was waited for or not.
    """
    with suppress(OSError):
        Path(_TABLE_OF_CHILDREN).write_text("1024")
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")


def carry(here: int, there: int, delay: float) -> None:
    """Bring each packet to the other end so many seconds late, until stdin ends."""
    other = {here: there, there: here}
    under_way: deque[tuple[float, int, bytes]] = deque()  # in order: all are equally late
    watch = select.poll()
    for fd in (_STDIN, here, there):
        watch.register(fd, select.POLLIN)
    while True:
        due = 1000 * (under_way[0][0] - time.monotonic()) if under_way else None
        for fd, _ in watch.poll(None if due is None else max(0, due)):
            if fd == _STDIN:
                return
            under_way.append((time.monotonic() + delay, other[fd], os.read(fd, _MOST_BYTES)))
        while under_way and under_way[0][0] <= time.monotonic():
            _, end, packet = under_way.popleft()
            os.write(end, packet)


# -- the clients: a process in the other namespace -----------------------------------------------


class Spread(Load):
    """Clients who begin one after the other, within so many seconds."""

    def __init__(self, port: int, clients: int, seconds: float) -> None:
        super().__init__((SERVER, port), clients)
        self._seconds = seconds

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
            time.sleep(self._seconds / self.clients)
        return self


def ask(port: int, number: int, begin: float) -> None:
    """Have so many clients ask until stdin ends, and tell how each request ended."""
    told = 0
    with Spread(port, number, begin) as load:
        while told < MOST and not select.select([_STDIN], [], [], 0)[0]:
            load.reached(told + 1)
            told += tell(*map(asdict, load.answers[told:]))
    tell(*map(asdict, load.answers[told:]))


def tell(*facts: dict[str, object]) -> int:
    """Print each fact as a line of JSON; return how many they were."""
    for fact in facts:
        print(json.dumps(fact), flush=True)  # noqa: T201 - the pipe to the test
    return len(facts)


def main(role: str, *words: str) -> None:
    """Be the wire, or the clients."""
    signal.alarm(LIFE)
    if role == "wire":
        wire(float(words[0]), words[1])
    else:
        ask(int(words[0]), int(words[1]), float(words[2]))


if __name__ == "__main__":
    main(*sys.argv[1:])
