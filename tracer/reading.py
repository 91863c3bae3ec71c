"""Reading traces as tables: what can be read of them, and by name what cannot.

For the commands that want no more than rows; :mod:`analysis.load` makes frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from overlay.errors import OperationFailed
from overlay.text import printable
from tracer.parts import PartError, StrPath, discover, read_part, siblings, whole_run
from tracer.schema import SCHEMA, RunMetadata
from tracer.selection import Selection

__all__ = ["Part", "Reading", "Run", "read"]


@dataclass(frozen=True)
class Part:
    """One file of a trace, and those of its rows that are wanted."""

    path: str
    metadata: RunMetadata
    table: pa.Table


@dataclass(frozen=True)
class Run:
    """One trace directory: what it says of itself, and its rows in the order of the parts."""

    directory: str
    metadata: RunMetadata
    table: pa.Table


@dataclass(frozen=True)
class Reading:
    """The traces that were named; ``damage`` has a line for each part that could not be read,
    and for rows that should be there and are not."""

    runs: Sequence[Run]
    damage: Sequence[str]

    @property
    def table(self) -> pa.Table:
        """The rows of all runs."""
        every = pa.concat_tables([run.table for run in self.runs])
        return every.unify_dictionaries().combine_chunks()

    @property
    def lost(self) -> int:
        return sum(run.metadata.lost for run in self.runs)


def read(
    paths: StrPath | Iterable[StrPath],
    selection: Selection | None = None,
    each: Callable[[Part], None] | None = None,
) -> Reading:
    """The selected spans of trace directories, parts or globs of them.

    ``each`` is shown the parts one by one; their rows are then not kept.

    Raises the errors of :func:`tracer.parts.discover`, and
    :class:`~overlay.errors.OperationFailed` when nothing of a trace can be read.
    """
    damage: list[str] = []
    runs = [
        _run(directory, parts, selection or Selection(), damage, each)
        for directory, parts in discover(paths).items()
    ]
    return Reading(runs, damage)


def _run(
    directory: str,
    parts: Sequence[str],
    selection: Selection,
    damage: list[str],
    each: Callable[[Part], None] | None,
) -> Run:
    tables, metadata, found, rows = [SCHEMA.empty_table()], [], list[str](), 0
    for path in parts:
        try:
            said, table = read_part(path, SCHEMA.names)
        except PartError as error:
            found.append(f"{printable(path)}: {error}")
            continue
        assert table is not None  # columns were asked for
        metadata.append(said)
        rows += table.num_rows
        chosen = selection.apply(table.cast(SCHEMA))
        if each is None:
            tables.append(chosen)
        else:
            each(Part(path, said, chosen))
    if not metadata:
        raise OperationFailed(
            f"no part of the trace in {printable(directory)} can be read: {found[0]}",
            hint="record it again, or restore it from a backup",
        )
    whole = whole_run(metadata)
    missing = whole.spans - whole.removed - rows
    if whole.ended_ns is not None and missing > 0 and set(parts) == set(siblings(directory)):
        found.append(f"{printable(directory)}: {missing} of {whole.spans} spans are missing")
    damage.extend(found)
    return Run(directory, whole, pa.concat_tables(tables))
