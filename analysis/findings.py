"""What stands out in a run, as sentences: each rule looks at the spans and may say one.

A rule speaks only when the spans support it, and says by how much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import stats
from analysis.units import human_time, label
from analysis.waste import ATTRIBUTE_OPS, repeats
from overlay.text import human_bytes

__all__ = ["Finding", "findings"]

Frame = pd.DataFrame

#: From this share on something is called the main thing.
_MAINLY = 0.4
_PHASE_MEANS = {
    "create": (
        "spent before the first byte: looking up, and making the new file",
        "It does not depend on the size. Fewer copyups help; copying less does not.",
    ),
    "data": (
        "copying data",
        "A top on the bottom's own file system, if that can share extents (xfs, btrfs), "
        "would not copy at all.",
    ),
    "sync": (
        "fsync",
        "Each copy is made durable before it takes the file's place. A top that is deleted "
        "afterwards needs none of it: the profile throwaway leaves it out.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing: a short ``what``, and ``why`` it matters or what to do."""

    what: str
    why: str


def findings(frame: Frame) -> list[Finding]:
    """What stands out in the copyups of ``frame``, most useful first."""
    if frame.empty:
        return []
    return [found for rule in _RULES if (found := rule(frame)) is not None]


def _attributes(frame: Frame) -> Finding | None:
    """Data copied for the sake of a mode, an owner or a name."""
    part = frame[frame["op"].isin(ATTRIBUTE_OPS) & (frame["how"] == "copy")]
    moved = int(part["bytes"].fillna(0).sum())
    whole = int(frame["bytes"].fillna(0).sum())
    if not moved:
        return None
    time = _ns(part)
    ops = part["op"].value_counts()
    names = ", ".join(str(name) for name in ops.index[ops > 0][:3])
    return Finding(
        f"{human_bytes(moved)} ({moved / whole:.0%} of all data) went up although only a name "
        f"or an attribute changed ({names}).",
        f"It took {human_time(time)} in {len(part):,} copyups. The profile fallthru copies "
        "metadata alone and leaves the data on the bottom until it is written.",
    )


def _phase(frame: Frame) -> Finding | None:
    """The phase that outweighs the others, and what it means."""
    rows: dict[Any, dict[Any, Any]] = stats.phases(frame).to_dict("index")
    name = max(_PHASE_MEANS, key=lambda phase: rows[phase]["time"])
    share, time = rows[name]["share"], human_time(rows[name]["time"].value)
    if not share >= _MAINLY:  # NaN where no span tells it
        return None
    what, why = _PHASE_MEANS[name]
    return Finding(f"{share:.0%} of copyup time is {what} ({time}).", why)


def _process(frame: Frame) -> Finding | None:
    table = stats.summarise(frame, "process")
    first = table.iloc[0]
    if len(table) < 2 or first["share"] < _MAINLY:
        return None
    return Finding(
        f"{label(table.index[0], 30)} is behind {first['share']:.0%} of the time.",
        f"{first['spans']:,} copyups, {human_bytes(first['bytes'])}.",
    )


def _directory(frame: Frame) -> Finding | None:
    table = stats.summarise(frame, "directory", depth=3)
    first = table.iloc[0]
    if len(table) < 2 or first["share"] < _MAINLY or pd.isna(table.index[0]):
        return None
    return Finding(
        f"{first['share']:.0%} of the time went on files below {label(table.index[0], 60)}.",
        f"{first['spans']:,} copyups, {human_bytes(first['bytes'])}.",
    )


def _few_files(frame: Frame) -> Finding | None:
    """A handful of big files can outweigh thousands."""
    moved = frame["bytes"].fillna(0).astype("int64")
    whole = int(moved.sum())
    count = max(len(frame) // 100, 1)
    if len(frame) < 50 or not whole:
        return None
    share = int(moved.nlargest(count).sum()) / whole
    if share < 0.5:
        return None
    return Finding(
        f"{share:.0%} of the data belongs to the largest 1% of copyups.",
        f"{count:,} of {len(frame):,}; the table of files names them.",
    )


def _repeated(frame: Frame) -> Finding | None:
    """The same path copied up again: it was deleted or replaced in between."""
    again = frame.loc[repeats(frame), "path"].value_counts()
    if again.empty:
        return None
    return Finding(
        f"{len(again):,} files were copied up more than once.",
        f"{int(again.sum()):,} copyups repeat earlier ones, most often "
        f"{label(again.index[0], 60)} ({int(again.iloc[0]) + 1:,} times).",
    )


def _failed(frame: Frame) -> Finding | None:
    failed = frame[frame["errno"] != 0]
    if failed.empty:
        return None
    return Finding(
        f"{len(failed):,} copyups belong to system calls that failed.",
        f"They took {human_time(_ns(failed))} all the same.",
    )


def _ns(frame: Frame) -> int:
    return int(frame["dur"].astype("int64").sum())


_RULES: tuple[Callable[[Frame], Finding | None], ...] = (
    _attributes,
    _phase,
    _process,
    _directory,
    _few_files,
    _repeated,
    _failed,
)
