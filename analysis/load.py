"""Reading trace directories: any number of them into one typed frame, with what was lost.

The columns of the frame are those of :data:`tracer.schema.SCHEMA`, typed as
:mod:`tracer.frame` says, plus two categories: ``run``, which trace the span is from, and
``host``, where it was recorded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa

from overlay.errors import OperationFailed, UsageError
from overlay.text import printable
from tracer.frame import Columns, category, frame_of
from tracer.parts import (
    NewerTrace,
    NotATrace,
    PartError,
    StrPath,
    UnreadableTrace,
    discover,
    read_part,
    siblings,
    whole_run,
)
from tracer.schema import SCHEMA, RunMetadata

__all__ = [
    "Damage",
    "NewerTrace",
    "NotATrace",
    "Run",
    "TooLarge",
    "Trace",
    "UnreadableTrace",
    "load",
    "load_metadata",
]


class TooLarge(OperationFailed):
    """The spans do not fit in memory at once."""


@dataclass(frozen=True)
class Damage:
    """Something a trace has lost: ``path`` (a part, or the trace) and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.reason}"


@dataclass(frozen=True)
class Run:
    """One recorded run: its unique ``name`` (the value in the frame's ``run`` column),
    the directory it came from, its metadata, and how many parts and spans were read."""

    name: str
    path: str
    metadata: RunMetadata
    parts: int = 0
    spans: int = 0

    @property
    def host(self) -> str:
        """The partition ``host=…`` that the run lies in, or else the host that recorded it."""
        for name in reversed(self.path.split("/")):
            if name.startswith("host="):
                return printable(name.removeprefix("host="))
        return self.metadata.hostname


@dataclass(frozen=True, eq=False)
class Trace:
    """Spans of one or more runs, and what is missing from them.

    ``runs`` keeps the order in which the traces were named; so do the categories
    of ``frame["run"]``.  ``damage`` is empty for a sound trace.
    """

    frame: pd.DataFrame
    runs: tuple[Run, ...]
    damage: tuple[Damage, ...] = ()

    def run(self, name: str) -> pd.DataFrame:
        """The spans of one run."""
        if name not in {run.name for run in self.runs}:
            raise KeyError(name)
        return self.frame[self.frame["run"] == name]


@dataclass
class _Found:
    """The parts of one run as they are read."""

    path: str
    parts: list[str]
    metadata: list[RunMetadata] = field(default_factory=list)
    spans: int = 0
    damage: list[Damage] = field(default_factory=list)


def load(paths: StrPath | Iterable[StrPath], *, columns: Sequence[str] | None = None) -> Trace:
    """Read traces: a trace directory, a directory of traces, a part, a glob, or several.

    All parts in one directory are one run, named after the directory; directories may be
    partitions (``host=web1/run=7``).  ``columns`` limits what is read (``run`` is always
    there).  Parts that cannot be read are left out and listed in :attr:`Trace.damage`, as is a
    finished trace that holds fewer spans than it says.

    Raises :class:`NotATrace`, :class:`NewerTrace`, :class:`UnreadableTrace`, and
    :class:`TooLarge` for more spans than fit in memory: :func:`batches` reads those.
    """
    names = _wanted(columns)
    found = _found(paths)
    made = Columns(names)
    try:
        for one in found:
            for table in _tables(one, names):
                made.add(table)
        frame = pd.DataFrame(made.series(), copy=False)
    except MemoryError as error:
        raise TooLarge(
            "the trace does not fit in memory",
            hint="load fewer columns, or go through it part by part (analysis.load.batches)",
        ) from error
    runs = _runs(found)
    _name(frame, runs, host=columns is None or "host" in columns)
    return Trace(frame, runs, tuple(item for one in found for item in one.damage))


def batches(
    paths: StrPath | Iterable[StrPath], *, columns: Sequence[str] | None = None
) -> Iterator[Trace]:
    """The spans that :func:`load` reads, one part at a time: for traces larger than memory.

    Every batch is of one run, under the name that :func:`load` gives it; damage comes with the
    last one of its run.  ``trace record`` closes a part at 262,144 spans, about 50 MB as a frame,
    unless it is told to rotate by size or time.
    Raises what :func:`load` raises.
    """
    names = _wanted(columns)
    every = _found(paths)
    for found, label in zip(every, _labels([one.path for one in every]), strict=True):
        tables = _tables(found, names)
        table = next(tables, None)
        while table is not None:
            following = next(tables, None)
            run = dataclasses.replace(_run(found, label), spans=table.num_rows)
            frame = frame_of(table)
            _name(frame, (run,), host=columns is None or "host" in columns)
            yield Trace(frame, (run,), tuple(found.damage) if following is None else ())
            table = following


def _name(frame: pd.DataFrame, runs: Sequence[Run], *, host: bool) -> None:
    """Say in ``frame`` which run each span is of, and which host."""
    numbers = np.arange(len(runs), dtype=np.min_scalar_type(-len(runs)))
    codes = np.repeat(numbers, [run.spans for run in runs])
    frame.insert(0, "run", pd.Series(category(codes, [run.name for run in runs])))
    if host:
        hosts = list(dict.fromkeys(run.host for run in runs))
        places = np.array([hosts.index(run.host) for run in runs], dtype=codes.dtype)
        frame.insert(1, "host", pd.Series(category(places[codes], hosts)))


def load_metadata(paths: StrPath | Iterable[StrPath]) -> tuple[Run, ...]:
    """The runs that :func:`load` would find, from the parts' footers alone (no span is read).

    Raises the same errors as :func:`load`.
    """
    found = _found(paths)
    for one in found:
        for _ in _tables(one, None):
            pass
    return _runs(found)


def _wanted(columns: Sequence[str] | None) -> list[str]:
    if columns is None:
        return list(SCHEMA.names)
    unknown = sorted(set(columns) - set(SCHEMA.names) - {"run", "host"})
    if unknown:
        raise UsageError(
            f"a trace has no column {', '.join(map(printable, unknown))}",
            hint=f"its columns are: {', '.join(SCHEMA.names)}",
        )
    # One column at least: without any, a table forgets how many rows it has.
    return [name for name in SCHEMA.names if name in columns] or ["dur"]


def _found(paths: StrPath | Iterable[StrPath]) -> list[_Found]:
    return [_Found(directory, parts) for directory, parts in discover(paths).items()]


def _tables(found: _Found, names: list[str] | None) -> Iterator[pa.Table]:
    """The parts of one run as tables; when ``names`` is None only their metadata is read.

    Part by part, not as one data set: a damaged part must cost only itself.
    """
    foreign = 0
    for part in found.parts:
        try:
            metadata, table = read_part(part, names)
        except NotATrace as error:
            foreign += 1
            found.damage.append(Damage(part, error.message))
        except PartError as error:
            found.damage.append(Damage(part, str(error)))
        else:
            found.metadata.append(metadata)
            if table is not None:
                found.spans += table.num_rows
                yield table
    if not found.metadata:
        reason = found.damage[0].reason
        if foreign == len(found.parts):
            raise NotATrace(
                f"not a trace: {printable(found.path)}: {reason}",
                hint="name a directory that `fallthru trace record -o DIR` wrote",
            )
        raise UnreadableTrace(
            f"no part of {printable(found.path)} can be read: {reason}",
            hint="the files were cut short or changed after they were written; record again",
        )
    if names is not None:
        _check_count(found)


def _check_count(found: _Found) -> None:
    """A finished run says how many spans it has: parts that are gone show in the count."""
    merged = whole_run(found.metadata)
    if merged.ended_ns is None or found.damage or set(found.parts) != set(siblings(found.path)):
        return
    want = merged.spans - merged.removed
    if found.spans < want:
        missing = f"{want - found.spans} of {want} spans are missing"
        found.damage.append(Damage(found.path, missing))


def _runs(found: Sequence[_Found]) -> tuple[Run, ...]:
    labels = _labels([one.path for one in found])
    return tuple(_run(one, label) for one, label in zip(found, labels, strict=True))


def _run(found: _Found, label: str) -> Run:
    merged = whole_run(found.metadata)
    return Run(label, found.path, merged, parts=len(found.metadata), spans=found.spans)


def _labels(paths: Sequence[str]) -> list[str]:
    """The shortest ends of ``paths`` that tell them apart: ``document``, or ``a/trace``."""
    split = [path.strip("/").split("/") for path in paths]
    for depth in range(1, max(map(len, split)) + 1):
        labels = [printable("/".join(parts[-depth:]) or "/") for parts in split]
        if len(set(labels)) == len(labels):
            break
    return labels
