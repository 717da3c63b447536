"""Serves every listener that it gets; answers its generation and its pid, also to a datagram."""

import os
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"{os.environ['OVERSEER_GENERATION']} {os.getpid()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def answer_datagrams(listener: socket.socket) -> None:
    """Answer until the process ends."""
    listener.setblocking(True)
    while True:
        _, peer = listener.recvfrom(1024)
        listener.sendto(f"{os.environ['OVERSEER_GENERATION']} {os.getpid()}\n".encode(), peer)


class Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        listener.setblocking(False)  # another worker may take what poll has seen

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept; a client at a unix socket has no address."""
        return self.socket.accept()[0], ("somebody", 0)


given = [socket.socket(fileno=3 + index) for index in range(int(os.environ["LISTEN_FDS"]))]
servers = [Server(each) for each in given if each.type == socket.SOCK_STREAM]
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
for server in servers:
    threading.Thread(target=server.serve_forever, args=[0.05]).start()
for each in given:
    if each.type == socket.SOCK_DGRAM:
        threading.Thread(target=answer_datagrams, args=[each], daemon=True).start()
signal.sigwait({signal.SIGTERM})
for server in servers:
    server.shutdown()
for server in servers:
    server.server_close()
