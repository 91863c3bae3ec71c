"""One trace of several: rows in the order of time, none twice, and the runs remembered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from overlay.errors import OperationFailed, UsageError
from overlay.text import printable
from tracer.columns import plain
from tracer.latencies import added
from tracer.parts import PartError, read_part
from tracer.reading import Part, Reading, read
from tracer.schema import SCHEMA, RunMetadata
from tracer.selection import Selection

if TYPE_CHECKING:
    from tracer.tracefile import TraceWriter

__all__ = ["Survey", "merge", "survey"]

#: Rows to a part, as ``trace record`` has it.
_PART_ROWS = 1 << 18
#: Two rows that agree in these and are not one would be two copyups begun by the same thread
#: in the same nanosecond.
_KEY = ("ts", "tid", "kind", "path")
#: What a merged trace remembers of each run.
_REMEMBERED = ("started_ns", "ended_ns", "command", "filters", "lost", "unmatched", "removed")


@dataclass(frozen=True)
class _Source:
    """A part: when its spans began (ns, in order), its run, and its greatest number."""

    path: str
    times: npt.NDArray[np.int64]
    run: int
    greatest: int


@dataclass(frozen=True)
class Survey:
    """What there is to merge."""

    reading: Reading
    selection: Selection
    sources: Sequence[_Source]


def survey(paths: Sequence[str], selection: Selection) -> Survey:
    """Look through the traces, part by part.  Raises the errors of
    :func:`tracer.reading.read`."""
    sources: list[_Source] = []

    def note(part: Part) -> None:
        times = np.sort(part.table["ts"].cast(pa.int64()).to_numpy())
        greatest = pc.max(part.table["id"]).as_py() or 0
        sources.append(_Source(part.path, times, part.metadata.started_ns, greatest))

    return Survey(read(paths, selection, note), selection, sources)


def merge(found: Survey, writer: TraceWriter) -> tuple[RunMetadata, int]:
    """Write the rows of all runs as one trace; returns its metadata and how many rows were
    there twice (the same run recorded into both, or merged before).

    It has the rows of one new part in memory, and of those parts that they come from.
    Raises :class:`UsageError` for traces of different machines: process numbers and mount
    points would be mixed up; :class:`OperationFailed` for a part that is no more.
    """
    runs = [run.metadata for run in found.reading.runs]
    names = sorted({run.hostname for run in runs})
    if len(names) > 1:
        raise UsageError(
            f"traces of different machines: {', '.join(map(printable, names))}",
            hint="`fallthru report DIR...` compares them side by side",
        )
    whole = _metadata(runs)
    shifts = _shifts(found.sources)
    spans = twice = 0
    windows = _windows(found.sources)
    for first, beyond in pairwise(windows):
        table = _in_order(_between(found, shifts, first, beyond))
        again = _twice(table)
        table = table.filter(pa.array(~again))
        spans, twice = spans + table.num_rows, twice + int(again.sum())
        # Until the last part is there, the trace says of itself that it goes on.
        ended = whole.ended_ns if beyond == windows[-1] else None
        writer.write(table, replace(whole, spans=spans, ended_ns=ended))
    return replace(whole, spans=spans), twice


def _windows(sources: Sequence[_Source]) -> list[int]:
    """Times between which there are about as many rows as fit into a part; rows that may be the
    same are never apart."""
    times = np.sort(np.concatenate([np.zeros(0, np.int64), *(one.times for one in sources)]))
    if not len(times):
        return [0, 1]
    return [*dict.fromkeys(times[::_PART_ROWS].tolist()), int(times[-1]) + 1]


def _shifts(sources: Sequence[_Source]) -> dict[int, int]:
    """What to add to the numbers of spans, by run, so that one number means one span."""
    shifts: dict[int, int] = {}
    base = 0
    for run in dict.fromkeys(one.run for one in sources):
        shifts[run] = base
        base += max(one.greatest for one in sources if one.run == run) + 1
    return shifts


def _between(found: Survey, shifts: dict[int, int], first: int, beyond: int) -> pa.Table:
    """The rows that began from ``first`` to before ``beyond`` (ns)."""
    tables = [SCHEMA.empty_table()]
    wanted = replace(
        found.selection,
        since=max(first, found.selection.since or first),
        until=min(beyond, found.selection.until or beyond),
    )
    for one in found.sources:
        if np.searchsorted(one.times, first) == np.searchsorted(one.times, beyond):
            continue
        try:
            _, table = read_part(one.path, SCHEMA.names)
        except PartError as error:
            raise OperationFailed(f"{printable(one.path)}: {error}") from error
        assert table is not None  # columns were asked for
        table = wanted.apply(table.cast(SCHEMA))
        for name in ("id", "parent"):
            place = table.schema.get_field_index(name)
            shifted = pc.add(table[name], shifts[one.run])
            table = table.set_column(place, SCHEMA.field(name), shifted)
        tables.append(table)
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def _in_order(table: pa.Table) -> pa.Table:
    keys = {name: plain(table[name]) for name in _KEY}
    order = pc.sort_indices(pa.table(keys), [(name, "ascending") for name in keys])
    return table.take(order).combine_chunks()


def _twice(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows are, in every column, the row before."""
    same = np.ones(max(table.num_rows - 1, 0), bool)
    for name in table.column_names:
        if name in ("id", "parent"):
            continue
        column = plain(table[name]).combine_chunks()
        one, following = column.slice(0, len(same)), column.slice(1)
        equal = pc.fill_null(pc.equal(one, following), False)
        both_null = pc.and_(pc.is_null(one), pc.is_null(following))
        same &= pc.or_(equal, both_null).to_numpy(zero_copy_only=False)
    return np.concatenate([np.zeros(min(table.num_rows, 1), bool), same])


def _metadata(runs: Sequence[RunMetadata]) -> RunMetadata:
    """What the runs say together.  A run that comes several times counts once."""
    apart: dict[int, dict[str, Any]] = {}
    for run in runs:
        for one in run.runs or [{name: getattr(run, name) for name in _REMEMBERED}]:
            known = apart.setdefault(one["started_ns"], one)
            for name in ("lost", "unmatched", "removed"):
                known[name] = max(known[name], one[name])
    every = [apart[start] for start in sorted(apart)]
    ends = [one["ended_ns"] for one in every]
    return replace(
        runs[0],
        kernel=_joined(run.kernel for run in runs),
        backend=_joined(run.backend for run in runs),
        started_ns=every[0]["started_ns"],
        ended_ns=None if None in ends else max(ends),
        command=every[0]["command"] if len(every) == 1 else [],
        filters=every[0]["filters"] if len(every) == 1 else {},
        mounts={point: about for run in runs for point, about in run.mounts.items()},
        lost=sum(one["lost"] for one in every),
        unmatched=sum(one["unmatched"] for one in every),
        latencies=added(
            row for run in {run.started_ns: run for run in runs}.values() for row in run.latencies
        ),
        unseen=sorted({kind for run in runs for kind in run.unseen}),
        removed=0,
        runs=every if len(every) > 1 else [],
    )


def _joined(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))
