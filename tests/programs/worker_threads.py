"""http.server with kept-alive connections: drained by the mixin, or as a program does at TERM."""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from overseer_py import worker


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"{os.environ['OVERSEER_GENERATION']} 0 {os.getpid()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Keep quiet."""


class PoliteHandler(worker.DrainingHandlerMixIn, Handler):
    pass


class PoliteServer(worker.DrainingMixIn, ThreadingHTTPServer):
    pass


def plain():
    server = ThreadingHTTPServer(("", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = worker.listeners()[0]
    worker.draining.call(server.shutdown)
    worker.ready()
    server.serve_forever(0.05)


if sys.argv[1:] == ["plain"]:
    plain()
else:
    PoliteServer.on(worker.listeners()[0], PoliteHandler).serve_until_drained()
