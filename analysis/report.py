"""A report's content as plain data, and its page on disk."""

from __future__ import annotations

import dataclasses
from typing import Any

import pandas as pd

from analysis import stats
from analysis.compare import compare, overlap
from analysis.findings import findings
from analysis.load import Run, Trace
from analysis.regress import ratios
from overlay.outfile import check_target, write_atomically
from overlay.text import printable

__all__ = ["as_data", "check_target", "record", "records", "write_atomically"]


def as_data(trace: Trace, *, top: int, depth: int) -> dict[str, Any]:
    """The report for machines: times in nanoseconds (keys end in ``_ns``), sizes in bytes."""
    runs = list(trace.runs)
    frames = {run.name: stats.copyups(trace.run(run.name)) for run in runs}
    first = frames[runs[0].name]
    return {
        "runs": [_run(run, trace, frames[run.name], top, depth) for run in runs],
        "damage": [
            {"path": printable(one.path), "reason": printable(one.reason)} for one in trace.damage
        ],
        "comparisons": [
            {
                "before": runs[0].name,
                "after": run.name,
                "files": dataclasses.asdict(overlap(first, frames[run.name])),
                **records(compare(first, frames[run.name]))[0],
                "typical": records(ratios(first, frames[run.name])),
                "typical_by_op": records(ratios(first, frames[run.name], "op")),
                "by_op": records(compare(first, frames[run.name], "op")),
                "by_size": records(compare(first, frames[run.name], "size")),
            }
            for run in runs[1:]
        ],
    }


def _run(run: Run, trace: Trace, frame: pd.DataFrame, top: int, depth: int) -> dict[str, Any]:
    every = trace.run(run.name)
    groups = {
        key: records(stats.summarise(frame, key, depth=depth), None if key == "size" else top)
        for key in ("process", "directory", "op", "size", "ftype", "how", "mount")
    }
    return {
        "name": run.name,
        "path": printable(run.path),
        "parts": run.parts,
        "metadata": _plain(dataclasses.asdict(run.metadata)),
        "copyups": record(stats.overview(frame)),
        "kinds": {str(name): int(count) for name, count in every["kind"].value_counts().items()},
        "by": groups,
        "phases": records(stats.phases(frame)),
        "top_files": records(stats.top_files(frame, top)),
        "findings": [dataclasses.asdict(found) for found in findings(frame)],
    }


def records(frame: pd.DataFrame, most: int | None = None) -> list[dict[str, Any]]:
    cut = frame if most is None else frame.head(most)
    return [record(row) for row in cut.reset_index().to_dict("records")]


def record(row: dict[Any, Any]) -> dict[str, Any]:
    """One row as JSON can hold it: nulls for NaN, nanoseconds for durations."""
    made: dict[str, Any] = {}
    for key, value in row.items():
        name = "group" if key == "index" else str(key)
        if isinstance(value, pd.Timedelta):
            made[f"{name}_ns"] = value.value
        elif value is None or value is pd.NaT:
            made[f"{name}_ns"] = None
        elif isinstance(value, str):
            made[name] = printable(value)
        elif pd.isna(value):
            made[name] = None
        else:
            made[name] = value.item() if hasattr(value, "item") else value
    return made


def _plain(value: Any) -> Any:
    """Metadata with every text in it printable."""
    if isinstance(value, dict):
        return {printable(str(key)): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return printable(value) if isinstance(value, str) else value
