"""Summaries of spans: by any columns, by phase, by file, over time.

Everything takes a frame of :func:`analysis.load.load` (or rows of one) and returns
a new frame whose columns are named in the function's docstring.  Times are
timedelta64[ns], sizes bytes, shares between 0 and 1.  Percentiles interpolate
linearly between the two nearest spans (numpy's default).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from analysis.order import Int64s, ordered
from analysis.tally import PERCENTILES, Codes, bytes_moved, table, tallied
from overlay.errors import UsageError
from tracer.schema import PHASES

__all__ = [
    "KEYS",
    "PERCENTILES",
    "SIZE_CLASSES",
    "bytes_moved",
    "coded_paths",
    "copyups",
    "directory",
    "grouped",
    "overview",
    "phase_table",
    "phase_values",
    "phases",
    "size_class",
    "summarise",
    "timeline",
    "top_files",
]

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
            *("run", "host", "kind", "op", "how", "ftype", "mount", "backend"),
            *("cgroup", "uid", "pid", "errno"),
        )
    },
}


def copyups(frame: Frame) -> Frame:
    """The copyup spans alone; ``frame`` itself if there are no others."""
    mine = (frame["kind"] == "copyup").to_numpy()
    return frame if mine.all() else frame[mine]


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


def grouped(frame: Frame, by: str | Sequence[str], depth: int = 2) -> tuple[Codes, pd.Index[Any]]:
    """Which group each span is in, and the groups: of :data:`KEYS` names or columns.

    Groups without spans are left out; spans whose key is null are the group null.
    """
    names = [by] if isinstance(by, str) else list(by)
    unknown = [name for name in names if name not in KEYS and name not in frame.columns]
    if unknown:
        raise UsageError(f"no such group: {unknown[0]}", hint=f"there are: {', '.join(KEYS)}")
    keys = [
        (KEYS[name](frame, depth) if name in KEYS else frame[name]).rename(name) for name in names
    ]
    if len(keys) == 1 and isinstance(keys[0].dtype, pd.CategoricalDtype):
        return _categories(keys[0])
    groups = pd.DataFrame(index=frame.index).groupby(keys, observed=True, dropna=False, sort=True)
    return groups.ngroup().to_numpy(), groups.size().index


def _categories(key: Column[Any]) -> tuple[Codes, pd.Index[Any]]:
    """The groups of one category column, which is coded already: no hashing of spans."""
    codes, size = key.cat.codes.to_numpy(), len(key.cat.categories)
    there = np.flatnonzero(np.bincount(codes.astype(np.int64) % (size + 1), minlength=size + 1))
    narrow = np.zeros(size + 1, dtype=np.min_scalar_type(-size - 1))
    narrow[there] = np.arange(len(there))
    values = pd.Categorical.from_codes(
        np.where(there == size, -1, there),
        categories=key.cat.categories,
        ordered=bool(key.cat.ordered),
    )
    return narrow[codes], pd.CategoricalIndex(values, name=key.name)


def summarise(frame: Frame, by: str | Sequence[str], *, depth: int = 2) -> Frame:
    """One row per group of :data:`KEYS` names, most time first (by size: smallest first).

    Any other column of the frame groups, too.  ``depth`` is where ``directory`` cuts.  Groups
    without spans are left out; spans whose key is null are the group null.  Columns: ``spans``;
    ``time``; ``share`` of the whole time; ``bytes`` moved to the top (spans that do not tell count
    nothing; ``untold`` is how many those are); ``p50``, ``p90``, ``p99`` of a span's time, with the
    ends of their 95 % confidence intervals from order statistics (:mod:`analysis.order`) in
    ``p50_low``, ``p50_high`` and so on, NaT where the group is too small to bound them;
    ``max``; ``errors``, spans whose system call failed.
    """
    codes, index = grouped(frame, by, depth)
    return table(tallied(frame, codes, index, ordered))


def coded_paths(path: Column[Any]) -> tuple[npt.NDArray[np.int32], pa.Array]:
    """Paths as numbers, and the different paths that these stand for (none may be null)."""
    coded = pa.chunked_array(pa.array(path, type=pa.string())).dictionary_encode()
    joined = coded.combine_chunks()
    return joined.indices.to_numpy(zero_copy_only=False), joined.dictionary


def phases(frame: Frame) -> Frame:
    """One row per phase, in order of happening, and a last row ``other``.

    A span whose phase is null says nothing about that phase: it is not in the row,
    and not in the row's ``share``.  Columns: ``known`` and ``unknown``, spans that tell and
    do not; ``happened``, those where it took any time; ``time``; ``share`` of the time of the
    spans that tell; ``p50``, ``p90``, ``p99``, ``max`` over the spans that tell.  ``other`` is
    what remains of spans that tell every phase.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy works outside of Python's lock
        told = {
            name: pool.submit(_phase, dur, phase, untold)
            for name, dur, phase, untold in phase_values(frame)
        }
        return phase_table({name: row.result() for name, row in told.items()})


def phase_values(frame: Frame) -> Iterator[tuple[str, Int64s, Int64s, int]]:
    """Each phase, and ``other``: the durations and the phases (ns) of the spans that tell it, and
    how many do not."""
    dur: Int64s = frame["dur"].to_numpy().view("int64")
    rest, whole = dur.copy(), np.ones(len(frame), bool)
    for name in PHASES:
        values = frame[name].to_numpy().view("int64")
        known = frame[name].notna().to_numpy()
        yield name, *_told(dur, values, known)
        if known.all():
            rest -= values
        else:
            whole &= known
            rest -= np.where(known, values, 0)
    # Never below nothing: phases are told by clocks read at slightly different moments.
    yield "other", *_told(dur, np.maximum(rest, 0, out=rest), whole)


def phase_table(rows: dict[str, dict[str, Any]]) -> Frame:
    """The table of :func:`phases`, of rows with times in ns."""
    found = pd.DataFrame.from_dict(rows, orient="index").rename_axis("phase")
    for name in ("time", *PERCENTILES, "max"):
        found[name] = pd.to_timedelta(found[name], unit="ns")
    return found


def _told(dur: Int64s, phase: Int64s, known: npt.NDArray[np.bool_]) -> tuple[Int64s, Int64s, int]:
    if known.all():
        return dur, phase, 0
    return dur[known], phase[known], int(np.count_nonzero(~known))


def _phase(dur: Int64s, phase: Int64s, untold: int) -> dict[str, Any]:
    whole, time = int(dur.sum()), int(phase.sum())
    marks = np.quantile(phase, list(PERCENTILES.values())) if len(phase) else [np.nan] * 3
    return {
        "known": len(phase),
        "unknown": untold,
        "happened": int(np.count_nonzero(phase > 0)),
        "time": time,
        "share": time / whole if whole else np.nan,
        **{name: mark.round() for name, mark in zip(PERCENTILES, np.asarray(marks), strict=True)},
        "max": float(phase.max()) if len(phase) else np.nan,
    }


def top_files(frame: Frame, count: int = 10) -> Frame:
    """The ``count`` files on which most time went, one row per path.

    A path is indexed as it stands in the trace; spans without one are left out.
    Columns: ``spans``, ``time``, ``bytes`` moved, ``size`` (largest seen), ``op`` and ``process``
    of its longest span.
    """
    named = frame[frame["path"].notna()]
    codes, paths = coded_paths(named["path"])
    dur = named["dur"].to_numpy().astype("int64")
    total = np.bincount(codes, weights=dur, minlength=len(paths))
    best = np.argsort(-total, kind="stable")[:count]
    mine = np.isin(codes, best)
    mine_paths = paths.take(pa.array(codes[mine])).to_numpy(zero_copy_only=False)
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
