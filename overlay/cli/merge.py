"""``fallthru merge`` and ``fallthru squash``."""

from __future__ import annotations

import click

from overlay.cli.layers import (
    DIRECTORY,
    emit_json,
    json_option,
    required_bottoms_option,
    userxattr_option,
)
from overlay.text import printable

_output_option = click.option(
    "-o", "--output", type=DIRECTORY, metavar="DIR", required=True, help="The directory to make."
)


@click.command(short_help="Make one top of several.")
@json_option
@click.option(
    "--top",
    "tops",
    type=DIRECTORY,
    metavar="DIR",
    multiple=True,
    required=True,
    help="A top, uppermost first; give two or more.",
)
@required_bottoms_option
@userxattr_option
@_output_option
def merge(
    tops: tuple[str, ...], bottoms: tuple[str, ...], userxattr: bool, output: str, as_json: bool
) -> None:
    """Make a new top that shows over the bottoms what TOPS show one over the other.

    The tops must not be mounted, and stay as they are.

    \b
    Example:
      fallthru merge --top /srv/today --top /srv/yesterday --bottom /usr -o /srv/both
    """
    from overlay.committing.merge import merge as merge_tops

    family = "user" if userxattr else "trusted"
    _report(output, merge_tops(tops, bottoms, output, family=family), as_json)


@click.command(short_help="Make one bottom of several.")
@json_option
@required_bottoms_option
@userxattr_option
@_output_option
def squash(bottoms: tuple[str, ...], userxattr: bool, output: str, as_json: bool) -> None:
    """Make a new directory of what bottoms show together, without any marks.

    Tops that are not mounted can be among them.

    \b
    Example:
      fallthru squash --bottom /srv/patch2 --bottom /srv/patch1 --bottom /srv/base -o /srv/new
    """
    from overlay.committing.merge import squash as squash_bottoms

    family = "user" if userxattr else "trusted"
    _report(output, squash_bottoms(bottoms, output, family=family), as_json)


def _report(output: str, entries: int, as_json: bool) -> None:
    if as_json:
        emit_json({"directory": printable(output), "entries": entries})
    else:
        click.echo(f"{printable(output)}: {entries} entries")
