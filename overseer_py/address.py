"""Where to listen, as the user writes it.  Pure: no name is looked up and nothing is opened.

``[NAME=]ADDR[?option=value&…]`` with ADDR one of ``HOST:PORT``, ``:PORT`` (dual-stack wildcard),
``[V6]:PORT``, ``unix:/path``, ``udp:HOST:PORT``, ``fd:NAME`` or ``fd:N``.

Of what a program binds for itself (``adopt``): ``HOST:PORT``, ``unix:/path``, ``:PORT`` at whatever
host it binds, or ``auto`` for every port.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from overseer_py import values
from overseer_py.suggest import did_you_mean

BACKLOG = 4096  # the kernel caps it at net.core.somaxconn

_HIGHEST_PORT = 65535
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,255}")
_HOST = re.compile(r"[A-Za-z0-9_.:%-]*")


class Kind(StrEnum):
    """What is opened."""

    TCP = "tcp"
    UDP = "udp"
    UNIX = "unix"
    ADOPTED = "fd"


@dataclass(frozen=True, slots=True)
class Address:
    """One listener as it was asked for; two equal ones are the same listener."""

    name: str
    kind: Kind
    host: str = ""  # "" is every address, IPv4 and IPv6
    port: int = 0
    path: str = ""  # unix: the path; adopted: the descriptor's name or number
    bracketed: bool = False  # written [V6]: IPv6 only
    backlog: int = BACKLOG
    nonblock: bool = False
    mode: int | None = None
    user: str = ""
    group: str = ""
    adopted: bool = False  # the program binds it for itself

    @property
    def access(self) -> tuple[int | None, str, str]:
        """Who may connect to a unix socket: mode, user, group."""
        return self.mode, self.user, self.group

    def __str__(self) -> str:
        match self.kind:
            case Kind.UNIX | Kind.ADOPTED:
                return f"{self.kind}:{self.path}"
            case _:
                host = f"[{self.host}]" if self.bracketed else self.host
                return f"{'udp:' if self.kind is Kind.UDP else ''}{host}:{self.port}"


def parse(text: str, index: int) -> Address:
    """Return the address that the text names; ``index`` names it when the text does not."""
    body, _, options = text.partition("?")
    name, equals, rest = body.partition("=")
    if not equals or "/" in name or ":" in name:  # an equals sign within the path of a socket
        name, rest = "", body
    if equals and rest is not body and not _NAME.fullmatch(name):
        raise ValueError(f"{text!r}: a listener's name is made of letters, digits, '.', '_', '-'")
    address = _parse_place(rest, name or f"listener-{index}")
    return _parse_options(address, options) if options else address


def parse_adopted(text: str, index: int) -> Address:
    """Return the address that a program binds for itself."""
    address = replace(parse(text, index), adopted=True)
    if address.kind in (Kind.UDP, Kind.ADOPTED):
        raise ValueError(f"{text!r}: cannot be adopted; write HOST:PORT, :PORT, unix:/path or auto")
    if address.kind is Kind.TCP and not address.port:
        raise ValueError(f"{text!r}: port 0 is another one each time, and needs no adoption")
    return address


def is_loose(address: Address) -> bool:
    """Whether an adopted address is a port alone: the program's own bind(2) says at which host."""
    return address.adopted and address.kind is Kind.TCP and address.host in ("", "::")


def _parse_place(text: str, name: str) -> Address:
    kind, colon, rest = text.partition(":")
    match kind if colon else "":
        case "unix":
            if not rest.startswith("/"):
                raise ValueError(
                    f"{text!r}: a unix socket has an absolute path: unix:/run/app.sock"
                )
            return Address(name, Kind.UNIX, path=rest)
        case "fd":
            if not _NAME.fullmatch(rest):
                raise ValueError(f"{text!r}: write fd:NAME or fd:3, as systemd handed it over")
            return Address(name, Kind.ADOPTED, path=rest)
        case "udp":
            return _parse_inet(rest, Address(name, Kind.UDP), text)
        case _:
            return _parse_inet(text, Address(name, Kind.TCP), text)


def _parse_inet(place: str, address: Address, text: str) -> Address:
    host, colon, port = place.rpartition(":")
    if not colon or not re.fullmatch(r"\d{1,5}", port) or int(port) > _HIGHEST_PORT:
        raise ValueError(f"{text!r} is no address; write HOST:PORT, :PORT, [V6]:PORT or unix:/path")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not _HOST.fullmatch(host):
        raise ValueError(
            f"{text!r}: {host!r} is no host; every address of the machine is just :{port}"
        )
    if (":" in host) != bracketed:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets: [::1]:{port}")
    return replace(address, host=host, port=int(port), bracketed=bracketed)


def _parse_options(address: Address, text: str) -> Address:
    known = ["backlog", "nonblock"] if address.kind is not Kind.ADOPTED else []
    known += ["mode", "user", "group"] if address.kind is Kind.UNIX else []
    for pair in text.split("&"):
        key, _, value = pair.partition("=")
        if key not in known:
            raise ValueError(f"?{key}: no such option for {address}{did_you_mean(key, known)}")
        match key:
            case "backlog":
                address = replace(address, backlog=values.count(value, 1, 1 << 30))
            case "nonblock":
                address = replace(address, nonblock=bool(values.count(value, 0, 1)))
            case "mode":
                address = replace(address, mode=values.mode(value))
            case "user":
                address = replace(address, user=value)
            case "group":
                address = replace(address, group=value)
    return address
