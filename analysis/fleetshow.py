"""A survey in the terminal, and as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import click

from analysis import fleet, fleettables, stats, tables
from analysis.fleettables import Key
from analysis.report import record, records
from analysis.sketch import DISTINCT_ERROR, KEPT, VALUE_ERROR
from analysis.survey import Survey
from analysis.tables import duration, ratio
from analysis.terminal import print_table
from overlay.text import human_bytes, printable

__all__ = ["as_data", "comparison_as_data", "show", "show_comparison"]

#: What a run says that it has lost.
_LOST = ("lost", "unmatched")


def show(survey: Survey, keys: Sequence[Key], *, top: int) -> None:
    """Print the key figures of a survey, its groups by ``keys``, and its phases."""
    whole = survey.overview()
    click.echo(_totals(survey))
    if not whole["spans"]:
        return
    marks = ", ".join(f"{name} {duration(whole[name])}" for name in stats.PERCENTILES)
    click.echo(f"  {marks}, longest {duration(whole['max'])}")
    lost, unmatched = (sum(getattr(run.metadata, name) for run in survey.runs) for name in _LOST)
    if lost or unmatched:
        click.secho(f"  incomplete: {lost:,} events lost, {unmatched:,} copyups given up", fg="red")
    for table in fleettables.groups(survey, keys, top):
        print_table(table)
    print_table(tables.phase_rows(survey.phases(), whole["spans"]))


def show_comparison(before: Survey, after: Survey, keys: Sequence[Key], *, top: int) -> None:
    """Print how ``after`` differs from ``before``: what got slower stands first."""
    for name, one in (("before", before), ("after", after)):
        click.echo(f"{name}: {_totals(one)}")
    row = fleet.compare(before, after).iloc[0]
    alike = fleet.overlap(before, after)
    click.echo(
        f"time {duration(row['time_before'])} → {duration(row['time_after'])}"
        f" ({ratio(row['time_ratio'])}), "
        f"data {human_bytes(row['bytes_before'])} → {human_bytes(row['bytes_after'])}, "
        f"{alike.both:,} files in both, {alike.only_before:,} and {alike.only_after:,} in one only"
    )
    for table in fleettables.changes(before, after, keys, top):
        print_table(table)


def as_data(survey: Survey, keys: Sequence[Key], top: int) -> dict[str, Any]:
    """A survey for machines: times in nanoseconds (keys end in ``_ns``), sizes in bytes."""
    return {
        "runs": [
            {
                "name": run.name,
                "host": run.host,
                "path": printable(run.path),
                "parts": run.parts,
                "spans": run.spans,
                **{name: getattr(run.metadata, name) for name in _LOST},
            }
            for run in survey.runs
        ],
        "copyups": record(survey.overview()),
        "by": {
            ",".join(key): records(survey.summarise(key), None if key == ("size",) else top)
            for key in keys
        },
        "phases": records(survey.phases()),
        "damage": [
            {"path": printable(one.path), "reason": printable(one.reason)} for one in survey.damage
        ],
        "precision": {
            "percentiles": VALUE_ERROR,
            "files_exact_up_to": KEPT - 1,
            "files_standard_error": DISTINCT_ERROR,
        },
    }


def comparison_as_data(
    before: Survey, after: Survey, keys: Sequence[Key], top: int
) -> dict[str, Any]:
    """How two surveys differ, for machines."""
    return {
        "files": dataclasses.asdict(fleet.overlap(before, after)),
        **records(fleet.compare(before, after))[0],
        "typical": records(fleet.ratios(before, after)),
        "typical_by": {
            ",".join(key): records(fleet.ratios(before, after, key), top) for key in keys
        },
        "by": {",".join(key): records(fleet.compare(before, after, key), top) for key in keys},
    }


def _totals(survey: Survey) -> str:
    whole, runs = survey.overview(), survey.runs
    hosts = len({run.host for run in runs})
    return (
        f"{hosts:,} hosts, {len(runs):,} runs: {whole['spans']:,} copyups of {whole['files']:,}"
        f" files: {duration(whole['time'])}, {human_bytes(whole['bytes'])} copied"
    )
