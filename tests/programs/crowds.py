"""Connects to a unix socket as often and as fast as it can: ``crowds.py PATH TIMES``.

Keeps what it has opened.  Most connections say nothing; of ten, one sends what is no request, and
one half a line.
"""

import resource
import socket
import sys
from contextlib import suppress

_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
says = {3: b"\x00\xff]\n" * 20, 7: b'{"method": "sta'}
kept = []
for number in range(int(sys.argv[2])):
    client = socket.socket(socket.AF_UNIX)
    client.connect(sys.argv[1])
    with suppress(OSError):  # it had to make room already
        client.send(says.get(number % 10, b""))
    kept.append(client)
