"""Copyups that need not have been: what they cost, by the reason.

A trace tells which copyups only changed an attribute or a name, and which repeat an earlier
one.  It does not tell what was written afterwards; that the top knows: ``fallthru diff`` names
the files whose contents changed, and whatever else was opened for writing was not written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.stats import bytes_moved, coded_paths

__all__ = ["ATTRIBUTE_OPS", "OPEN_OPS", "amplification", "avoidable", "repeats"]

Frame = pd.DataFrame
Mask = npt.NDArray[np.bool_]

#: System calls that change no data: copying a file's data up for them is avoidable.
ATTRIBUTE_OPS = frozenset(
    {
        *("chmod", "fchmod", "fchmodat", "fchmodat2"),
        *("chown", "lchown", "fchown", "fchownat"),
        *("utime", "utimes", "futimesat", "utimensat"),
        *("setxattr", "lsetxattr", "fsetxattr", "setxattrat"),
        *("removexattr", "lremovexattr", "fremovexattr", "removexattrat"),
        *("link", "linkat", "rename", "renameat", "renameat2"),
    }
)
#: System calls that copy up because the file might be written.
OPEN_OPS = frozenset({"open", "openat", "openat2", "creat"})


def avoidable(frame: Frame, *, changed: Collection[str] | None = None) -> Frame:
    """What avoidable copyups cost: one row per reason, a copyup under the first that fits.

    ``attributes``: data copied for a mode, an owner, a time or a name; ``repeated``: the same file
    was copied up before in its run, so its copy was deleted or replaced in between;
    ``not written``: opened for writing, and its contents are the bottom's still, for which
    ``changed`` must hold the paths with other contents (NaT and NA without).  Columns:
    ``spans``, ``time``, ``share`` of all time, ``bytes``.
    """
    copied = (frame["how"] == "copy").to_numpy()
    masks: dict[str, Mask | None] = {
        "attributes": copied & frame["op"].isin(ATTRIBUTE_OPS).to_numpy(),
        "repeated": repeats(frame),
        "not written": None,
    }
    if changed is not None:
        opened = frame["op"].isin(OPEN_OPS) & (frame["ftype"] == "file")
        known = frame["path"].notna() & ~frame["path"].isin(list(changed))
        masks["not written"] = (opened & known).to_numpy()
    dur = frame["dur"].to_numpy().view("int64")
    moved = bytes_moved(frame)
    counted = np.zeros(len(frame), bool)
    rows: dict[str, Mapping[str, Any]] = {}
    for reason, mask in masks.items():
        if mask is None:
            rows[reason] = {"spans": pd.NA, "time": pd.NaT, "share": np.nan, "bytes": pd.NA}
            continue
        mine = mask & ~counted
        counted |= mine
        time = int(dur[mine].sum())
        rows[reason] = {
            "spans": int(mine.sum()),
            "time": pd.Timedelta(time, unit="ns"),
            "share": time / max(int(dur.sum()), 1),
            "bytes": int(moved[mine].sum()),
        }
    found = pd.DataFrame.from_dict(rows, orient="index").rename_axis("reason")
    return found.astype({"spans": "Int64", "bytes": "Int64", "time": "timedelta64[ns]"})


def repeats(frame: Frame) -> Mask:
    """Which copyups of regular files repeat an earlier one of the same path in their run.

    Data that follows metadata copied up before is no repetition.
    """
    whole = (frame["ftype"] == "file") & (frame["how"] != "metacopy") & frame["path"].notna()
    part = frame.loc[whole, ["ts"]].assign(
        path=coded_paths(frame.loc[whole, "path"])[0],
        run=frame.loc[whole, "run"].cat.codes,
        mount=frame.loc[whole, "mount"].cat.codes,
    )
    later = part.sort_values("ts", kind="stable").duplicated(["run", "mount", "path"])
    found = np.zeros(len(frame), bool)
    found[np.flatnonzero(whole.to_numpy())] = later.reindex(part.index).to_numpy()
    return found


def amplification(frame: Frame, written: int) -> float:
    """Bytes that copyup moved for each byte that was written afterwards; NaN for none.

    ``written`` is what the workload wrote into those files, which the trace does not tell.
    """
    return int(bytes_moved(frame).sum()) / written if written else float("nan")
