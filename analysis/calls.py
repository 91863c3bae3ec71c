"""What part of the calls that copied up was copyup: which other rows a copyup belongs to."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["within_calls"]

Frame = pd.DataFrame
Int64s = npt.NDArray[np.int64]

#: Copyups of parent directories lead from one to the next; no path is deeper.
_DEEPEST = 2048


def within_calls(frame: Frame) -> Frame:
    """Copyup's share of the operations in which it happened, by kind, most time first.

    Needs rows of operations (``open``, ``rename``, …), which not every backend of the tracer gives:
    without any there is no row.  A copyup counts for the operation that it was a part of, also
    when it is of a parent directory.  Columns: ``calls``, ``time`` in them, ``copyup`` of that,
    ``share`` (at most 1: clocks are read at slightly different moments).
    """
    found = [_of_run(part) for _, part in frame.groupby("run", observed=True)]
    rows = pd.concat(found) if found else pd.DataFrame(columns=["kind", "dur", "copyup"])
    groups = rows.groupby(rows["kind"].astype(object))
    made = groups.agg(calls=("dur", "size"), time=("dur", "sum"), copyup=("copyup", "sum"))
    made["share"] = (made["copyup"] / made["time"].where(made["time"] > 0)).clip(upper=1.0)
    for name in ("time", "copyup"):
        made[name] = pd.to_timedelta(made[name].astype("int64"), unit="ns")
    return made.rename_axis("kind").sort_values("time", ascending=False, kind="stable")


def _of_run(frame: Frame) -> Frame:
    """The operations of one run that copied something up, with the copyups' time in each (ns)."""
    known = frame[frame["id"].notna().to_numpy()]
    ident: Int64s = known["id"].to_numpy(dtype=np.int64)
    order = np.argsort(ident)
    parent: Int64s = known["parent"].to_numpy(dtype=np.int64, na_value=-1)
    copyup = (known["kind"] == "copyup").to_numpy()
    above = _places(ident[order], order, parent)
    top = np.where(copyup, above, -1)
    for _ in range(_DEEPEST):
        climbing = (top >= 0) & copyup[top]
        if not climbing.any():
            break
        top[climbing] = above[top[climbing]]
    else:
        top[(top >= 0) & copyup[top]] = -1  # a trace that was made up: its parents go round
    dur: Int64s = known["dur"].to_numpy().view("int64")
    spent = np.zeros(len(known), np.int64)
    mine = top >= 0
    np.add.at(spent, top[mine], dur[mine])
    called = np.unique(top[mine])
    kinds: Any = known["kind"].astype(object).to_numpy()[called]
    return pd.DataFrame({"kind": kinds, "dur": dur[called], "copyup": spent[called]})


def _places(ordered: Int64s, order: npt.NDArray[np.intp], wanted: Int64s) -> Int64s:
    """Where each wanted number stands among those that ``order`` sorts; -1 where it does not."""
    if not len(ordered):
        return np.full(len(wanted), -1, np.int64)
    place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return np.where(ordered[place] == wanted, order[place], -1).astype(np.int64)
