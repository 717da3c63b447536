"""Must not run twice: holds a lock, counts requests in a file, and ends at once on TERM.

What it has answered is counted, and what it has counted is answered, or the client would know.
"""

import fcntl
import os
import socket
import sys
from pathlib import Path

place = Path(sys.argv[1])
lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if another one runs
count = place / "count"
total = int(count.read_text()) if count.exists() else 0
listener = socket.socket(fileno=3)
if sys.argv[2:] and (place / sys.argv[2]).exists():
    raise SystemExit("a broken version")
while True:
    connection, _ = listener.accept()
    with connection:
        if connection.recv(4096):
            total += 1
            count.write_text(str(total))
            body = f"{os.environ['OVERSEER_GENERATION']} {os.getpid()}\n".encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            connection.sendall(head + body)
