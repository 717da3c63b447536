"""A server that binds PORT for itself, and leaves a process about which nothing can be known.

That has no parent, no session and no variables of the server's, and binds another port at USR1.
"""

import os
import signal
import socket
import sys

port, later = map(int, sys.argv[1:])
if os.fork() == 0:
    os.setsid()
    code = (
        "import signal, socket, sys; signal.sigwait({signal.SIGUSR1}); s = socket.socket(); "
        f"s.bind(('127.0.0.1', {later})); s.listen(); print('bound', flush=True); signal.pause()"
    )
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    if os.fork() == 0:
        os.write(2, f"left {os.getpid()}\n".encode())
        os.execve(sys.executable, [sys.executable, "-c", code], {})
    os._exit(0)
os.wait()
listener = socket.create_server(("127.0.0.1", port))
while True:
    listener.accept()[0].close()
