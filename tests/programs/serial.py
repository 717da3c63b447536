"""Serves fd 3, one request after the other; answers its generation and its pid.

Whoever asks for /die has it killed (KILL) right after the answer, when nothing is in hand.
"""

import os
import signal
import socket

BODY = f"{os.environ['OVERSEER_GENERATION']} {os.getpid()}\n"
ANSWER = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}".encode()

listener = socket.socket(fileno=3)
while True:
    connection, _ = listener.accept()
    with connection:
        request = connection.recv(4096)
        if request:
            connection.sendall(ANSWER)
    if request.startswith(b"GET /die"):
        os.kill(os.getpid(), signal.SIGKILL)
