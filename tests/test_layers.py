"""Folder = layer, and imports point down.  What the master does not need, it does not load."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "overseer_py"
NAME = PACKAGE.name

# Of the standard library the core may use what neither looks at the world nor changes it.
PURE = {"__future__", "collections", "contextlib", "dataclasses", "enum", "typing", "types"}
PURE |= {"functools", "itertools", "operator", "math", "abc", "heapq", "bisect", "random", "string"}
PURE |= {"re", "difflib", "textwrap"}

# Modules that only turn values into values; ``signal`` gives its numbers names.
VALUES = {"address", "dialects", "errors", "handover", "plain", "suggest", "values"}

# What a rollout must not wait for, and a defect of which must not reach the master.
HEAVY = {"watchdog", "psutil", "httpx", "boto3", "botocore", "requests", "minisign"}
HEAVY |= {"urllib3", "tarfile", "zipfile", "xml", "sqlite3", "multiprocessing", "email", "http"}


def modules() -> dict[str, Path]:
    """Return every module of the package by its name."""
    found: dict[str, Path] = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(module: str) -> set[str]:
    """Return what a module imports, wherever in it: modules of ours by their full names."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            source = node.module or ""
            inner = {f"{source}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inner or {source}
    return found


def ours(module: str) -> set[str]:
    """Return what a module imports of the package, without the package's name."""
    return {name.removeprefix(f"{NAME}.") for name in imports(module) if name.startswith(NAME)}


def others(module: str) -> set[str]:
    """Return the top-level packages that a module imports and that are not ours."""
    return {name.partition(".")[0] for name in imports(module)} - {NAME}


def within(layer: str) -> list[str]:
    """Return the modules of a folder."""
    return sorted(name for name in MODULES if f"{name}.".startswith(f"{NAME}.{layer}."))


def test_there_are_layers() -> None:
    """The tests below look at something."""
    assert len(within("core")) > 5
    assert len(within("system")) > 5


@pytest.mark.parametrize("module", within("core"))
def test_the_core_is_pure(module: str) -> None:
    """It imports no clock, no system, no log, and nothing from above."""
    assert others(module) <= PURE
    assert {name.partition(".")[0] for name in ours(module)} <= {"core"}


@pytest.mark.parametrize("module", sorted(VALUES))
def test_values_know_nothing(module: str) -> None:
    """How things are written depends on nothing that runs."""
    name = f"{NAME}.{module}"
    assert others(name) <= PURE | {"shlex", "signal", "base64"}
    assert ours(name) <= VALUES


@pytest.mark.parametrize("module", within("system"))
def test_the_system_knows_no_service(module: str) -> None:
    """It imports values and itself: neither the core nor settings, nor anything that decides."""
    assert {name.partition(".")[0] for name in ours(module)} <= VALUES | {"system"}
    assert others(module) <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_the_command_line_prints(module: str) -> None:
    """The commands are the uppermost layer, and click is theirs."""
    if module.startswith(f"{NAME}.cli") or module == f"{NAME}.__main__":
        return
    above = {name for name in ours(module) if name.partition(".")[0] in {"cli", "__main__"}}
    assert above == set()
    assert "click" not in others(module)
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert "print" not in {call.id for call in calls if isinstance(call, ast.Name)}


def test_no_two_modules_need_each_other() -> None:
    """There is an order in which all can be read, each after those that it builds on."""
    graph = {name: imports(name) & MODULES.keys() for name in MODULES}
    order = list(TopologicalSorter(graph).static_order())
    assert len(order) == len(MODULES)


def loaded(statement: str) -> set[str]:
    """Return the modules that a statement loads into a fresh interpreter."""
    code = f"""
import json, sys
before = set(sys.modules)
{statement}
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, check=True, cwd=PACKAGE.parent)
    return set(json.loads(done.stdout))


def test_the_package_costs_nothing() -> None:
    """``import overseer_py`` loads itself, and no more."""
    assert loaded(f"import {NAME}") == {NAME}


def test_the_core_loads_nothing_of_the_system() -> None:
    """What the core imports does not import it by a detour."""
    found = loaded(f"import {NAME}.core.fleet")
    mine = {name for name in found if name.startswith(NAME)}
    assert all(name == NAME or name.startswith(f"{NAME}.core") for name in mine)
    assert not found & {"asyncio", "logging", "socket", "subprocess", "threading", "selectors"}


def test_the_master_is_boring() -> None:
    """It loads no network, no archives, no watcher; what structlog itself needs, it may have."""
    found = loaded(f"import {NAME}.cli.run") - loaded("import structlog, click")
    assert {name.partition(".")[0] for name in found} & (HEAVY | {"ssl", "asyncio"}) == set()
    assert f"{NAME}.core.fleet" in found


def test_a_status_needs_no_master() -> None:
    """A command that asks a master loads nothing of one."""
    found = loaded(f"import {NAME}.cli.status")
    assert not found & {"structlog", "asyncio", f"{NAME}.supervisor", f"{NAME}.core.fleet"}


def test_what_a_start_must_block_first_is_light() -> None:
    """Signals are blocked before anything slow is loaded."""
    found = loaded(f"import {NAME}.system.signals")
    assert not {"structlog", "click", "asyncio", "ssl"} & found
