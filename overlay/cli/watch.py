"""``fallthru watch``."""

from __future__ import annotations

import json

import click

from overlay.cli.layers import DIRECTORY, json_option
from overlay.errors import EXIT_ANSWER_IS_NO
from overlay.text import printable


@click.command(short_help="Tell what happens to a bottom meanwhile.")
@json_option
@click.argument("mount_point", metavar="MOUNTPOINT", type=DIRECTORY)
@click.pass_context
def watch(context: click.Context, mount_point: str, as_json: bool) -> None:
    """Watch the bottoms of the overlay at MOUNTPOINT until it is unmounted.

    For bottoms that the kernel does not keep read-only.  Every change of a file in one, and
    every hold that is taken away, is told in a line with the process that did it; from the
    first on, status calls the overlay tainted.  The first line says that the watch has
    begun.  The exit code is 1 if a bottom changed.

    With --json each line is an object.

    \b
    Examples:
      fallthru watch /mnt
      fallthru watch --json /mnt >changes.jsonl &
    """
    from datetime import datetime

    from overlay.watch import watch as watching

    changed = False
    for seen in watching(mount_point):
        if seen is None:
            line = {"watching": printable(mount_point)}
            shown = f"watching the bottoms of {printable(mount_point)}"
        else:
            changed = True
            when = datetime.fromtimestamp(seen.time).astimezone().isoformat(" ", "milliseconds")
            line = {"bottom": printable(seen.bottom), "what": seen.what, "time": when}
            shown = f"{when}  {printable(seen.bottom)}: {seen.what}"
        click.echo(json.dumps(line) if as_json else shown)
    if changed:
        context.exit(EXIT_ANSWER_IS_NO)
