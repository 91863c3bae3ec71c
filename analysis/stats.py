"""Summaries of spans: by any columns, by phase, by file, over time.

Everything takes a frame of :func:`analysis.load.load` (or rows of one) and returns
a new frame whose columns are named in the function's docstring.  Times are
timedelta64[ns], sizes bytes, shares between 0 and 1.  Percentiles interpolate
linearly between the two nearest spans (numpy's default).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from overlay.errors import UsageError
from tracer.schema import PHASES

__all__ = [
    "KEYS",
    "PERCENTILES",
    "SIZE_CLASSES",
    "copyups",
    "directory",
    "overview",
    "phases",
    "size_class",
    "summarise",
    "timeline",
    "top_files",
]

PERCENTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99}

#: Upper ends of the size classes in bytes, and their names.  A class holds what is
#: greater than the class before and at most its end; the last has no end.
SIZE_CLASSES: Mapping[str, float] = {
    "empty": 0,
    "≤ 4 KiB": 4 << 10,
    "≤ 16 KiB": 16 << 10,
    "≤ 64 KiB": 64 << 10,
    "≤ 256 KiB": 256 << 10,
    "≤ 1 MiB": 1 << 20,
    "≤ 4 MiB": 4 << 20,
    "≤ 16 MiB": 16 << 20,
    "≤ 64 MiB": 64 << 20,
    "≤ 256 MiB": 256 << 20,
    "> 256 MiB": float("inf"),
}

Frame = pd.DataFrame
Column = pd.Series


def _column(name: str) -> Callable[[Frame, int], Column[Any]]:
    return lambda frame, _: frame[name]


#: What a group is made by, under the name that callers and reports use: the frame and
#: the depth of directories in, one value per span out.
KEYS: Mapping[str, Callable[[Frame, int], Column[Any]]] = {
    "process": _column("comm"),
    "directory": lambda frame, depth: directory(frame["path"], depth),
    "size": lambda frame, _: size_class(frame["size"]),
    **{
        name: _column(name)
        for name in (
            *("run", "kind", "op", "how", "ftype", "mount", "backend"),
            *("cgroup", "uid", "pid", "errno"),
        )
    },
}


def copyups(frame: Frame) -> Frame:
    """The copyup spans alone."""
    return frame[frame["kind"] == "copyup"]


def size_class(size: Column[Any]) -> Column[Any]:
    """The size class of each file size (bytes): an ordered category of :data:`SIZE_CLASSES`."""
    codes = np.searchsorted(list(SIZE_CLASSES.values()), size.to_numpy(), side="left")
    values = pd.Categorical.from_codes(
        codes, categories=pd.Index(list(SIZE_CLASSES), dtype=object), ordered=True
    )
    return pd.Series(values, index=size.index, name="size")


def directory(path: Column[Any], depth: int = 2) -> Column[Any]:
    """The directory each path lies in, cut after ``depth`` names: a category.

    ``/share/doc/bash/README`` is in ``/share/doc`` at depth 2; a file nearer to the
    root is in the directory it lies in.  Unknown paths stay null.
    """
    if depth < 1:
        raise UsageError(f"a directory depth of {depth} shows nothing", hint="use 1 or more")
    coded = pa.chunked_array(pa.array(path, type=pa.string())).dictionary_encode()
    coded = coded.combine_chunks()
    # (?s): a file name may hold a newline.  The root itself and relative paths are "/".
    cut = pc.extract_regex(
        coded.dictionary, rf"(?s)^(?P<dir>(?:/[^/]+){{0,{depth}}}).*/[^/]*$"
    ).field("dir")
    cut = pc.if_else(pc.equal(pc.fill_null(cut, ""), ""), "/", cut).dictionary_encode()
    codes = pc.take(cut.indices, coded.indices).fill_null(-1).to_numpy(zero_copy_only=False)
    values = pd.Categorical.from_codes(codes, categories=cut.dictionary.to_pandas())
    return pd.Series(values, index=path.index, name="directory")


def summarise(frame: Frame, by: str | Sequence[str], *, depth: int = 2) -> Frame:
    """One row per group of :data:`KEYS` names, most time first (by size: smallest first).

    ``depth`` is where ``directory`` cuts.  Groups without spans are left out; spans
    whose key is null are the group null.  Columns: ``spans``; ``time``; ``share`` of the
    whole time; ``bytes`` moved to the top (spans that do not tell count nothing;
    ``untold`` is how many those are); ``p50``, ``p90``, ``p99``, ``max`` of a span's time;
    ``errors``, spans whose system call failed.
    """
    names = [by] if isinstance(by, str) else list(by)
    unknown = [name for name in names if name not in KEYS]
    if unknown:
        raise UsageError(f"no such group: {unknown[0]}", hint=f"there are: {', '.join(KEYS)}")
    keys = [KEYS[name](frame, depth).rename(name) for name in names]
    work = pd.DataFrame(
        {
            "dur": frame["dur"].astype("int64"),
            "moved": frame["bytes"].fillna(0).astype("int64"),
            "untold": frame["bytes"].isna(),
            "failed": frame["errno"] != 0,
        }
    )
    groups = work.groupby(keys, observed=True, dropna=False, sort=True)
    found = groups.agg(
        spans=("dur", "size"),
        time=("dur", "sum"),
        bytes=("moved", "sum"),
        untold=("untold", "sum"),
        max=("dur", "max"),
        errors=("failed", "sum"),
    )
    whole = float(found["time"].sum())
    found["share"] = found["time"] / whole if whole else 0.0
    for name, value in PERCENTILES.items():
        found[name] = groups["dur"].quantile(value).round()
    for name in ("time", *PERCENTILES, "max"):
        found[name] = pd.to_timedelta(found[name].astype("int64"), unit="ns")
    found = found[
        ["spans", "time", "share", "bytes", "untold", *PERCENTILES, "max", "errors"]
    ].astype({"untold": "int64", "errors": "int64"})
    if names == ["size"]:
        return found
    return found.sort_values(["time", "spans"], ascending=False, kind="stable")


def phases(frame: Frame) -> Frame:
    """One row per phase, in order of happening, and a last row ``other``.

    A span whose phase is null says nothing about that phase: it is not in the row,
    and not in the row's ``share``.  Columns: ``known`` and ``unknown``, spans that tell and
    do not; ``happened``, those where it took any time; ``time``; ``share`` of the time of the
    spans that tell; ``p50``, ``p90``, ``p99``, ``max`` over the spans that tell.  ``other`` is
    what remains of spans that tell every phase.
    """
    rows = {name: _phase(frame["dur"], frame[name]) for name in PHASES}
    told = frame[list(PHASES)]
    rest = frame["dur"] - told.sum(axis=1)
    whole = told.notna().all(axis=1)
    # Never below nothing: phases are told by clocks read at slightly different moments.
    rest = rest.mask(rest < pd.Timedelta(0), pd.Timedelta(0))
    rows["other"] = _phase(frame["dur"], rest.where(whole))
    found = pd.DataFrame.from_dict(rows, orient="index").rename_axis("phase")
    for name in ("time", *PERCENTILES, "max"):
        found[name] = pd.to_timedelta(found[name], unit="ns")
    return found


def _phase(dur: Column[Any], phase: Column[Any]) -> dict[str, Any]:
    known = phase.notna().to_numpy()
    values = phase.to_numpy()[known].astype("int64")
    whole = int(dur.to_numpy()[known].astype("int64").sum())
    time = int(values.sum())
    marks = np.quantile(values, list(PERCENTILES.values())) if len(values) else [np.nan] * 3
    return {
        "known": len(values),
        "unknown": len(phase) - len(values),
        "happened": int((values > 0).sum()),
        "time": time,
        "share": time / whole if whole else np.nan,
        **{name: mark.round() for name, mark in zip(PERCENTILES, np.asarray(marks), strict=True)},
        "max": float(values.max()) if len(values) else np.nan,
    }


def top_files(frame: Frame, count: int = 10) -> Frame:
    """The ``count`` files on which most time went, one row per path.

    A path is indexed as it stands in the trace; spans without one are left out.
    Columns: ``spans``, ``time``, ``bytes`` moved, ``size`` (largest seen), ``op`` and ``process``
    of its longest span.
    """
    named = frame[frame["path"].notna()]
    coded = pa.chunked_array(pa.array(named["path"], type=pa.string())).dictionary_encode()
    coded = coded.combine_chunks()
    codes = coded.indices.to_numpy(zero_copy_only=False)
    dur = named["dur"].to_numpy().astype("int64")
    total = np.bincount(codes, weights=dur, minlength=len(coded.dictionary))
    best = np.argsort(-total, kind="stable")[:count]
    mine = np.isin(codes, best)
    mine_paths = coded.dictionary.take(pa.array(codes[mine])).to_numpy(zero_copy_only=False)
    part = named[mine].reset_index(drop=True).assign(path=mine_paths)
    part = part.assign(bytes=part["bytes"].fillna(0).astype("int64"))
    groups = part.groupby("path", sort=False)
    found = groups.agg(spans=("dur", "size"), time=("dur", "sum"), bytes=("bytes", "sum"))
    found["size"] = groups["size"].max()
    longest = part.loc[groups["dur"].idxmax()].set_index("path")
    found["op"] = longest["op"].astype(object)
    found["process"] = longest["comm"].astype(object)
    return found.sort_values("time", ascending=False, kind="stable")


def timeline(frame: Frame, bins: int = 120) -> Frame:
    """Spans over time in ``bins`` equal steps from the first start to the last.

    Indexed by the step's start (UTC).  Columns: ``spans``, ``bytes``, ``time`` and, NaT where
    nothing happened, ``p50``, ``p99``, ``max`` of a span's time.  Every step has the
    length ``attrs["step"]`` (a Timedelta).
    """
    start = frame["ts"].dt.as_unit("ns").astype("int64").to_numpy()
    first, last = (int(start.min()), int(start.max())) if len(start) else (0, 0)
    step = max(-(-(last - first + 1) // bins), 1)
    slot = (start - first) // step
    work = pd.DataFrame(
        {
            "dur": frame["dur"].to_numpy().astype("int64"),
            "bytes": frame["bytes"].fillna(0).to_numpy().astype("int64"),
        }
    )
    groups = work.groupby(slot, sort=True)
    found = groups.agg(spans=("dur", "size"), bytes=("bytes", "sum"), time=("dur", "sum"))
    every = pd.RangeIndex(bins if len(start) else 0)
    found = found.reindex(every, fill_value=0)
    for name, value in {"p50": 0.50, "p99": 0.99, "max": 1.0}.items():
        found[name] = pd.to_timedelta(groups["dur"].quantile(value).reindex(every), unit="ns")
    found["time"] = pd.to_timedelta(found["time"], unit="ns")
    found.index = pd.DatetimeIndex(
        pd.to_datetime(first + every.to_numpy() * step, unit="ns", utc=True), name="start"
    )
    found.attrs["step"] = pd.Timedelta(step, unit="ns")
    return found


def overview(frame: Frame) -> dict[str, Any]:
    """The totals of ``frame``: ``spans``, ``files`` (paths), ``processes`` (pids), ``bytes``,
    ``untold``, ``errors``, ``time``, ``p50``, ``p90``, ``p99``, ``max`` (None without spans)."""
    dur = frame["dur"].to_numpy().astype("int64")
    marks = {name: float(np.quantile(dur, at)) for name, at in PERCENTILES.items() if len(dur)}
    marks |= {"max": float(dur.max())} if len(dur) else {}
    return {
        "spans": len(frame),
        "files": int(frame["path"].nunique()),
        "processes": int(frame["pid"].nunique()),
        "bytes": int(frame["bytes"].fillna(0).sum()),
        "untold": int(frame["bytes"].isna().sum()),
        "errors": int((frame["errno"] != 0).sum()),
        "time": pd.Timedelta(int(dur.sum()), unit="ns"),
        **{
            name: pd.Timedelta(round(marks[name]), unit="ns") if name in marks else None
            for name in (*PERCENTILES, "max")
        },
    }
