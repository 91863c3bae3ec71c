"""Reading trace directories: any number of them into one typed frame, with what was lost.

The columns of the frame are those of :data:`tracer.schema.SCHEMA`, typed as
:mod:`tracer.frame` says, plus two categories: ``run``, which trace the span is from, and
``host``, where it was recorded.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from analysis.runs import Damage, Found, Run, found_in, name_spans, runs_of
from overlay.errors import OperationFailed, UsageError
from overlay.text import printable
from tracer.frame import Columns, frame_of
from tracer.parts import (
    NewerTrace,
    NotATrace,
    PartError,
    StrPath,
    UnreadableTrace,
    read_part,
    rows_of,
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
    "batches",
    "load",
    "load_metadata",
]


class TooLarge(OperationFailed):
    """The spans do not fit in memory at once."""


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


def load(paths: StrPath | Iterable[StrPath], *, columns: Sequence[str] | None = None) -> Trace:
    """Read traces: a trace directory, a directory of traces, a part, a glob, a URL, or several.

    All parts in one directory are one run, named after the directory; directories may be
    partitions (``host=web1/run=7``).  ``columns`` limits what is read (``run`` is always
    there).  Parts that cannot be read are left out and listed in :attr:`Trace.damage`, as is a
    finished trace that holds fewer spans than it says.

    Raises :class:`NotATrace`, :class:`NewerTrace`, :class:`UnreadableTrace`, for URLs what
    :mod:`tracer.places` raises, and :class:`TooLarge` for more spans than fit in memory:
    :func:`batches` reads those, and :mod:`analysis.fleet` summarises them.
    """
    names = _wanted(columns)
    found = found_in(paths)
    try:
        frame = pd.DataFrame(_read(found, names).series(), copy=False)
    except MemoryError as error:
        raise TooLarge(
            "the trace does not fit in memory",
            hint="load fewer columns, or go through it part by part (analysis.load.batches)",
        ) from error
    runs = runs_of(found)
    name_spans(frame, runs, host=columns is None or "host" in columns)
    return Trace(frame, runs, tuple(item for one in found for item in one.damage))


def _read(found: Sequence[Found], names: list[str]) -> Columns:
    """The parts of all runs, several at a time: Arrow and numpy work outside of Python's lock."""
    parts = [(one, part) for one in found for part in one.parts]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, len(parts))) as pool:
        rows = list(pool.map(rows_of, (part for _, part in parts)))
        firsts = [0, *itertools.accumulate(rows)]
        columns = Columns(names, firsts[-1])

        def read(part: str, first: int, count: int) -> RunMetadata | NotATrace | PartError:
            try:
                metadata, table = read_part(part, names)
            except (NotATrace, PartError) as error:
                return error
            if table is None or table.num_rows != count:
                return PartError("it was changed while it was read")
            columns.put(table, first)
            return metadata

        try:
            told = pool.map(read, (part for _, part in parts), firsts[:-1], rows)
            for (one, part), count, answer in zip(parts, rows, told, strict=True):
                if isinstance(answer, NotATrace | PartError):
                    one.lose(part, answer)
                else:
                    one.keep(answer, count)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for one in found:
        one.check(counted=True)
    pa.default_memory_pool().release_unused()  # what the parts were unpacked into
    return columns


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
    for found in found_in(paths):
        tables = _tables(found, names)
        table = next(tables, None)
        while table is not None:
            following = next(tables, None)
            run = dataclasses.replace(found.run(), spans=table.num_rows)
            frame = frame_of(table)
            name_spans(frame, (run,), host=columns is None or "host" in columns)
            yield Trace(frame, (run,), tuple(found.damage) if following is None else ())
            table = following


def load_metadata(paths: StrPath | Iterable[StrPath]) -> tuple[Run, ...]:
    """The runs that :func:`load` would find, from the parts' footers alone (no span is read).

    Raises the same errors as :func:`load`.
    """
    found = found_in(paths)
    for one in found:
        for _ in _tables(one, None):
            pass
    return runs_of(found)


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


def _tables(found: Found, names: list[str] | None) -> Iterator[pa.Table]:
    """The parts of one run as tables; when ``names`` is None only their metadata is read.

    Part by part, not as one data set: a damaged part must cost only itself.
    """
    for part in found.parts:
        table = found.read(part, names)
        if table is not None:
            yield table
    found.check(counted=names is not None)
