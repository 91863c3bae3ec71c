"""The report on a terminal: rich tables for people, aligned plain text for pipes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import click
import pandas as pd

from analysis import lookups, stats, tables
from analysis.advise import Advice
from analysis.compare import compare, overlap
from analysis.findings import findings
from analysis.load import Run, Trace
from analysis.tables import Table, duration, ratio
from analysis.units import human_time
from overlay.text import human_bytes, printable

__all__ = ["comparison_line", "print_table", "show", "show_advice", "show_comparisons"]


def show(trace: Trace, *, top: int, depth: int) -> None:
    """Print each run's key figures, what stands out, and its tables; then comparisons."""
    for run in trace.runs:
        frame = stats.copyups(trace.run(run.name))
        _heading(run, frame)
        for found in findings(frame):
            click.echo(f"  • {found.what}")
        for table in _tables(trace.run(run.name), frame, top, depth):
            print_table(table)
        operations = lookups.counted(run.metadata.latencies)
        if operations:
            print_table(tables.lookups(operations))
    show_comparisons(trace, top=top)


def show_comparisons(trace: Trace, *, top: int) -> None:
    """Print how each later run differs from the first: what got slower stands first."""
    first, *others = trace.runs
    before = stats.copyups(trace.run(first.name))
    for run in others:
        after = stats.copyups(trace.run(run.name))
        click.echo()
        click.echo(comparison_line(first, run, before, after))
        print_table(
            tables.typical(before, after, "op", "Typical time by system call", "system call")
        )
        print_table(tables.changes(before, after, "op", "By system call", "system call", top=top))


def comparison_line(first: Run, second: Run, before: pd.DataFrame, after: pd.DataFrame) -> str:
    """One sentence: what the second run saves, and whether it did the same work."""
    row = compare(before, after).iloc[0]
    alike = overlap(before, after)
    return (
        f"{printable(second.name)} against {printable(first.name)}: "
        f"time {duration(row['time_before'])} → {duration(row['time_after'])}"
        f" ({ratio(row['time_ratio'])}), "
        f"data {human_bytes(row['bytes_before'])} → {human_bytes(row['bytes_after'])}, "
        f"{alike.both:,} files in both, {alike.only_before:,} and {alike.only_after:,} in one only"
    )


def show_advice(found: Sequence[Advice], runs: Sequence[Run]) -> None:
    """Print each piece of advice on ``runs``: what, what it saves, what it gives up, the command;
    and of which runs nothing is known about priming."""
    if not found:
        click.echo("nothing would have saved more than a fiftieth of the time")
    for one in found:
        ends = f"{human_time(one.time.low)} to {human_time(one.time.high)}"
        click.secho(f"\n{one.name}: {one.what}", bold=True)
        click.echo(
            f"  saves {human_time(one.time.value)} ({ends}),"
            f" {one.share:.0%} of the time in {one.of}"
            f"{', ' + human_bytes(one.bytes) if one.bytes else ''}, in {one.spans:,} {one.calls}"
            f" of {printable(one.run)} on {printable(one.mount)}; confidence {one.confidence}"
        )
        click.echo(f"  but {one.but}")
        click.echo(f"  $ {printable(one.command)}")
    blind = [run for run in runs if not lookups.seen(run)]
    if blind:
        names = ", ".join(f"{printable(run.name)} ({run.metadata.backend})" for run in blind)
        click.echo(f"\nnothing about priming: lookups and listings are not seen in {names}")


def _heading(run: Run, frame: pd.DataFrame) -> None:
    whole = stats.overview(frame)
    click.echo()
    click.secho(printable(run.name), bold=True)
    click.echo(
        f"  {whole['spans']:,} copyups of {whole['files']:,} files by {whole['processes']:,}"
        f" processes: {duration(whole['time'])}, {human_bytes(whole['bytes'])} copied"
    )
    if whole["spans"]:
        marks = ", ".join(f"{name} {duration(whole[name])}" for name in stats.PERCENTILES)
        click.echo(f"  {marks}, longest {duration(whole['max'])}")
    if run.metadata.lost or run.metadata.unmatched:
        click.secho(
            f"  incomplete: {run.metadata.lost:,} events lost,"
            f" {run.metadata.unmatched:,} copyups given up",
            fg="red",
        )


def _tables(every: pd.DataFrame, frame: pd.DataFrame, top: int, depth: int) -> Iterator[Table]:
    other = tables.kinds(every)
    if other is not None:
        yield other
    if frame.empty:
        return
    for key, title, first in tables.GROUPINGS:
        if key in ("mount", "how", "ftype") and frame[key].nunique() < 2:
            continue
        yield tables.by(frame, key, title, first, top=top, depth=depth)
    yield tables.phases(frame)
    yield tables.files(frame, top=top)


def print_table(table: Table) -> None:
    click.echo()
    if sys.stdout.isatty():
        _rich(table)
    else:
        click.echo(f"{table.title}:")
        for line in _plain(table):
            click.echo(line)
    if table.note:
        click.echo(f"  {table.note}")


def _plain(table: Table) -> Iterator[str]:
    """Columns two blanks apart; figures to the right; nothing cut, nothing wrapped."""
    every = (table.columns, *table.rows)
    widths = [max(len(row[at]) for row in every) for at in range(len(table.columns))]
    for row in every:
        cells = (
            cell.ljust(width) if at < table.texts else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield f"  {'  '.join(cells)}".rstrip()


def _rich(table: Table) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for at, name in enumerate(table.columns):
        text = at < table.texts
        made.add_column(
            Text(name), justify="left" if text else "right", no_wrap=True, overflow="ellipsis"
        )
    for row in table.rows:
        made.add_row(*(Text(cell) for cell in row))  # Text: "[red]" in a name is no markup
    Console().print(made)
