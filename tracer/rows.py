"""Spans as plain data, and as the lines that people read."""

from __future__ import annotations

import errno
import time
from typing import Any

import pyarrow as pa

from tracer.schema import PHASES

__all__ = ["COLUMNS", "NUMBERS", "cells", "plain_rows"]

_DURATIONS = ("dur", *PHASES)

COLUMNS = ("time", "µs", "pid", "comm", "op", "type", "how", "bytes", "err", "container", "path")
#: Those of the columns that are numbers.
NUMBERS = frozenset(("µs", "pid", "bytes"))


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as plain data: ``ts`` in ns since 1970, durations in ns, null where unknown."""
    for name in ("ts", *_DURATIONS):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table.column(name).cast(pa.int64()))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """What the columns of :data:`COLUMNS` show of a row."""
    seconds, ns = divmod(row["ts"], 1_000_000_000)
    when = time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{ns // 1000:06}"
    return (
        when,
        f"{row['dur'] / 1000:.0f}",
        str(row["pid"]),
        row["comm"],
        row["op"],
        row["ftype"] or "",
        row["how"] or "",
        "" if row["bytes"] is None else str(row["bytes"]),
        errno.errorcode.get(row["errno"], str(row["errno"])) if row["errno"] else "",
        row["container"] or "",
        (row["mount"] or "").rstrip("/") + (row["path"] or " ?"),
    )
