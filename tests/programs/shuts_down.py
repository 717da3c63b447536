"""Serves; at USR1 it shuts the shared listener down, as some servers do on their way out."""

import os
import signal
import socket
import sys

sys.path.insert(0, os.environ["EXAMPLES"])

import hello

signal.signal(signal.SIGUSR1, lambda *_: socket.socket(fileno=os.dup(3)).shutdown(socket.SHUT_RDWR))
hello.main()
