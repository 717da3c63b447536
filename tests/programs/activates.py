"""Holds a listening socket, as systemd does, and runs the command on it: once more after HUP.

TERM and HUP end the command with TERM; after HUP it is started again.
"""

import os
import signal
import socket
import sys

listener = socket.create_server(("127.0.0.1", 0), backlog=100)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
signals = {signal.SIGTERM, signal.SIGHUP}
signal.pthread_sigmask(signal.SIG_BLOCK, signals | {signal.SIGCHLD})
again = True
while again:
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        mine = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "listener-0"}
        os.execvpe(sys.argv[1], sys.argv[1:], os.environ | mine)
    again = signal.sigwait(signals) == signal.SIGHUP
    os.kill(pid, signal.SIGTERM)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        break
sys.exit(status)
