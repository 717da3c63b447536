"""Answers each datagram at fd 3 with its generation; ends at once on TERM."""

import os
import socket

listener = socket.socket(fileno=3)
listener.setblocking(True)
while True:
    data, peer = listener.recvfrom(1024)
    listener.sendto(f"{os.environ['OVERSEER_GENERATION']} ".encode() + data, peer)
