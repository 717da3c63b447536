"""A server that is ready when and as its environment says; answers its generation and its pid.

GATE    a FIFO: wait at the start until somebody has opened and closed it
START   seconds that the start takes
TELL    how to say that it is ready: notify, or fd
HEALTH  the status with which /health is answered
SLOW    seconds that /slow takes
"""

import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        health = self.path == "/health"
        if self.path == "/slow":
            time.sleep(float(os.environ["SLOW"]))
        body = f"{os.environ['OVERSEER_GENERATION']} {os.getpid()}\n".encode()
        self.send_response(int(os.environ.get("HEALTH", "200")) if health else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


class Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(fileno=3)
        self.socket.setblocking(False)  # another process may take what poll has seen


def tell() -> None:
    match os.environ.get("TELL"):
        case "notify":
            address = os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to_master:
                to_master.sendto(b"READY=1\nSTATUS=serving", address)
        case "fd":
            ready = int(os.environ["OVERSEER_READY_FD"])
            os.write(ready, b"not yet")
            os.write(ready, b"\n")
            os.close(ready)


def main() -> None:
    sys.stderr.write(f"generation {os.environ['OVERSEER_GENERATION']} begins\n")
    if gate := os.environ.get("GATE"):
        Path(gate).read_bytes()
    time.sleep(float(os.environ.get("START", "0")))
    server = Server()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=server.serve_forever, args=[0.05]).start()
    tell()
    signal.sigwait({signal.SIGTERM})
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    main()
