"""Options that several subcommands share, so that they look and fail alike."""

from __future__ import annotations

import json
import os

import click

__all__ = [
    "DIRECTORY",
    "bottoms_option",
    "emit_json",
    "json_option",
    "key_value",
    "required_bottoms_option",
    "unmounted_top_option",
    "userxattr_option",
]

#: Existence is checked where the directory is used, by descriptor and with a better message.
DIRECTORY = click.Path(path_type=str)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")

unmounted_top_option = click.option(
    "--top", type=DIRECTORY, metavar="DIR", help="The top, when nothing is mounted."
)
_BOTTOM_HELP = "A bottom, uppermost first; may be given several times."
bottoms_option = click.option(
    "--bottom", "bottoms", type=DIRECTORY, metavar="DIR", multiple=True, help=_BOTTOM_HELP
)
required_bottoms_option = click.option(
    "--bottom",
    "bottoms",
    type=DIRECTORY,
    metavar="DIR",
    multiple=True,
    required=True,
    help=_BOTTOM_HELP,
)
userxattr_option = click.option(
    "--userxattr", is_flag=True, help="The top's marks are user.*, not trusted.*."
)


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
