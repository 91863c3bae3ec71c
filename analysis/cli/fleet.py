"""``fallthru fleet``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

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
    from analysis.fleet import Survey
    from analysis.regress import Regression

__all__ = ["fleet"]

_BY = ("host", "op", "process")


@click.command(short_help="Summarise the traces of many hosts.")
@click.argument("traces", metavar="[DIR|URL...]", nargs=-1, type=click.Path())
@click.option(
    "--by",
    metavar="KEY[,KEY...]",
    multiple=True,
    help="A table by this key, or by several together: host, run, process, op, size, directory,"
    " how, mount, …; may be given several times.  [default: host; op; process]",
)
@compare_option
@fail_above_option
@click.option(
    "--engine",
    type=click.Choice(["pandas", "dask"]),
    help="Read one part after the other, or on Dask.  [default: pandas; dask with --scheduler]",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Use this Dask cluster (tcp://HOST:8786); without, a process for each processor.",
)
@click.option("-o", "--output", metavar="PAGE.html", type=click.Path(), help="Write a page here.")
@top_option
@depth_option("Names of a path that make its directory.")
@json_option
@click.pass_context
def fleet(
    context: click.Context,
    traces: tuple[str, ...],
    by: tuple[str, ...],
    pair: tuple[str, str] | None,
    fail_above: float | None,
    engine: str | None,
    scheduler: str | None,
    output: str | None,
    top: int,
    depth: int,
    as_json: bool,
) -> None:
    """Summarise the copyups in all traces below DIR or URL, whatever their number.

    The traces of a host are in its partition: host=NAME/run=NAME/part-00000.parquet; without
    partitions the host is the one that recorded.  They are read part by part and never held in
    memory together.  Counts, sums and the longest times are exact, percentiles are within 0.1 %.
    Exit 1 when a trace is damaged, or when a ratio is past --fail-above.

    \b
    Examples:
      fallthru fleet /srv/traces
      fallthru fleet s3://bucket/traces --by host,op --by directory
      fallthru fleet /srv/traces -o fleet.html
      fallthru fleet /srv/traces --engine dask
      fallthru fleet s3://bucket/traces --scheduler tcp://dask:8786 --json
      fallthru fleet --compare '/srv/traces/*/run=1' '/srv/traces/*/run=2' --fail-above 1.10
    """
    if bool(traces) == bool(pair):
        raise click.UsageError("Name traces, or two sets of them with --compare.")
    if fail_above is not None and not pair:
        raise click.UsageError("--fail-above is for two sets of traces: name them by --compare.")
    if scheduler is not None and engine == "pandas":
        raise click.UsageError("--scheduler is for the engine dask.")
    from analysis.fleet import past, survey
    from analysis.report import check_target, write_atomically

    more: list[tuple[str, ...]] = [("op",)]
    if output is not None:
        from analysis.fleetpage import KEYS, render

        check_target(output)
        more += KEYS
    keys = [tuple(filter(None, key.split(","))) for key in by or _BY]
    surveys = [
        survey(
            names,
            [*keys, *more],
            depth=depth,
            engine=engine or ("dask" if scheduler else "pandas"),
            scheduler=scheduler,
        )
        for names in (pair or (traces,))
    ]
    failed = past(surveys[0], surveys[1], fail_above) if fail_above is not None else []
    if as_json:
        emit_json(_as_data(surveys, keys, top, failed) | {"page": output})
    else:
        from analysis.fleetshow import show, show_comparison

        if pair:
            show_comparison(surveys[0], surveys[1], keys, top=top)
        else:
            show(surveys[0], keys, top=top)
    if output is not None:
        write_atomically(output, render(surveys, keys, top=top))
        if not as_json:
            click.echo(f"\nThe page is {click.format_filename(output)}")
    if fail_above is not None:
        tell_past(failed, fail_above)
    end(context, [one for each in surveys for one in each.damage], failed=bool(failed))


def _as_data(
    surveys: list[Survey], keys: list[tuple[str, ...]], top: int, failed: list[Regression]
) -> dict[str, Any]:
    from analysis.fleetshow import as_data, comparison_as_data

    data: dict[str, Any] = {"surveys": [as_data(one, keys, top) for one in surveys]}
    if len(surveys) > 1:
        data["comparison"] = comparison_as_data(surveys[0], surveys[1], keys, top)
        data["past_limit"] = [dataclasses.asdict(one) for one in failed]
    return data
