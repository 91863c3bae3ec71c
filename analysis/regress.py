"""Whether a second run got slower: ratios of typical times, with confidence, worst first.

The ratio is that of the medians, ``after / before``: above 1 is slower.  Its 95 % interval joins
the two medians' order-statistics intervals on a logarithmic scale (the method of variance
estimates recovery, Zou and Donner 2008): no distribution is assumed, and runs may differ in
size.  It tells how far other copyups of the *same* two runs could have moved it; what differs
between one run and the next (a busy machine, a cold cache) only more runs tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import stats
from analysis.order import ordered
from analysis.tally import Codes, medians

__all__ = ["FEWEST", "Regression", "past", "past_of", "ratios", "ratios_of"]

Frame = pd.DataFrame

#: Groups with fewer copyups in either run are shown but never held against a run.
FEWEST = 20
_EVERYTHING = "all"


@dataclass(frozen=True)
class Regression:
    """One measure that is past the limit: of ``group`` (``all``, or a system call), ``what`` it is,
    and the ratio after / before with its interval (equal ends for what is counted exactly)."""

    group: str
    what: str
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        between = f", {self.low:.2f} to {self.high:.2f}" if self.low < self.high else ""
        return f"{self.what} of {self.group}: {self.ratio:.2f} times as before{between}"


def ratios(
    before: Frame, after: Frame, by: str | Sequence[str] | None = None, *, depth: int = 2
) -> Frame:
    """Typical times of two runs by group of :data:`stats.KEYS` (without ``by`` one row, ``all``).

    Surest regressions first.  Columns: ``spans_before``, ``spans_after``, ``p50_before``,
    ``p50_after``, ``ratio`` (after / before), ``ratio_low`` and ``ratio_high`` (NaN where a group
    is too small), ``verdict``: ``slower`` or ``faster`` where the interval leaves out 1, else
    ``same`` within 5 %, or ``unsure``; ``gone`` and ``new`` for groups of one run.
    """
    return ratios_of(*(_medians(frame, by, depth) for frame in (before, after)))


def ratios_of(before: Frame, after: Frame, *, error: float = 0.0) -> Frame:
    """The same of two runs' :func:`analysis.tally.medians`; intervals are wider by ``error`` (a
    share) on either side, where these are not exact."""
    joined = before.add_suffix("_before").join(after.add_suffix("_after"), how="outer")
    found = pd.DataFrame(index=joined.index)
    for side in ("before", "after"):
        found[f"spans_{side}"] = joined[f"spans_{side}"].fillna(0).astype("int64")
    for side in ("before", "after"):
        found[f"p50_{side}"] = joined[f"p50_{side}"]
    ratio = joined["log_after"] - joined["log_before"]
    lower = np.hypot(joined["low_after"], joined["high_before"]) + error
    upper = np.hypot(joined["high_after"], joined["low_before"]) + error
    found["ratio"] = np.exp(ratio)
    found["ratio_low"] = np.exp(ratio - lower)
    found["ratio_high"] = np.exp(ratio + upper)
    found["verdict"] = np.select(
        [
            found["spans_before"] == 0,
            found["spans_after"] == 0,
            found["ratio_low"] > 1,
            found["ratio_high"] < 1,
            (found["ratio_low"] > 1 / 1.05) & (found["ratio_high"] < 1.05),
        ],
        ["new", "gone", "slower", "faster", "same"],
        "unsure",
    )
    return found.sort_values(["ratio_low", "ratio"], ascending=False, kind="stable")


def past(before: Frame, after: Frame, limit: float, by: str = "op") -> list[Regression]:
    """What exceeds ``limit`` (1.10: a tenth more): typical times of all and of each group ``by``
    whose whole interval lies above 1, the number of copyups, and the bytes copied."""
    tables = (ratios(before, after), ratios(before, after, by))
    moved = (int(stats.bytes_moved(one).sum()) for one in (before, after))
    return past_of(tables, (len(before), len(after)), tuple(moved), limit)


def past_of(
    tables: Sequence[Frame], spans: Sequence[int], moved: Sequence[int], limit: float
) -> list[Regression]:
    """The same of two runs' :func:`ratios`, and of how many copyups they had and bytes they
    copied (before and after)."""
    found = []
    for table in tables:
        fewest = table[["spans_before", "spans_after"]].min(axis=1)
        sure = (fewest >= FEWEST) & (table["ratio"] > limit) & (table["ratio_low"] > 1)
        figures = table.loc[sure, ["ratio", "ratio_low", "ratio_high"]].to_numpy(dtype=float)
        found += [
            Regression(str(name), "typical time", *map(float, row))
            for name, row in zip(table.index[sure], figures, strict=True)
        ]
    for what, (earlier, later) in {"number": spans, "bytes": moved}.items():
        if later > limit * earlier:
            ratio = later / earlier if earlier else float("inf")
            found.append(Regression(_EVERYTHING, what, ratio, ratio, ratio))
    return found


def _medians(frame: Frame, by: str | Sequence[str] | None, depth: int) -> Frame:
    codes: Codes = np.zeros(len(frame), np.int8)
    index: pd.Index[Any] = pd.Index([_EVERYTHING] * bool(len(frame)), dtype=object)
    if by is not None:
        codes, index = stats.grouped(frame, by, depth)
        if isinstance(index, pd.CategoricalIndex):
            index = pd.Index(index.astype(object), name=index.name)  # two runs, two sets of words
    return medians(ordered(frame["dur"].to_numpy().view("int64"), codes, len(index)), index)
