"""A server that binds for itself, in a way that the file "what" says at its start.

listen PORT|PATH …   serve there
check PORT           see first whether the port is free, by binding it, then serve there
copy PORT            copy the socket before it is bound (and serve the copy)
options PORT         set options before it is bound; answer with what an accepted one has
never                live, and bind nothing
waits PORT           bind once there is a file "go"
late PORT PORT       serve at the first, and at the second once there is a file "late"
ends PORT            end each connection as soon as it is accepted
dies PORT            bind, and exit with status 3
unheard PORT         bind and listen, and never accept
"""

import os
import selectors
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path


def opened(place):
    if "/" in place:
        with suppress(FileNotFoundError):
            os.unlink(place)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(place)
    else:
        host, _, port = place.rpartition(":")
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if what == "options":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 4321)
            listener.setblocking(False)
        if what == "copy":
            listener, original = listener.dup(), listener
            original.bind((host or "127.0.0.1", int(port)))
        else:
            listener.bind((host or "127.0.0.1", int(port)))
    return listener


def answer(listener):
    connection, _ = listener.accept()
    if what == "ends":
        connection.close()
        return
    with connection, suppress(OSError):
        connection.setblocking(True)
        request = b""
        while b"\r\n\r\n" not in request:
            if not (more := connection.recv(4096)):
                return
            request += more
        body = f"{os.environ['OVERSEER_GENERATION']} 0 {os.getpid()}\n"
        if what == "options":
            keepalive = connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            timeout = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            body = f"{keepalive} {timeout} {os.get_blocking(listener.fileno())}"
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall((head + body).encode())


what, *places = Path("what").read_text().split()
if what == "never":
    time.sleep(3600)
while what == "waits" and not os.path.exists("go"):
    time.sleep(0.01)
if what == "check":
    opened(places[0]).close()
if what == "late":
    *places, second = places
listeners = [opened(place) for place in places]
if what == "dies":
    sys.exit(3)
with selectors.DefaultSelector() as selector:
    for listener in listeners:
        listener.listen(5)
        selector.register(listener, selectors.EVENT_READ)
    while what != "unheard":
        if what == "late" and os.path.exists("late"):
            what = "listen"
            listener = opened(second)
            listener.listen()
            selector.register(listener, selectors.EVENT_READ)
        for key, _ in selector.select(0.05 if what == "late" else None):
            with suppress(BlockingIOError):
                answer(key.fileobj)
    time.sleep(3600)
