"""``fallthru report``."""

from __future__ import annotations

import click

from overlay.cli.layers import emit_json, json_option
from overlay.errors import EXIT_ANSWER_IS_NO

__all__ = ["report"]


@click.command(short_help="Summarise traces; write a page with pictures.")
@click.argument("traces", metavar="DIR...", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", metavar="PAGE.html", type=click.Path(), help="Write the page here.")
@click.option(
    "--top",
    metavar="N",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Rows in each table.",
)
@click.option(
    "--depth",
    metavar="N",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Names of a path that make its directory.",
)
@json_option
@click.pass_context
def report(
    context: click.Context,
    traces: tuple[str, ...],
    output: str | None,
    top: int,
    depth: int,
    as_json: bool,
) -> None:
    """Summarise what copyup cost in the traces DIR..., and write a page with pictures.

    Each DIR is what `fallthru trace record -o DIR` wrote; a glob or a single part do too.
    With several, the first is what the others are compared with.  The page is one file that
    needs nothing else.  Exit 1 when a trace is damaged: what can be read is reported.

    \b
    Examples:
      fallthru report trace
      fallthru report trace -o report.html
      fallthru report document fallthru -o saved.html
      fallthru report trace --json | jq '.runs[].copyups'
    """
    from analysis.load import load
    from analysis.report import as_data, check_target, write_atomically

    if output is not None:
        check_target(output)
    trace = load(traces)
    if as_json:
        data = as_data(trace, top=top, depth=depth)
        data["page"] = output
        emit_json(data)
    else:
        from analysis.terminal import show

        show(trace, top=top, depth=depth)
    if output is not None:
        from analysis.page import render

        write_atomically(output, render(trace, top=top, depth=depth))
        if not as_json:
            click.echo(f"\nThe page is {click.format_filename(output)}")
    for damage in trace.damage:
        click.echo(f"fallthru: damaged trace: {damage}", err=True)
    if trace.damage:
        context.exit(EXIT_ANSWER_IS_NO)
