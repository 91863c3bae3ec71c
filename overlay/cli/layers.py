"""Options that several subcommands share, so that they look and fail alike."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["DIRECTORY", "emit_json", "json_option", "key_value"]

Command = TypeVar("Command", bound=Callable[..., Any])

#: Existence is checked where the directory is used, by descriptor and with a better message.
DIRECTORY = click.Path(path_type=str)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")


def emit_json(value: object) -> None:
    """``value`` on standard output, as one JSON document."""
    click.echo(json.dumps(value, indent=2, default=os.fspath))


def key_value(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """``-o a=1,b -o c`` as (("a", "1"), ("b", ""), ("c", "")), in the order given."""
    pairs = []
    for value in values:
        for option in value.split(","):
            key, _, text = option.partition("=")
            if not key:
                raise click.BadParameter(f"an option needs a name: {value!r}")
            pairs.append((key, text))
    return tuple(pairs)
