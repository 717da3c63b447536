"""A WSGI application whose kept-alive clients lose nothing in a restart.

overseer run --listen :8000 --chdir examples -- gunicorn -k gthread wsgi_app:app
overseer run --listen :8000 -- python3 examples/wsgi_app.py     # waitress
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from overseer_py import worker
from overseer_py.worker.wsgi import DrainingMiddleware


def hello(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer every request."""
    body = f"hello from {os.getpid()}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


app = DrainingMiddleware(hello)

if __name__ == "__main__":
    import waitress

    waitress.serve(app, sockets=list(worker.listeners()))
