"""``fallthru trace show``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from overlay.errors import EXIT_ANSWER_IS_NO

if TYPE_CHECKING:
    import pyarrow as pa

    from tracer.schema import RunMetadata

__all__ = ["show"]


@click.command()
@click.argument("directory", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="At most N spans.")
@click.pass_context
def show(context: click.Context, directory: str, as_json: bool, limit: int | None) -> None:
    """Print the spans of a trace in the order of time.

    Parts that are damaged are named and left out; the exit code is then 1.

    \b
    Examples:
      fallthru trace show /tmp/t --limit 20
      fallthru trace show /tmp/t --json | jq '.spans[] | select(.errno != 0)'
    """
    table, metadata, damage = _read(directory)
    table = table.sort_by("ts")
    if limit is not None:
        table = table.slice(0, limit)
    rows = _rows(table)
    if as_json:
        text = json.dumps({"metadata": asdict(metadata), "spans": rows, "damaged": damage})
        click.echo(text)
    else:
        _print(rows)
        if metadata.lost:
            click.echo(f"{metadata.lost} records were lost: this is incomplete", err=True)
    for part in damage:
        click.echo(f"fallthru: {part}", err=True)
    if damage:
        context.exit(EXIT_ANSWER_IS_NO)


def _read(directory: str) -> tuple[pa.Table, RunMetadata, list[str]]:
    """All whole parts, the newest metadata, and what was wrong with the others."""
    import pyarrow as pa

    from overlay.errors import OperationFailed
    from overlay.text import printable
    from tracer import parts
    from tracer.schema import SCHEMA

    tables, newest, damage = [SCHEMA.empty_table()], None, []
    for path in (path for found in parts.discover(directory).values() for path in found):
        try:
            newest, table = parts.read_part(path, SCHEMA.names)
        except parts.PartError as error:
            damage.append(f"{printable(path)}: {error}")
            continue
        assert table is not None  # columns were asked for
        tables.append(table.cast(SCHEMA))
    if newest is None:
        raise OperationFailed(
            f"no part of the trace in {printable(directory)} can be read: {damage[0]}",
            hint="record it again, or restore it from a backup",
        )
    return pa.concat_tables(tables).combine_chunks(), newest, damage


_DURATIONS = ("dur", "create", "data", "sync", "meta", "link")


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as plain data: ``ts`` in ns since 1970, durations in ns, null where unknown."""
    import pyarrow as pa

    for name in ("ts", *_DURATIONS):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table.column(name).cast(pa.int64()))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


_COLUMNS = ("time", "µs", "pid", "comm", "op", "type", "how", "bytes", "err", "path")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    import errno
    import time

    seconds, ns = divmod(row["ts"], 1_000_000_000)
    when = time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{ns // 1000:06}"
    return (
        when,
        f"{row['dur'] / 1000:.0f}",
        str(row["pid"]),
        row["comm"],
        row["op"],
        row["ftype"],
        row["how"] or "",
        "" if row["bytes"] is None else str(row["bytes"]),
        errno.errorcode.get(row["errno"], str(row["errno"])) if row["errno"] else "",
        (row["mount"] or "").rstrip("/") + (row["path"] or " ?"),
    )


def _print(rows: list[dict[str, Any]]) -> None:
    cells = [_cells(row) for row in rows]
    if not sys.stdout.isatty():
        click.echo("\t".join(_COLUMNS))
        for line in cells:
            click.echo("\t".join(line))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in _COLUMNS:
        right = name in ("µs", "pid", "bytes")
        table.add_column(
            name,
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=name != "path",
        )
    for line in cells:
        table.add_row(*line)
    # Names of files are not markup.
    Console(markup=False, highlight=False).print(table)
