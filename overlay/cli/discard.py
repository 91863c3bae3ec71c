"""``fallthru discard``."""

from __future__ import annotations

import click

from overlay.cli.layers import (
    DIRECTORY,
    agreed,
    emit_json,
    json_option,
    named_layers,
    unmounted_top_option,
    userxattr_option,
    work_option,
    yes_option,
)
from overlay.text import printable


@click.command(short_help="Empty a top.")
@json_option
@yes_option
@unmounted_top_option
@work_option
@userxattr_option
@click.argument("mount_point", metavar="[MOUNTPOINT]", type=DIRECTORY, required=False)
def discard(
    mount_point: str | None,
    top: str | None,
    work: str | None,
    userxattr: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Take everything off a top, so that its union shows the bottoms alone.

    The top is that of the overlay at MOUNTPOINT, which is unmounted first, or --top. It is
    refused while it is mounted elsewhere.

    \b
    Examples:
      fallthru discard --top /srv/top
      fallthru discard --yes /mnt
    """
    from overlay.cli.commit import unmount
    from overlay.committing.commit import discard as empty_top

    layers = named_layers("discard", mount_point, top, (), work, userxattr, bottoms_needed=False)
    if not agreed(f"Discard all that is on {printable(layers.top)}?", yes):
        raise click.Abort
    unmount(layers)
    count = empty_top(layers.top, work=layers.work, family=layers.family)
    if as_json:
        emit_json({"top": printable(layers.top), "entries": count})
    else:
        click.echo(f"{printable(layers.top)}: {count} entries of its root removed")
