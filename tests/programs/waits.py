"""Waits for connections on fd 3: ``waits.py HOW WHERE SECONDS``.

HOW      epoll, poll, select or accept; or never: looks again and again whether there is one
WHERE    worker, thread or child
SECONDS  later it begins to
"""

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable

WORK = 0.005  # seconds that an answer takes


def waiter(how: str, listener: socket.socket) -> Callable[[], object]:
    match how:
        case "epoll":
            epoll = select.epoll()
            epoll.register(listener, select.EPOLLIN)
            return epoll.poll
        case "poll":
            poll = select.poll()
            poll.register(listener, select.POLLIN)
            return poll.poll
        case "select":
            return lambda: select.select([listener], [], [])
        case "never":
            listener.setblocking(False)
    return lambda: None  # accept blocks


def serve(how: str) -> None:
    listener = socket.socket(fileno=3)
    wait = waiter(how, listener)
    body = f"{os.environ['OVERSEER_GENERATION']} {os.getpid()}\n"
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    while True:
        wait()
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            continue
        with connection:
            connection.recv(4096)
            time.sleep(WORK)
            connection.sendall(answer)


def main(how: str, where: str, seconds: str) -> None:
    time.sleep(float(seconds))
    match where:
        case "thread":
            threading.Thread(target=serve, args=[how]).start()
        case "child" if os.fork():
            os.wait()
        case _:
            serve(how)


if __name__ == "__main__":
    main(*sys.argv[1:])
