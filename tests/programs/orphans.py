"""Leaves as many orphans as it was told, which end soon, and then serves at fd 3."""

import os
import runpy
import sys

for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.wait()
runpy.run_path(
    os.path.join(os.path.dirname(__file__), "..", "..", "examples", "hello.py"), run_name="__main__"
)
