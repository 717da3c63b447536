"""Dataclasses to plain data (what JSON can say) and back, by their type hints.  Pure.

What is missing on the way back gets the field's default, and what is not known is passed over: so
that a later version can read what an earlier one wrote.  Whatever else is odd raises ValueError
with the place.
"""

from __future__ import annotations

import base64
import types
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class Fd(int):
    """A descriptor that goes with the data."""


def to_plain(value: object) -> Any:  # noqa: ANN401, PLR0911 - whatever JSON can say
    """Return the value as dicts, lists, texts, numbers, truths and None."""
    match value:
        case Enum():
            return value.value
        case None | bool() | int() | float() | str():
            return value
        case bytes() | bytearray():
            return base64.b64encode(value).decode()
        case Mapping():
            if all(type(key) is str for key in value):
                return {key: to_plain(each) for key, each in value.items()}
            return [[to_plain(key), to_plain(each)] for key, each in value.items()]
        case Sequence() | AbstractSet():
            return [to_plain(each) for each in value]
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    raise TypeError(f"{type(value).__name__}: cannot be written down")


def from_plain(kind: type[T], data: Any) -> T:  # noqa: ANN401
    """Return the value of this type that was written down as this."""
    value: T = _read(kind, data, kind.__name__)
    return value


def descriptors(data: object) -> Iterator[Fd]:
    """Yield every descriptor in a value, before it is written down."""
    match data:
        case Fd():
            yield data
        case str() | bytes() | bytearray():
            pass
        case Mapping():
            for each in data.values():
                yield from descriptors(each)
        case Sequence() | AbstractSet():
            for each in data:
                yield from descriptors(each)
        case _ if is_dataclass(data):
            for field in fields(data):
                yield from descriptors(getattr(data, field.name))


def _read(kind: Any, data: Any, place: str) -> Any:  # noqa: ANN401 - one for each kind
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_optional(arguments, data, place)
    if kind in (Any, object):
        return data
    if origin is None and is_dataclass(kind):
        return _read_dataclass(kind, data, place)
    if hasattr(kind, "_fields"):
        hints = _hints(kind).values()  # more than there is data for: the rest has defaults
        return kind(*(_read(hint, each, place) for hint, each in zip(hints, data, strict=False)))
    if origin is not None:
        return _read_collection(origin, arguments, data, place)
    try:
        return _read_scalar(kind, data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from None


def _read_scalar(kind: Any, data: Any) -> Any:  # noqa: ANN401
    if issubclass(kind, bytes | bytearray):
        return kind(base64.b64decode(data))
    if issubclass(kind, Enum):
        return kind(data)
    wanted: Any = {Fd: int, float: (int, float)}.get(kind, kind)
    if not isinstance(data, wanted) or (isinstance(data, bool) and kind is not bool):
        raise TypeError(f"{data!r} is no {kind.__name__}")
    return kind(data)


def _read_optional(arguments: tuple[Any, ...], data: Any, place: str) -> Any:  # noqa: ANN401
    if data is None and type(None) in arguments:
        return None
    (kind,) = (each for each in arguments if each is not type(None))
    return _read(kind, data, place)


def _read_dataclass(kind: Any, data: Any, place: str) -> Any:  # noqa: ANN401
    if not isinstance(data, dict):
        raise ValueError(f"{place}: not an object")  # noqa: TRY004 - of data, not of a program
    hints = _hints(kind)
    known = {field.name for field in fields(kind) if field.init} & data.keys()
    values = {name: _read(hints[name], data[name], f"{place}.{name}") for name in known}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{place}: {error}") from None


def _read_collection(origin: Any, arguments: Any, data: Any, place: str) -> Any:  # noqa: ANN401
    if issubclass(origin, Mapping):
        pairs = data.items() if isinstance(data, dict) else data
        key, value = arguments
        return {_read(key, k, place): _read(value, v, place) for k, v in pairs}
    if not isinstance(data, list):
        raise ValueError(f"{place}: not a list")  # noqa: TRY004
    if origin is tuple and arguments[-1] is not ...:
        return tuple(_read(a, each, place) for a, each in zip(arguments, data, strict=True))
    items = [_read(arguments[0], each, place) for each in data]
    return items if origin is Sequence else origin(items)


@cache
def _hints(kind: Any) -> dict[str, Any]:  # noqa: ANN401
    return get_type_hints(kind)
