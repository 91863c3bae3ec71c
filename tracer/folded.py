"""Spans as folded stacks, the input of flamegraph.pl, inferno and speedscope.

One line for each distinct stack: its frames from the outside in, with semicolons, and
what it weighs.  The frames are the thread's name, the system call, the names of the
path, and the phase.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from tracer.rows import plain_rows
from tracer.schema import PHASES

__all__ = ["WEIGHTS", "folded"]

#: What a stack can weigh: ns, bytes moved, or the number of spans.
WEIGHTS = ("time", "bytes", "count")


def folded(table: pa.Table, weight: str = "time") -> Iterator[str]:
    """The lines, in the order of their text."""
    total: Counter[tuple[str, ...]] = Counter()
    for row in plain_rows(table):
        for frames, value in _stacks(row, weight):
            total[frames] += value
    for frames, value in sorted(total.items()):
        if value:
            yield f"{';'.join(frames)} {value}"


def _stacks(row: dict[str, Any], weight: str) -> Iterator[tuple[tuple[str, ...], int]]:
    path = (row["mount"] or "").rstrip("/") + (row["path"] or "/?")
    # The caller's own functions, where they were recorded: outermost first.
    callers = (row.get("stack") or "").split(";") if row.get("stack") else []
    frames = (
        _frame(row["comm"]),
        *map(_frame, callers),
        row["op"],
        *(f"/{_frame(name)}" for name in path.split("/")[1:]),
    )
    if weight == "count":
        yield frames, 1
    elif weight == "bytes":
        yield frames, row["bytes"] or 0
    else:
        known = 0
        for phase in PHASES:
            if row[phase]:
                yield (*frames, f"[{phase}]"), row[phase]
                known += row[phase]
        yield frames, max(row["dur"] - known, 0)


def _frame(name: str) -> str:
    """A semicolon would end the frame."""
    return name.replace(";", ",").replace("\n", " ")
