"""``fallthru trace show``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tracer.cli.options import selection_options
from tracer.cli.reading import finish, open_traces, traces_argument

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["show"]


@click.command()
@traces_argument
@selection_options
@click.option(
    "--sort",
    metavar="COLUMN",
    default="ts",
    show_default=True,
    help="Order; -COLUMN begins with the greatest.",
)
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="At most N spans.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
@click.pass_context
def show(
    context: click.Context,
    /,
    traces: tuple[str, ...],
    sort: str,
    limit: int | None,
    as_json: bool,
    **filters: Any,
) -> None:
    """Print the spans of traces that fulfil all conditions.

    Parts that are damaged are named and left out; the exit code is then 1.  In JSON,
    times are in ns and what the tracer could not tell is null.

    \b
    Examples:
      fallthru trace show /tmp/t --limit 20
      fallthru trace show /tmp/t --sort -dur --limit 5
      fallthru trace show /tmp/t --comm dpkg --path /etc --min-duration 1ms
      fallthru trace show /tmp/t --failed --json | jq '.spans[] | .path'
    """
    reading = open_traces(traces, filters)
    table = _sorted(reading.table, sort)
    if limit is not None:
        table = table.slice(0, limit)
    from tracer.rows import plain_rows

    rows = plain_rows(table)
    if as_json:
        metadata = [asdict(run.metadata) for run in reading.runs]
        made = {"metadata": metadata[0], "runs": metadata, "spans": rows}
        click.echo(json.dumps({**made, "damaged": list(reading.damage)}))
    else:
        _print(rows)
    finish(context, reading)


def _sorted(table: pa.Table, sort: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    from tracer.columns import plain

    name = sort.removeprefix("-")
    if name not in table.column_names:
        raise click.UsageError(
            f"a trace has no column {name}; its columns are: {', '.join(table.column_names)}"
        )
    order = "descending" if sort.startswith("-") else "ascending"
    keys = pa.table({"key": plain(table[name]), "ts": table["ts"]})
    return table.take(pc.sort_indices(keys, [("key", order), ("ts", "ascending")]))


def _print(rows: Sequence[dict[str, Any]]) -> None:
    from tracer.rows import COLUMNS, NUMBERS, cells

    lines = [cells(row) for row in rows]
    if not sys.stdout.isatty():
        click.echo("\t".join(COLUMNS))
        for line in lines:
            click.echo("\t".join(line))
        return
    from rich.console import Console
    from rich.table import Table

    shown = [
        number
        for number, name in enumerate(COLUMNS)
        if name != "container" or any(line[number] for line in lines)
    ]
    table = Table(box=None, pad_edge=False)
    for number in shown:
        name = COLUMNS[number]
        table.add_column(
            name,
            justify="right" if name in NUMBERS else "left",
            overflow="fold",
            no_wrap=name != "path",
        )
    for line in lines:
        table.add_row(*(line[number] for number in shown))
    # Names of files are not markup.
    Console(markup=False, highlight=False).print(table)
