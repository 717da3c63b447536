"""A broken version: it fails before it serves."""

import sys

sys.stderr.write("reading the configuration\n")
raise SystemExit(int(sys.argv[1])) if len(sys.argv) > 1 else RuntimeError("database is missing")
