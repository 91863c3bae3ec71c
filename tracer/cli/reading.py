"""What the commands that read traces do alike: arguments, damage, losses, exit code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from overlay.errors import EXIT_ANSWER_IS_NO

if TYPE_CHECKING:
    from tracer.reading import Reading

__all__ = ["finish", "open_traces", "traces_argument"]

traces_argument = click.argument(
    "traces", nargs=-1, required=True, type=click.Path(), metavar="DIR..."
)


def open_traces(traces: Sequence[str], filters: dict[str, Any]) -> Reading:
    """The spans of ``traces`` that the options of ``selection_options`` leave."""
    from tracer.cli.options import selection_of
    from tracer.reading import read

    return read(traces, selection_of(filters))


def finish(context: click.Context, reading: Reading) -> None:
    """Tell on standard error what is missing; exit 1 when a trace is damaged."""
    if reading.lost:
        click.echo(f"{reading.lost} records were lost: this is incomplete", err=True)
    for line in reading.damage:
        click.echo(f"fallthru: {line}", err=True)
    if reading.damage:
        context.exit(EXIT_ANSWER_IS_NO)
