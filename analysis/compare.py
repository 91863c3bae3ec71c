"""Two runs side by side: what the second saves, in all and by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import stats

__all__ = ["Overlap", "compare", "compare_tables", "overlap"]

Frame = pd.DataFrame


@dataclass(frozen=True)
class Overlap:
    """How alike the work of two runs was: paths copied up in both, and in one only.

    Times and bytes can be compared only where the work was the same.
    """

    both: int
    only_before: int
    only_after: int

    @property
    def share(self) -> float:
        """Paths in both, of all paths; 1 for two runs that did the same, or nothing."""
        whole = self.both + self.only_before + self.only_after
        return self.both / whole if whole else 1.0


def overlap(before: Frame, after: Frame) -> Overlap:
    """Count the paths that two runs have in common."""
    first, second = (pd.Index(frame["path"].dropna().unique()) for frame in (before, after))
    both = len(first.intersection(second))
    return Overlap(both, len(first) - both, len(second) - both)


def compare(
    before: Frame, after: Frame, by: str | Sequence[str] | None = None, *, depth: int = 2
) -> Frame:
    """What ``after`` costs against ``before``, one row per group of :data:`stats.KEYS`.

    Without ``by`` there is one row, ``all``.  Most time saved comes first (by size:
    smallest first).  Columns: ``spans_before``, ``spans_after``, ``time_before``, ``time_after``,
    ``time_saved`` (negative: it got slower), ``time_ratio`` (before divided by after: 2 is
    twice as fast, below 1 slower; NaN without time in both), and ``bytes_before``,
    ``bytes_after``, ``bytes_saved``.
    """
    first, second = (_totals(frame, by, depth) for frame in (before, after))
    return compare_tables(first, second, ordered=by == "size")


def compare_tables(before: Frame, after: Frame, *, ordered: bool = False) -> Frame:
    """The same of two runs' ``spans``, ``time`` and ``bytes`` by group; ``ordered`` keeps the
    order of the groups."""
    joined = before.add_suffix("_before").join(after.add_suffix("_after"), how="outer")
    found = pd.DataFrame(index=joined.index)
    for name in ("spans", "time", "bytes"):
        for side in ("before", "after"):
            column = joined[f"{name}_{side}"]
            nothing = pd.Timedelta(0) if name == "time" else 0
            filled = column.fillna(nothing)
            found[f"{name}_{side}"] = filled if name == "time" else filled.astype("int64")
        if name != "spans":
            found[f"{name}_saved"] = found[f"{name}_before"] - found[f"{name}_after"]
    times = (found[f"time_{side}"].astype("int64").astype(float) for side in ("before", "after"))
    earlier, later = times
    ratio = earlier / later.where(later > 0)
    found.insert(5, "time_ratio", ratio.where(earlier > 0, np.nan))
    if ordered:
        return found
    return found.sort_values("time_saved", ascending=False, kind="stable")


def _totals(frame: Frame, by: str | Sequence[str] | None, depth: int) -> Frame:
    if by is not None:
        return stats.summarise(frame, by, depth=depth)[["spans", "time", "bytes"]]
    whole = stats.overview(frame)
    return pd.DataFrame({name: [whole[name]] for name in ("spans", "time", "bytes")}, index=["all"])
