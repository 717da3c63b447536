"""A server as it is written for another master; answers its generation and its pid.

    dialect_program.py CONVENTION

GATE    a FIFO: serve, and say that it is ready once somebody has opened and closed it
ACK     for einhorn, how to say so: path, fd, or yaml (what its Ruby library writes)
SLOW    seconds that /slow takes
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PARENT = os.getppid()
E = os.environ


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/slow":
            time.sleep(float(E["SLOW"]))
        if self.path == "/restart":
            os.kill(PARENT, signal.SIGUSR2)
        body = f"{E.get('OVERSEER_GENERATION', '0')} {os.getpid()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


class Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, fd: int) -> None:
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(fileno=fd)
        self.socket.setblocking(False)
        threading.Thread(target=self.serve_forever, args=[0.05]).start()


def serve(fds: list[int], end: signal.Signals, released: Callable[[], None] | None = None) -> None:
    """Serve until the signal; a second one ends the program at once, as Go's libraries do."""
    ended = threading.Event()

    def on_signal(*_: object) -> None:
        signal.signal(end, signal.SIG_DFL)
        ended.set()

    signal.signal(end, on_signal)
    servers = [Server(fd) for fd in fds]
    say_ready()
    ended.wait()
    for server in servers:
        server.shutdown()
        server.socket.close()
    if released:
        released()
    for server in servers:
        server.server_close()


def wait() -> None:
    sys.stderr.write(f"generation {E['OVERSEER_GENERATION']} serves\n")
    if gate := E.get("GATE"):
        Path(gate).read_bytes()


def say_ready() -> None:
    wait()
    match sys.argv[1]:
        case "grace" if PARENT != 1:
            os.kill(PARENT, signal.SIGTERM)
        case "einhorn":
            acknowledge()


def overseer() -> None:
    assert E["OVERSEER_IS_SLAVE"] == E["OVERSEER_IS_WORKER"] == "1"
    assert int(E["OVERSEER_SLAVE_ID"]) == int(E["OVERSEER_WORKER_ID"])
    assert len(bytes.fromhex(E["OVERSEER_BIN_ID"])) == 20
    assert os.access(E["OVERSEER_BIN_PATH"], os.X_OK)
    fds = [3 + i for i in range(int(E["OVERSEER_NUM_FDS"]))]
    serve(fds, signal.SIGUSR2, lambda: os.kill(PARENT, signal.SIGUSR1))


def grace() -> None:
    serve([3 + i for i in range(int(E["LISTEN_FDS"]))], signal.SIGTERM)


def gracehttp() -> None:
    assert E["IS_GRACEFUL"]
    serve([3], signal.SIGTERM)


def endless() -> None:
    """Two servers in one program; each of them tells the parent, and not at the same time."""
    assert E["ENDLESS_CONTINUE"]
    order = E["ENDLESS_SOCKET_ORDER"].split(",")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    os.kill(PARENT, signal.SIGTERM)
    first = Server(3 + order.index(sys.argv[2]))
    wait()
    os.kill(PARENT, signal.SIGTERM)
    second = Server(3 + order.index(sys.argv[3]))
    signal.sigwait({signal.SIGTERM})
    for server in (first, second):
        server.shutdown()
        server.server_close()


def einhorn() -> None:
    assert int(E["EINHORN_MASTER_PID"]) == PARENT
    assert E["EINHORN_FDS"].split() == [E[f"EINHORN_FD_{i}"] for i in range(2)]
    assert int(E["EINHORN_CHILD_INDEX"]) == 0
    serve([int(E[f"EINHORN_FD_{i}"]) for i in range(int(E["EINHORN_FD_COUNT"]))], signal.SIGUSR2)


def acknowledge() -> None:
    message = json.dumps({"command": "worker:ack", "pid": os.getpid()}).encode() + b"\n"
    if E["ACK"] == "fd":
        os.write(int(E["EINHORN_SOCK_FD"]), message)
        return
    with socket.socket(socket.AF_UNIX) as to_master:
        to_master.connect(E["EINHORN_SOCK_PATH"])
        if E["ACK"] == "yaml":
            message = f"---%0Acommand: worker:ack%0Apid: {os.getpid()}%0A\n".encode()
        to_master.sendall(message[:9])
        to_master.sendall(message[9:])


def insists() -> None:
    """Tell the parent again and again, as no program does."""
    threading.Thread(target=_insist, daemon=True).start()
    serve([3], signal.SIGTERM)


def _insist() -> None:
    while True:
        os.kill(PARENT, signal.SIGTERM)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
