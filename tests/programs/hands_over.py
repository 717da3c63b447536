"""Binds as the given user and executes the rest with the socket at fd 3, as systemd does."""

import os
import socket
import sys

uid, *command = sys.argv[1:]
before = os.geteuid()
if int(uid) != before:
    os.seteuid(int(uid))
listener = socket.create_server(("127.0.0.1", 0), backlog=100)
if int(uid) != before:
    os.seteuid(before)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)  # dup2 of 3 onto itself leaves it close-on-exec
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "listener-0"}
os.execvp(command[0], command)
