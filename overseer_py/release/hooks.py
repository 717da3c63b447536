"""Commands of the user's that a release passes: they get the facts, and have a time-out.

The facts are in the environment (``OVERSEER_HOOK``, ``OVERSEER_RELEASE``, …) and as one JSON object
on stdin.  What they print goes to where the log goes.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import BinaryIO

TIMEOUT = 300.0  # seconds
_SAID = 1 << 16  # bytes of what it has printed last


def run(name: str, command: str, facts: Mapping[str, str], *words: str) -> str:
    """Run a command with these words behind it; return why it failed, empty if it did not."""
    environ = {**os.environ, "OVERSEER_HOOK": name}
    environ |= {f"OVERSEER_{key.upper()}": value for key, value in facts.items()}
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as told:
        told.write(json.dumps(dict(facts)).encode())
        told.seek(0)
        try:
            process = subprocess.Popen(
                [*_words(command), *words],
                stdin=told,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=environ,
                start_new_session=True,
            )
        except OSError as error:
            return f"{name}: {error.filename}: {error.strerror}"
        except ValueError as error:
            return f"{name}: {command!r}: {error}"
        how = _end(process)
        return f"{name}: {how}{_last_words(said)}" if how else ""


def _words(command: str) -> list[str]:
    if words := shlex.split(command):  # ValueError: a quotation is not closed
        return words
    raise ValueError("it names no command")  # else what is staged would be it


def _end(process: subprocess.Popen[bytes]) -> str:
    """Wait for the end of a command and all that it has left behind; return how it failed."""
    try:
        status = process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"did not end within {TIMEOUT:g} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if status == 0:
        return ""
    return f"ended with status {status}" if status > 0 else f"was killed by signal {-status}"


def _last_words(said: BinaryIO) -> str:
    """Return the last line that was printed, and pass all of it on, up to a limit."""
    said.seek(max(0, said.seek(0, os.SEEK_END) - _SAID))
    text = said.read()
    with suppress(OSError):
        sys.stderr.buffer.write(text)
        sys.stderr.flush()
    lines = text.decode(errors="replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""
