"""overseer: runs any server, replaces it without losing a request, rolls back what fails.

The public names are loaded on first use (PEP 562): importing the package costs nothing.
"""

__version__ = "0.1.0"
__all__ = [
    "Client",
    "ConfigError",
    "NoInstanceError",
    "OverseerError",
    "RequestError",
    "RolloutError",
    "State",
    "run",
]

TYPE_CHECKING = False  # typing has it, too, and takes longer to load than all the rest here
if TYPE_CHECKING:
    from overseer_py.client import Client
    from overseer_py.errors import (
        ConfigError,
        NoInstanceError,
        OverseerError,
        RequestError,
        RolloutError,
    )
    from overseer_py.library import State, run

_ROOMS = {"Client": "client", "State": "library", "run": "library"}


def __getattr__(name: str) -> object:
    from importlib import import_module  # noqa: PLC0415 - see above

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = _ROOMS.get(name, "errors")
    found: object = getattr(import_module(f"{__name__}.{room}"), name)
    globals()[name] = found  # not asked for again
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
