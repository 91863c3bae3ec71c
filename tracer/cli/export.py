"""``fallthru trace export``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from tracer.cli.options import selection_options
from tracer.cli.reading import finish, open_traces, traces_argument

if TYPE_CHECKING:
    from tracer.reading import Reading

__all__ = ["export"]


@click.command()
@traces_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(["perfetto", "folded"]),
    required=True,
    help="perfetto: Chrome trace JSON; folded: stacks for flame graphs.",
)
@click.option("-o", "--output", metavar="FILE", help="Write here instead of to standard output.")
@click.option(
    "--weight",
    type=click.Choice(["time", "bytes", "count"]),
    help="What folded stacks weigh: ns (default), bytes moved, or spans.",
)
@selection_options
@click.pass_context
def export(
    context: click.Context,
    /,
    traces: tuple[str, ...],
    form: str,
    output: str | None,
    weight: str | None,
    **filters: Any,
) -> None:
    """Turn traces into what other tools read.

    perfetto: open the file in https://ui.perfetto.dev, which keeps it in the browser, or
    in chrome://tracing.  folded: flamegraph.pl, inferno, speedscope.

    \b
    Examples:
      fallthru trace export /tmp/t --format perfetto -o t.json
      fallthru trace export /tmp/t --format folded | flamegraph.pl > t.svg
      fallthru trace export /tmp/t --format folded --weight bytes --path /var
    """
    if weight and form != "folded":
        raise click.UsageError("--weight is for --format folded")
    from overlay.outfile import check_target, write_atomically

    if output is not None:
        check_target(output)
    reading = open_traces(traces, filters)
    pieces = _pieces(reading, form, weight or "time")
    if output is None:
        for piece in pieces:
            click.echo(piece, nl=False)
    else:
        write_atomically(output, pieces)
    finish(context, reading)


def _pieces(reading: Reading, form: str, weight: str) -> Iterator[str]:
    if form == "perfetto":
        from tracer.perfetto import document

        yield from document(reading)
    else:
        from tracer.folded import folded

        for line in folded(reading.table, weight):
            yield f"{line}\n"
