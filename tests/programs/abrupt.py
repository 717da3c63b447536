"""A server that ends at once on TERM, whatever it has in hand; answers its generation and its pid.

An answer takes up to as many seconds as the argument says, each another time: so its clients are
soon out of step, and every moment finds them at every stage of a request.
"""

import os
import random
import socket
import sys
import threading
import time

LONGEST = float(sys.argv[1]) if sys.argv[1:] else 0.0
BODY = f"{os.environ['OVERSEER_GENERATION']} {os.getpid()}\n"
ANSWER = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}".encode()


def answer(connection: socket.socket) -> None:
    with connection:
        if connection.recv(4096):
            time.sleep(random.uniform(0, LONGEST))
            connection.sendall(ANSWER)


def main(fd: int = 3) -> None:
    listener = socket.socket(fileno=fd)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=[connection], daemon=True).start()


if __name__ == "__main__":
    main()
