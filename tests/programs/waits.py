"""Waits for connections on fd 3: ``waits.py epoll|poll|select|accept worker|thread|child SECONDS``.

It begins to wait after so many seconds.  SIGTERM ends it.
"""

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable


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
    return lambda: None  # accept blocks


def serve(how: str) -> None:
    listener = socket.socket(fileno=3)
    wait = waiter(how, listener)
    body = f"{os.environ['OVERSEER_GENERATION']} {os.getpid()}\n"
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    while True:
        wait()
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
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
