"""overseer: runs any server, replaces it without losing a request, rolls back what fails.

The public names are loaded on first use (PEP 562): importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overseer_py.client import Client as Client
    from overseer_py.errors import NoInstanceError as NoInstanceError
    from overseer_py.errors import OverseerError as OverseerError
    from overseer_py.errors import RequestError as RequestError
    from overseer_py.errors import RolloutError as RolloutError

__version__ = "0.1.0"
__all__ = ["Client", "NoInstanceError", "OverseerError", "RequestError", "RolloutError"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = "client" if name == "Client" else "errors"
    return getattr(import_module(f"{__name__}.{room}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
