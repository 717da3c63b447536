"""A server that locks its database for itself alone, and notes every request in it.

With a file named "broken" beside it, it dies before it has bound its port.
"""

import os
import sqlite3
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

database = sqlite3.connect("hits.db", timeout=0)
database.execute("PRAGMA locking_mode = EXCLUSIVE")
database.execute("CREATE TABLE IF NOT EXISTS hits (generation INTEGER)")
database.execute("BEGIN EXCLUSIVE")  # or it is locked, and that is the end
database.commit()
if os.path.exists("broken"):
    sys.exit(3)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        with database:
            database.execute("INSERT INTO hits VALUES (?)", [os.environ["OVERSEER_GENERATION"]])
        body = f"{os.environ['OVERSEER_GENERATION']} 0 {os.getpid()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Keep quiet."""


HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
