"""``fallthru trace merge``."""

from __future__ import annotations

from typing import Any

import click

from overlay.cli.layers import emit_json, json_option
from tracer.cli.options import selection_of, selection_options
from tracer.cli.reading import finish, traces_argument

__all__ = ["merge"]


@click.command()
@traces_argument
@click.option(
    "-o", "--output", required=True, metavar="DIR", help="Directory for the trace; new, or empty."
)
@selection_options
@json_option
@click.pass_context
def merge(
    context: click.Context,
    /,
    traces: tuple[str, ...],
    output: str,
    as_json: bool,
    **filters: Any,
) -> None:
    """Make one trace of several of the same machine: DIR... are left as they are.

    Spans come in the order of time, and once, even where the traces have some in common.
    With one DIR it puts the pieces of a long recording together, or those of its spans
    that fulfil the conditions.

    \b
    Examples:
      fallthru trace merge monday tuesday -o week
      fallthru trace merge /var/log/copyups --path /etc -o etc
    """
    from overlay.text import printable
    from tracer.merge import merge as run
    from tracer.merge import survey
    from tracer.tracefile import TraceWriter

    found = survey(traces, selection_of(filters))
    writer = TraceWriter(output)
    try:
        metadata, twice = run(found, writer)
    except BaseException:
        writer.abandon()
        raise
    if as_json:
        emit_json({"spans": metadata.spans, "twice": twice, "runs": len(metadata.runs) or 1})
    else:
        again = f"; {twice} were there twice" if twice else ""
        click.echo(f"fallthru: {metadata.spans} spans in {printable(output)}{again}", err=True)
    finish(context, found.reading)
