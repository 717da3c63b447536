"""Answers two seconds after it was asked; ends at once on TERM."""

import runpy
import time
from pathlib import Path

slept = time.sleep
time.sleep = lambda _: slept(2)
runpy.run_path(str(Path(__file__).with_name("abrupt.py")), run_name="__main__")
