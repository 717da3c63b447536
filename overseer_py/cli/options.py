"""The options that describe a service: those of ``run``, ``check`` and ``init`` alike."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from overseer_py.config import OPTIONS, Sources
from overseer_py.option import Option

Command = Callable[..., Any]

SERVICE = {"ignore_unknown_options": False, "allow_interspersed_args": False}


def service_options(command: Callable[[Sources], None]) -> Command:
    """Give a command an option for each setting; what they mean is config.py's business."""

    @wraps(command)
    def with_sources(config: str, command_line: tuple[str, ...], **flags: object) -> None:
        given = {key: value for key, value in flags.items() if value not in (None, False, ())}
        return command(Sources(given, command_line, dict(os.environ), config))

    words = click.argument(
        "command_line", nargs=-1, type=click.UNPROCESSED, metavar="[--] COMMAND [ARG …]"
    )
    decorated: Command = words(with_sources)
    for key, option in reversed(OPTIONS.items()):
        decorated = _option(key, option)(decorated)
    text = "Read this file.  [overseer.toml, if there]"
    return click.option("--config", metavar="FILE", default="", help=text)(decorated)


def _option(key: str, option: Option) -> Callable[[Command], Command]:
    names = [f"-{option.short}"] * bool(option.short) + ["--" + key.replace("_", "-")]
    if option.flag:
        return click.option(*names, key, is_flag=True, help=option.help)
    metavar = option.metavar or key.upper()
    text = f"{option.help}  [{option.shown}]" if option.shown else option.help
    return click.option(*names, key, multiple=option.repeat, metavar=metavar, help=text)
