"""``fallthru advise``."""

from __future__ import annotations

import click

from analysis.cli.common import depth_option, end
from overlay.cli.layers import emit_json, json_option

__all__ = ["advise"]


@click.command(short_help="Say what would have cost less, and how much.")
@click.argument("traces", metavar="DIR...", nargs=-1, required=True, type=click.Path())
@depth_option("Names of a path that make a tree worth a volume.")
@click.option(
    "--paths",
    is_flag=True,
    help="Only the files whose data was copied, each ended by a NUL, slowest first.",
)
@json_option
@click.pass_context
def advise(
    context: click.Context, traces: tuple[str, ...], depth: int, paths: bool, as_json: bool
) -> None:
    """Say what would have made the runs in DIR... cheaper: seconds and bytes saved by each
    change, how sure that is, what it gives up, and the command.

    Savings overlap: two changes together save less than their sum.  Exit 1 when a trace is
    damaged: the advice is by what can be read.

    \b
    Examples:
      fallthru advise trace
      fallthru advise trace --json | jq '.advice[0].command'
      fallthru advise trace --paths | tr '\\0' '\\n' | head
    """
    from analysis import advise as advice
    from analysis.load import load

    trace = load(traces)
    if paths:
        for path in advice.paths_ahead(trace):
            click.echo(path + "\0", nl=False)
    elif as_json:
        unseen = {run.name: run.metadata.unseen for run in trace.runs}
        found = advice.as_rows(advice.advise(trace, depth=depth))
        emit_json({"advice": found, "unseen": unseen})
    else:
        from analysis.terminal import show_advice

        show_advice(advice.advise(trace, depth=depth), trace.runs)
    end(context, trace.damage)
