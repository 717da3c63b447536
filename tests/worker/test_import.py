"""The library costs next to nothing until it is used, and needs nothing but Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import overseer_py.worker

ROOT = Path(overseer_py.worker.__file__).parent.parent.parent
LIGHT = {"overseer_py", "overseer_py.worker"}


def loaded(statement: str) -> set[str]:
    """Return the modules that a statement loads into an interpreter without other packages."""
    code = f"import json, sys; b = set(sys.modules); {statement}\n"
    code += "print(json.dumps(sorted(set(sys.modules) - b)))"
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}",
    ]
    done = subprocess.run(command, capture_output=True, check=True)
    return set(json.loads(done.stdout))


def test_the_import_alone_loads_nothing() -> None:
    """Not even of the standard library, but os, which every program has."""
    assert loaded("import overseer_py.worker") - loaded("import os") == LIGHT


def test_its_time_is_a_fraction_of_a_bare_start() -> None:
    """The fastest of some: a tenth of a bare interpreter's start is far more than it takes.

    The processor's time, which others on the machine do not lengthen.
    """

    def fastest(statement: str) -> float:
        command = [sys.executable, "-I", "-S", "-c", statement]
        took = []
        for _ in range(15):
            with subprocess.Popen(command) as process:
                spent = os.wait4(process.pid, 0)[2]
                process.returncode = 0
            took.append(spent.ru_utime + spent.ru_stime)
        return min(took)

    here = f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
    assert fastest(here + "import overseer_py.worker") < 1.5 * fastest(here)


@pytest.mark.parametrize("name", [n for n in overseer_py.worker.__all__ if n.islower()])
def test_all_of_it_is_the_standard_library(name: str) -> None:
    """Every public name can be had where none of our dependencies is installed."""
    found = loaded(f"from overseer_py.worker import {name}")
    foreign = {module.partition(".")[0] for module in found} - set(sys.stdlib_module_names)
    assert foreign == {"overseer_py"}


def test_every_name_is_there() -> None:
    """The list of public names is what can be had."""
    for name in overseer_py.worker.__all__:
        getattr(overseer_py.worker, name)
    assert set(overseer_py.worker.__all__) <= set(dir(overseer_py.worker))
    with pytest.raises(AttributeError, match="no attribute 'listener'"):
        getattr(overseer_py.worker, "listener")  # noqa: B009 - a typing error, too
