"""``fallthru report`` and ``fallthru advise``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from overlay.cli.layers import emit_json, json_option
from overlay.errors import EXIT_ANSWER_IS_NO
from overlay.text import printable

if TYPE_CHECKING:
    from analysis.load import Trace
    from analysis.regress import Regression

__all__ = ["advise", "report"]


@click.command(short_help="Summarise traces; write a page with pictures.")
@click.argument("traces", metavar="[DIR...]", nargs=-1, type=click.Path())
@click.option(
    "--compare",
    "pair",
    metavar="BEFORE AFTER",
    nargs=2,
    type=click.Path(),
    help="Only how these two differ, what got slower first.",
)
@click.option(
    "--fail-above",
    metavar="RATIO",
    type=click.FloatRange(min=1.0),
    help="With two runs: exit 1 if the second needs more than RATIO times as much.",
)
@click.option("-o", "--output", metavar="PAGE.html", type=click.Path(), help="Write the page here.")
@click.option(
    "--interactive",
    is_flag=True,
    help="With -o: pictures that follow filters, by plotly; adds 5 MB.",
)
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
    pair: tuple[str, str] | None,
    fail_above: float | None,
    output: str | None,
    interactive: bool,
    top: int,
    depth: int,
    as_json: bool,
) -> None:
    """Summarise what copyup cost in the traces DIR..., and write a page with pictures.

    Each DIR is what `fallthru trace record -o DIR` wrote; a glob or a single part do too.
    With several, the first is what the others are compared with.  The page is one file that
    needs nothing else.  Exit 1 when a trace is damaged (what can be read is reported), or
    when a ratio is past --fail-above.

    \b
    Examples:
      fallthru report trace
      fallthru report trace -o report.html
      fallthru report document fallthru -o saved.html
      fallthru report --compare yesterday today --fail-above 1.10
      fallthru report trace --json | jq '.runs[].copyups'
    """
    if bool(traces) == bool(pair):
        raise click.UsageError("Name traces, or two with --compare.")
    from analysis.load import load
    from analysis.report import as_data, check_target, write_atomically

    if interactive:
        from analysis.explore import check_available

        if output is None:
            raise click.UsageError("--interactive is about the page: name one with -o.")
        check_available()
    if output is not None:
        check_target(output)
    trace = load(pair or traces)
    failed = _past(trace, fail_above) if fail_above is not None else []
    if as_json:
        data = as_data(trace, top=top, depth=depth)
        data["page"] = output
        if fail_above is not None:
            data["past_limit"] = [dataclasses.asdict(one) for one in failed]
        emit_json(data)
    else:
        from analysis.terminal import show, show_comparisons

        if pair:
            show_comparisons(trace, top=top)
        else:
            show(trace, top=top, depth=depth)
    if output is not None:
        from analysis.page import render

        write_atomically(output, render(trace, top=top, depth=depth, interactive=interactive))
        if not as_json:
            click.echo(f"\nThe page is {click.format_filename(output)}")
    for one in failed:
        click.echo(f"fallthru: past {fail_above:g}: {printable(str(one))}", err=True)
    _end(context, trace, failed=bool(failed))


def _past(trace: Trace, limit: float) -> list[Regression]:
    """What of the last run is past ``limit`` times the first."""
    from analysis import stats
    from analysis.regress import past

    if len(trace.runs) != 2:
        raise click.UsageError(f"--fail-above is for two runs; here are {len(trace.runs)}.")
    before, after = (stats.copyups(trace.run(run.name)) for run in trace.runs)
    return past(before, after, limit)


def _end(context: click.Context, trace: Trace, *, failed: bool = False) -> None:
    """Tell what is damaged, and exit with 1 for it, or for a failed comparison."""
    for damage in trace.damage:
        click.echo(f"fallthru: damaged trace: {damage}", err=True)
    if trace.damage or failed:
        context.exit(EXIT_ANSWER_IS_NO)


@click.command(short_help="Say what would have cost less, and how much.")
@click.argument("traces", metavar="DIR...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--depth",
    metavar="N",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Names of a path that make a tree worth a volume.",
)
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
        emit_json({"advice": advice.as_rows(advice.advise(trace, depth=depth))})
    else:
        from analysis.terminal import show_advice

        show_advice(advice.advise(trace, depth=depth))
    _end(context, trace)
