"""One trace of several: rows in the order of time, none twice, and the runs remembered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from overlay.errors import UsageError
from overlay.text import printable
from tracer.columns import plain
from tracer.latencies import added
from tracer.reading import Reading, Run
from tracer.schema import SCHEMA, RunMetadata

if TYPE_CHECKING:
    from tracer.tracefile import TraceWriter

__all__ = ["merge"]

#: Rows to a part, as ``trace record`` has it.
_PART_ROWS = 1 << 18
#: Two rows that agree in these and are not one would be two copyups begun by the same thread
#: in the same nanosecond.
_KEY = ("ts", "tid", "kind", "path")
#: What a merged trace remembers of each run.
_REMEMBERED = ("started_ns", "ended_ns", "command", "filters", "lost", "unmatched", "removed")


def merge(reading: Reading, writer: TraceWriter) -> tuple[RunMetadata, int]:
    """Write the rows of all runs as one trace; returns its metadata and how many rows were
    there twice (the same run recorded into both, or merged before).

    Raises :class:`UsageError` for traces of different machines: process numbers and mount
    points would be mixed up.
    """
    names = sorted({run.metadata.hostname for run in reading.runs})
    if len(names) > 1:
        raise UsageError(
            f"traces of different machines: {', '.join(map(printable, names))}",
            hint="`fallthru report DIR...` compares them side by side",
        )
    table = _in_order(_renumbered(reading.runs))
    twice = _twice(table)
    table = table.filter(pa.array(~twice))
    metadata = replace(_metadata([run.metadata for run in reading.runs]), spans=table.num_rows)
    for at in range(0, max(table.num_rows, 1), _PART_ROWS):
        writer.write(table.slice(at, _PART_ROWS), metadata)
    return metadata, int(twice.sum())


def _renumbered(runs: Sequence[Run]) -> pa.Table:
    """All rows; where spans have numbers, one number means one span of one run."""
    tables, base, bases = [], 0, dict[int, int]()
    for run in runs:
        table = run.table
        if "id" in SCHEMA.names:
            start = run.metadata.started_ns
            shift = bases.setdefault(start, base)
            for name in ("id", "parent"):
                place = table.schema.get_field_index(name)
                table = table.set_column(place, SCHEMA.field(name), pc.add(table[name], shift))
            base = max(base, (pc.max(table["id"]).as_py() or 0) + 1)
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
