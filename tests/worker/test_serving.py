"""serve() ends every connection in the way that it needs."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.master import PATIENCE, program


@contextmanager
def serving(linger: float = 0.2) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Give the program, and its port."""
    command, pipe = program("worker_serves", str(linger)), subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def connect(port: int, line: bytes = b"", answer: bytes = b"") -> socket.socket:
    """Return a connection on which this was said, and this heard."""
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
    connection.sendall(line)
    assert connection.recv(len(answer), socket.MSG_WAITALL) == answer
    return connection


def the_end(connection: socket.socket) -> bytes:
    """Return what is heard until the connection ends; a reset is an error."""
    with connection:
        return b"".join(iter(lambda: connection.recv(100), b""))


def test_the_end_of_each() -> None:
    """Idle: the end.  Active: the answer, then the end.  Late: cancelled, at last cut off."""
    with serving() as (process, port):
        idle = connect(port, b"hello\n", b"hello\n")
        active = connect(port, b"first\nuntil the drain\n", b"first\n")
        hangs = connect(port, b"first\nhang\n", b"first\n")
        clings = connect(port, b"first\ncling\n", b"first\n")
        new = connect(port)
        process.terminate()
        assert the_end(idle) == b""
        assert the_end(active) == b"until the drain\n"
        assert the_end(new) == b""
        assert the_end(hangs) == b""
        assert the_end(clings) == b""
        assert process.stdout
        assert process.stdout.read() == "late 2\n"
        assert process.stderr
        assert process.stderr.read() == ""
        assert process.wait(PATIENCE) == 0


def test_clients_are_served_during_the_linger() -> None:
    """Until it is over, whoever comes is answered."""
    with serving(linger=3.0) as (process, port):
        kept = connect(port, b"hello\n", b"hello\n")
        process.terminate()
        kept.sendall(b"again\n")
        assert kept.recv(6, socket.MSG_WAITALL) == b"again\n"
        assert the_end(kept) == b""
        assert process.wait(PATIENCE) == 0
