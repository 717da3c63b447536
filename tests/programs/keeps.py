"""Keeps connections alive after an answer, and does not hear TERM; answers its generation."""

import os
import signal
import socket
import threading

signal.signal(signal.SIGTERM, signal.SIG_IGN)
body = f"{os.environ['OVERSEER_GENERATION']} {os.getpid()}\n".encode()
answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def serve(connection: socket.socket) -> None:
    with connection:
        while connection.recv(4096):
            connection.sendall(answer)


listener = socket.socket(fileno=3)
while True:
    threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()
