"""Spans as Chrome trace events, which ui.perfetto.dev and chrome://tracing open.

Format: "Trace Event Format" (Google, 2016); what Perfetto makes of it:
https://perfetto.dev/docs/faq#json.  Every span is a slice of its thread; the phases
are slices within; a copyup of a parent directory has an arrow to the one that needed it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from tracer.reading import Reading
from tracer.rows import plain_rows
from tracer.schema import PHASES

__all__ = ["document", "events"]

Event = dict[str, Any]
Row = dict[str, Any]

#: Columns that are not arguments of a slice: they say where, when and what it is.
_ELSEWHERE = frozenset(("ts", "dur", "kind", "pid", "tid", "comm", *PHASES, "errno"))


def document(reading: Reading) -> Iterator[str]:
    """The JSON text, piece by piece: traces can be large."""
    import json

    origin = min((run.metadata.started_ns for run in reading.runs), default=0)
    about = {
        "tool": "fallthru",
        "origin_ns": origin,
        "runs": [
            {"hostname": run.metadata.hostname, "kernel": run.metadata.kernel,
             "command": run.metadata.command, "lost": run.metadata.lost}
            for run in reading.runs
        ],
    }  # fmt: skip
    yield '{"displayTimeUnit": "ns", "otherData": ' + json.dumps(about) + ', "traceEvents": [\n'
    separator = ""
    for event in events(plain_rows(reading.table.sort_by("ts")), origin):
        yield separator + json.dumps(event, ensure_ascii=False)
        separator = ",\n"
    yield "\n]}\n"


def events(rows: list[Row], origin: int) -> Iterator[Event]:
    """``rows`` (of :func:`tracer.rows.plain_rows`, by time) as events.

    Times are µs since ``origin`` (ns since 1970): the format's numbers are doubles, which
    cannot tell nanoseconds of 1970's clock apart.
    """
    yield from _names(rows)
    for row in _nested(rows):
        yield _slice(row, origin)
        yield from _phases(row, origin)
    for number, (parent, row) in enumerate(_needed(rows), 1):
        yield from _arrow(number, parent, row, origin)


def _needed(rows: list[Row]) -> Iterator[tuple[Row, Row]]:
    """Copyups of parent directories, each with the copyup that needed it."""
    by_id = {(row["pid"], row["id"]): row for row in rows if row.get("id") is not None}
    waiting: dict[int, list[Row]] = {}
    for row in rows:
        if row["kind"] != "copyup":
            continue
        if row.get("parent") is not None:
            needing = by_id.get((row["pid"], row["parent"]))
            if needing and needing["ts"] >= row["ts"]:
                yield row, needing
            continue
        # The backend did not tell: they come one after another, in one thread and call.
        parents = waiting.setdefault(row["tid"], [])
        if parents and not _needs(parents[-1], row):
            parents.clear()
        if row["ftype"] == "dir":
            parents.append(row)
        else:
            yield from ((parent, row) for parent in parents)
            parents.clear()


def _names(rows: list[Row]) -> Iterator[Event]:
    threads = {(row["pid"], row["tid"]): row["comm"] for row in reversed(rows)}
    # A process is called what its first thread is called, if that was seen.
    processes = {pid: comm for (pid, _), comm in threads.items()}
    processes |= {pid: comm for (pid, tid), comm in threads.items() if pid == tid}
    for pid, comm in processes.items():
        yield {"ph": "M", "name": "process_name", "pid": pid, "tid": pid, "args": {"name": comm}}
    for (pid, tid), comm in threads.items():
        yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": comm}}


def _nested(rows: list[Row]) -> list[Row]:
    """Outer slices before the inner ones that begin with them."""
    return sorted(rows, key=lambda row: (row["ts"], -row["dur"]))


def _us(ns: int) -> float:
    return ns / 1000


def _slice(row: Row, origin: int) -> Event:
    where = (row["mount"] or "").rstrip("/") + (row["path"] or "")
    name = f"{row['kind']} {(row['path'] or '?').rpartition('/')[2] or '/'}"
    arguments = {
        key: value for key, value in row.items() if key not in _ELSEWHERE and value is not None
    }
    if where:
        arguments["file"] = where
    if row["errno"]:
        arguments["errno"] = errno.errorcode.get(row["errno"], row["errno"])
    return {
        "ph": "X",
        "name": name,
        "cat": row["kind"],
        "pid": row["pid"],
        "tid": row["tid"],
        "ts": _us(row["ts"] - origin),
        "dur": _us(row["dur"]),
        "args": arguments,
    }


def _phases(row: Row, origin: int) -> Iterator[Event]:
    """They follow each other; what rounding leaves over belongs to the slice around them."""
    at, end = row["ts"], row["ts"] + row["dur"]
    for phase in PHASES:
        took = min(row[phase] or 0, end - at)
        if took <= 0:
            continue
        yield {"ph": "X", "name": phase, "cat": "phase", "pid": row["pid"], "tid": row["tid"],
               "ts": _us(at - origin), "dur": _us(took)}  # fmt: skip
        at += took


def _needs(parent: Row, row: Row) -> bool:
    """Whether ``parent``'s copyup, the one before in this thread, was for ``row``'s sake."""
    above = (parent["path"] or "").rstrip("/") + "/"
    return (
        parent["op"] == row["op"]
        and parent["mount"] == row["mount"]
        and (row["path"] is None or row["path"].startswith(above))
    )


def _arrow(number: int, parent: Row, row: Row, origin: int) -> Iterator[Event]:
    common = {"cat": "parent", "name": "needed by", "id": number}
    yield {**common, "ph": "s", "pid": parent["pid"], "tid": parent["tid"],
           "ts": _us(parent["ts"] - origin)}  # fmt: skip
    yield {**common, "ph": "f", "bp": "e", "pid": row["pid"], "tid": row["tid"],
           "ts": _us(row["ts"] - origin)}  # fmt: skip
