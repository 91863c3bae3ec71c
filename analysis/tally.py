"""What the spans of each group add up to, and the table of it.

A tally of a frame has every duration, sorted; one of many hosts a sketch of them
(:mod:`analysis.sketch`).  The table is made the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis import sketch
from analysis.order import Int64s, Ranked
from analysis.sketch import Sketch

__all__ = [
    "PERCENTILES",
    "Codes",
    "Tally",
    "bytes_moved",
    "index_of",
    "medians",
    "merged",
    "table",
    "tallied",
    "times",
]

PERCENTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99}

Frame = pd.DataFrame
Codes = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Tally:
    """Of each group of ``index``: the ``durations`` (ns) of its spans, the ``bytes`` they moved,
    how many do not tell those (``untold``), and how many failed (``errors``)."""

    index: pd.Index[Any]
    durations: Ranked
    bytes: Int64s
    untold: Int64s
    errors: Int64s


def tallied(
    frame: Frame,
    codes: Codes,
    index: pd.Index[Any],
    rank: Callable[[Int64s, Codes, int], Ranked],
) -> Tally:
    """The tally of ``frame``, whose spans are in the groups ``codes`` of ``index``; ``rank`` is
    :func:`analysis.order.ordered` or :func:`analysis.sketch.sketched`."""
    count = len(index)
    dur: Int64s = frame["dur"].to_numpy().view("int64")
    failed = frame["errno"].to_numpy() != 0
    return Tally(
        index,
        rank(dur, codes, count),
        _sums(bytes_moved(frame), codes, count),
        np.bincount(codes[frame["bytes"].isna().to_numpy()], minlength=count),
        np.bincount(codes[failed], minlength=count),
    )


def merged(tallies: Sequence[Tally]) -> Tally:
    """One tally of several whose durations are sketches, groups of the same name together."""
    keys = pd.concat([one.index.to_frame(index=False) for one in tallies], ignore_index=True)
    names = list(keys.columns)
    groups = keys.groupby(names, observed=True, dropna=False, sort=True)
    every: Int64s = groups.ngroup().to_numpy().astype(np.int64)
    index = groups.size().index
    codes = np.split(every, np.cumsum([len(one.index) for one in tallies])[:-1])
    sketches = [one.durations for one in tallies if isinstance(one.durations, Sketch)]
    return Tally(
        index,
        sketch.merged(sketches, codes, len(index)),
        *(
            _sums(np.concatenate([getattr(one, name) for one in tallies]), every, len(index))
            for name in ("bytes", "untold", "errors")
        ),
    )


def index_of(names: Frame) -> pd.Index[Any]:
    """The groups of which ``names`` has a row each."""
    if len(names.columns) == 1:
        alone: pd.Index[Any] = pd.Index(names.iloc[:, 0], name=names.columns[0])
        return alone
    return pd.MultiIndex.from_frame(names)


def table(tally: Tally) -> Frame:
    """One row per group, as :func:`analysis.stats.summarise` describes its columns."""
    durations = tally.durations
    total = durations.total()
    found: dict[str, Any] = {
        "spans": durations.counts,
        "time": times(total),
        "share": total / max(float(total.sum()), 1.0),
        "bytes": tally.bytes,
        "untold": tally.untold,
    }
    for name, at in PERCENTILES.items():
        found[name] = times(durations.quantile(at))
        found[f"{name}_low"], found[f"{name}_high"] = map(times, durations.interval(at))
    found["max"] = times(durations.largest())
    found["errors"] = tally.errors
    made = pd.DataFrame(found, index=tally.index)
    if tally.index.names == ["size"]:
        return made
    return made.sort_values(["time", "spans"], ascending=False, kind="stable")


def medians(durations: Ranked, index: pd.Index[Any]) -> Frame:
    """Typical times by group: ``spans``, ``p50``, its logarithm ``log``, and how far (as
    logarithms) its confidence interval reaches to ``low`` and to ``high``."""
    median = durations.quantile(0.5)
    low, high = durations.interval(0.5)
    return pd.DataFrame(
        {
            "spans": durations.counts,
            "p50": pd.to_timedelta(np.round(median), unit="ns"),
            "log": _log(median),
            "low": _log(median) - _log(low),
            "high": _log(high) - _log(median),
        },
        index=index,
    )


def bytes_moved(frame: Frame) -> Int64s:
    """Bytes moved by each span, 0 where it does not tell."""
    return frame["bytes"].to_numpy(dtype="int64", na_value=0)


def times(ns: npt.NDArray[Any]) -> pd.TimedeltaIndex:
    """Nanoseconds as durations; NaN becomes NaT."""
    known = np.isfinite(ns)
    whole = np.where(known, np.round(ns), 0).astype("int64")
    return pd.TimedeltaIndex(np.where(known, whole.view("m8[ns]"), np.timedelta64("NaT", "ns")))


def _sums(values: Int64s, codes: Codes, groups: int) -> Int64s:
    found = np.zeros(groups, np.int64)
    np.add.at(found, codes, values)  # bincount would add in floating point
    return found


def _log(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.log(np.maximum(values, 1.0))
