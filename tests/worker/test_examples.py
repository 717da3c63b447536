"""Every example works: those in docstrings, those of the page, and the programs in examples/."""

from __future__ import annotations

import doctest
import inspect
import re
import subprocess
import sys
import urllib.request
from importlib import import_module
from pathlib import Path

import pytest

from overseer_py import worker
from tests.master import ROOT, Master
from tests.needs import cannot
from tests.worker.keepalive import KeepAlive

MODULES = sorted(
    f"overseer_py.worker.{path.stem}".removesuffix(".__init__")
    for path in (ROOT / "overseer_py" / "worker").glob("*.py")
    if ">>>" in path.read_text() and path.stem not in ("lease", "leases", "deposits")
)
PAGE = ROOT / "docs" / "worker.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)

_MODULE = ["--chdir", "examples", "--", sys.executable, "-m"]
_UVICORN = ["uvicorn", "--fd", "{fd}", "--no-access-log"]  # it would fill a pipe that nobody reads
_HYPERCORN = ["hypercorn", "-w", "0", "-b", "fd://{fd}"]
PROGRAMS = {
    "cooperating_server.py": ["--ready", "notify", "--", sys.executable],
    "asyncio_server.py": ["--ready", "notify", "--", sys.executable],
    "aiohttp_app.py": ["--", sys.executable],
    "wsgi_app.py": ["--", sys.executable],
    "asgi_app.py with uvicorn": [*_MODULE, *_UVICORN],
    "asgi_app.py with hypercorn": [*_MODULE, *_HYPERCORN],
    "wsgi_app.py with gunicorn": [*_MODULE, "gunicorn", "-k", "gthread"],
}


@pytest.mark.parametrize("module", MODULES)
def test_docstrings(module: str) -> None:
    """What a docstring shows is what happens; each in a process of its own."""
    code = f"import doctest, {module} as m; print(doctest.testmod(m)); "
    code += "raise SystemExit(doctest.testmod(m).failed)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "attempted=0" not in done.stdout


def public() -> list[object]:
    """Return what has a docstring of its own, of all public names."""
    found: list[object] = [getattr(worker, name) for name in worker.__all__]
    found = [each for each in found if callable(each)]
    kind = type(worker.draining)
    found += [kind, *(getattr(kind, name) for name in ("is_set", "wait", "call", "begin"))]
    for name in ("asgi", "wsgi"):
        found.append(import_module(f"overseer_py.worker.{name}").DrainingMiddleware)
    return found


@pytest.mark.parametrize("what", public(), ids=lambda what: what.__name__)
def test_every_public_name_shows_an_example(what: object) -> None:
    """In its docstring, or its class's."""
    text = inspect.getdoc(what) or ""
    shown = doctest.DocTestParser().get_examples(text)
    assert shown or ">>>" in (inspect.getdoc(import_module(what.__module__)) or ""), text


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs(tmp_path: Path, program: str) -> None:
    """Each serves, and is restarted twice under kept-alive clients that lose nothing."""
    name, _, server = program.partition(" with ")
    need = server or {"wsgi_app.py": "waitress", "aiohttp_app.py": "aiohttp"}.get(name, "json")
    try:
        import_module(need)
    except ImportError:
        cannot(f"no module {need}; pip install -e '.[test]'")
    last = f"{Path(name).stem}:app" if server else f"examples/{name}"
    place = ["--listen", "web=127.0.0.1:0", "--quiet-timeout", "200ms"]
    with Master(tmp_path, *place, *PROGRAMS[program], last) as master:
        port = master.ready().port("web")
        with KeepAlive(port, 0.002) as load:
            for _ in range(2):
                load.more(2 * load.clients)
                master.restart()
            load.more(2 * load.clients)
        assert load.lost == []
        pids = {int(re.findall(r"from (\d+)", answer)[0]) for answer in load.answers}
        assert len(pids) == 3
        assert master.stop() == 0
        assert not [line for line in master.stderr if "Traceback" in line]


def test_a_server_has_itself_replaced(tmp_path: Path) -> None:
    """The example that asks its master for a rollout gets one."""
    command = [*PROGRAMS["cooperating_server.py"], "examples/cooperating_server.py"]
    with Master(tmp_path, "--listen", "web=127.0.0.1:0", *command) as master:
        address = f"http://127.0.0.1:{master.ready().port('web')}/restart"
        with urllib.request.urlopen(address, data=b"", timeout=60) as answer:
            assert answer.read() == b"restarting\n"
        master.saw("rollout-committed", generation=2)
        assert master.stop() == 0


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_the_page(block: int) -> None:
    """Each block of Python on the page runs by itself, without a master."""
    done = subprocess.run(
        [sys.executable, "-"], input=BLOCKS[block], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
