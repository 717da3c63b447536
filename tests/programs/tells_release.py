"""Serves at fd 3, and tells where it comes from: release, environment, directory, variables."""

import json
import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

try:
    from version_of_app import VERSION
except ImportError:  # not in the environment of a release
    VERSION = None

TOLD = {
    "version": VERSION,
    "prefix": sys.prefix,
    "executable": sys.executable,
    "argv0": Path("/proc/self/cmdline").read_text().split("\0")[0],
    "cwd": os.getcwd(),
    "script": str(Path(__file__).resolve()),
    "environ": dict(os.environ),
    "pid": os.getpid(),
    "generation": int(os.environ["OVERSEER_GENERATION"]),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(TOLD).encode()
        self.send_response(200)
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


signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
server = Server()
threading.Thread(target=server.serve_forever, args=[0.05]).start()
signal.sigwait({signal.SIGTERM})
server.shutdown()
server.server_close()
