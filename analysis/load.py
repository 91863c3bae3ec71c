"""Reading trace directories: any number of them into one typed frame, with what was lost.

The columns of the frame are those of :data:`tracer.schema.SCHEMA`, typed as
:mod:`tracer.frame` says, plus ``run``, a category: which trace the span is from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa

from overlay.errors import UsageError
from overlay.text import printable
from tracer.frame import frame_of
from tracer.parts import (
    NewerTrace,
    NotATrace,
    PartError,
    StrPath,
    UnreadableTrace,
    discover,
    read_part,
    siblings,
)
from tracer.schema import SCHEMA, RunMetadata

__all__ = [
    "Damage",
    "NewerTrace",
    "NotATrace",
    "Run",
    "Trace",
    "UnreadableTrace",
    "load",
    "load_metadata",
]


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
    tables: list[pa.Table] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)


def load(paths: StrPath | Iterable[StrPath], *, columns: Sequence[str] | None = None) -> Trace:
    """Read traces: a trace directory, a directory of traces, a part, a glob, or several.

    All parts in one directory are one run, named after the directory.
    ``columns`` limits what is read (``run`` is always there).  Parts that cannot be
    read are left out and listed in :attr:`Trace.damage`, as is a finished trace
    that holds fewer spans than it says.

    Raises :class:`NotATrace`, :class:`NewerTrace`, :class:`UnreadableTrace`.
    """
    names = _wanted(columns)
    found = [_read(one, names) for one in _found(paths)]
    runs = _runs(found)
    damage = [item for one in found for item in one.damage]
    tables = [table for one in found for table in one.tables]
    sizes = [table.num_rows for one in found for table in one.tables]
    codes = [number for number, one in enumerate(found) for _ in one.tables]
    table = pa.concat_tables(tables).unify_dictionaries()
    del tables
    for one in found:
        one.tables.clear()  # the joined table keeps the buffers alive; nothing else should
    loaded = {name: table.column(name) for name in table.column_names}
    del table
    frame = frame_of(loaded)
    run = pd.Categorical.from_codes(
        np.repeat(np.asarray(codes, dtype="int32"), sizes),
        categories=pd.Index([run.name for run in runs], dtype=object),
    )
    frame.insert(0, "run", pd.Series(run, index=frame.index))
    return Trace(frame, runs, tuple(damage))


def load_metadata(paths: StrPath | Iterable[StrPath]) -> tuple[Run, ...]:
    """The runs that :func:`load` would find, from the parts' footers alone (no span is read).

    Raises the same errors as :func:`load`.
    """
    return _runs([_read(one, None) for one in _found(paths)])


def _wanted(columns: Sequence[str] | None) -> list[str]:
    if columns is None:
        return list(SCHEMA.names)
    unknown = sorted(set(columns) - set(SCHEMA.names) - {"run"})
    if unknown:
        raise UsageError(
            f"a trace has no column {', '.join(map(printable, unknown))}",
            hint=f"its columns are: {', '.join(SCHEMA.names)}",
        )
    # One column at least: without any, a table forgets how many rows it has.
    return [name for name in SCHEMA.names if name in columns] or ["dur"]


def _found(paths: StrPath | Iterable[StrPath]) -> list[_Found]:
    return [_Found(directory, parts) for directory, parts in discover(paths).items()]


def _read(found: _Found, names: list[str] | None) -> _Found:
    """Read the parts of one run, or only their metadata when ``names`` is None.

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
                found.tables.append(table)
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
    return found


def _check_count(found: _Found) -> None:
    """A finished run says how many spans it has: parts that are gone show in the count."""
    merged = _merge(found.metadata)
    if merged.ended_ns is None or found.damage or set(found.parts) != set(siblings(found.path)):
        return
    have = sum(table.num_rows for table in found.tables)
    want = merged.spans - merged.removed
    if have < want:
        found.damage.append(Damage(found.path, f"{want - have} of {want} spans are missing"))


def _merge(parts: Sequence[RunMetadata]) -> RunMetadata:
    """What the parts of one run say together: the last writing wins, counters only grow."""
    last = max(parts, key=lambda one: (one.ended_ns or 0, one.spans))
    return dataclasses.replace(
        last,
        spans=max(one.spans for one in parts),
        lost=max(one.lost for one in parts),
        unmatched=max(one.unmatched for one in parts),
        removed=max(one.removed for one in parts),
    )


def _runs(found: Sequence[_Found]) -> tuple[Run, ...]:
    labels = _labels([one.path for one in found])
    return tuple(
        Run(
            name=label,
            path=one.path,
            metadata=_merge(one.metadata),
            parts=len(one.metadata),
            spans=sum(table.num_rows for table in one.tables),
        )
        for one, label in zip(found, labels, strict=True)
    )


def _labels(paths: Sequence[str]) -> list[str]:
    """The shortest ends of ``paths`` that tell them apart: ``document``, or ``a/trace``."""
    split = [path.strip("/").split("/") for path in paths]
    for depth in range(1, max(map(len, split)) + 1):
        labels = [printable("/".join(parts[-depth:]) or "/") for parts in split]
        if len(set(labels)) == len(labels):
            break
    return labels
