"""Serves; at USR1 it shuts the shared listener down, as some servers do on their way out."""

import os
import signal
import socket
import sys
import threading

sys.path.insert(0, os.environ["EXAMPLES"])

import hello


def shut_down():
    signal.sigwait({signal.SIGUSR1})
    socket.socket(fileno=os.dup(3)).shutdown(socket.SHUT_RDWR)


signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
threading.Thread(target=shut_down, daemon=True).start()
hello.main()
