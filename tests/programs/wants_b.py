"""Serves if X is B, and else fails."""

import os
import sys

sys.path.insert(0, os.environ["EXAMPLES"])

import hello

if os.environ.get("X") != "B":
    sys.exit(4)
hello.main()
