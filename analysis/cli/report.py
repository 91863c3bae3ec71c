"""``fallthru report``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from analysis.cli.common import (
    compare_option,
    depth_option,
    end,
    fail_above_option,
    tell_past,
    top_option,
)
from overlay.cli.layers import emit_json, json_option

if TYPE_CHECKING:
    from analysis.load import Trace
    from analysis.regress import Regression

__all__ = ["report"]


@click.command(short_help="Summarise traces; write a page with pictures.")
@click.argument("traces", metavar="[DIR...]", nargs=-1, type=click.Path())
@compare_option
@fail_above_option
@click.option("-o", "--output", metavar="PAGE.html", type=click.Path(), help="Write the page here.")
@click.option(
    "--interactive",
    is_flag=True,
    help="With -o: pictures that follow filters, by plotly; adds 5 MB.",
)
@top_option
@depth_option("Names of a path that make its directory.")
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

    Each DIR is what `fallthru trace record -o DIR` wrote; a glob, a single part, or a URL that
    fsspec opens (s3://…) do too.  With several, the first is what the others are compared with.
    The page is one file that needs nothing else.  Exit 1 when a trace is damaged (what can be
    read is reported), or when a ratio is past --fail-above.

    \b
    Examples:
      fallthru report trace
      fallthru report trace -o report.html
      fallthru report document fallthru -o saved.html
      fallthru report --compare yesterday today --fail-above 1.10
      fallthru report s3://bucket/trace
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
    if fail_above is not None:
        tell_past(failed, fail_above)
    end(context, trace.damage, failed=bool(failed))


def _past(trace: Trace, limit: float) -> list[Regression]:
    """What of the last run is past ``limit`` times the first."""
    from analysis import stats
    from analysis.regress import past

    if len(trace.runs) != 2:
        raise click.UsageError(f"--fail-above is for two runs; here are {len(trace.runs)}.")
    before, after = (stats.copyups(trace.run(run.name)) for run in trace.runs)
    return past(before, after, limit)
