"""How long what is too frequent for rows has taken: the histograms that the probes keep."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from overlay.bpf.loading import Map
from tracer.kinds import KINDS, OUTCOMES

__all__ = ["Latency", "added", "described", "read_latencies", "sound"]

_KEY = struct.Struct("=IBBBxI")
_VALUE = struct.Struct("=QQ")
#: What tells one histogram of a trace from another.
_WHAT = ("mount", "kind", "outcome", "layers")


@dataclass
class Latency:
    """The histogram of one kind of operation in one union, by how it came out.

    ``buckets`` are counts by the bucket numbers of :mod:`tracer.histogram`, of ns;
    ``layers`` is how many were asked, where that was counted.
    """

    mount: int
    kind: str
    outcome: str | None
    layers: int
    sum_ns: int = 0
    buckets: dict[int, int] = field(default_factory=dict)


def read_latencies(table: Map) -> list[Latency]:
    """What ``latencies`` of probes/operations.c holds."""
    found: dict[tuple[int, int, int, int], Latency] = {}
    for key in table.keys():  # noqa: SIM118  (it is no dictionary)
        mount, what, outcome, layers, bucket = _KEY.unpack(key)
        count, total = _VALUE.unpack(table[key])
        one = found.setdefault(
            (mount, what, outcome, layers), Latency(mount, KINDS[what], OUTCOMES[outcome], layers)
        )
        one.buckets[bucket] = count
        one.sum_ns += total
    return [found[key] for key in sorted(found)]


def described(
    found: list[Latency], mount_name: Callable[[int], str | None]
) -> list[dict[str, Any]]:
    """For the trace: unions by name; those that have none, or one name, together."""
    return added(
        {
            "mount": mount_name(one.mount),
            "kind": one.kind,
            "outcome": one.outcome,
            "layers": one.layers,
            "sum_ns": one.sum_ns,
            "buckets": {str(bucket): count for bucket, count in one.buckets.items()},
        }
        for one in found
    )


def sound(row: object) -> bool:
    """Whether something from a file is a row of :func:`described`."""
    if not isinstance(row, dict) or not isinstance(row.get("buckets"), dict):
        return False
    numbers = (row.get("layers"), row.get("sum_ns"), *row["buckets"].values())
    return (
        isinstance(row.get("kind"), str)
        and all(isinstance(row.get(name), str | None) for name in ("mount", "outcome"))
        and all(isinstance(one, int) and 0 <= one < 1 << 63 for one in numbers)
        # 16 buckets to a power of two, and 64 bits.
        and all(one.isdecimal() and int(one) < 64 * 16 for one in row["buckets"])
    )


def added(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with one row for each union, kind, outcome and number of layers."""
    sums: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in _WHAT)
        one = sums.setdefault(key, dict(zip(_WHAT, key, strict=True), sum_ns=0, buckets={}))
        one["sum_ns"] += row["sum_ns"]
        for bucket, count in row["buckets"].items():
            one["buckets"][bucket] = one["buckets"].get(bucket, 0) + count
    for one in sums.values():
        one["buckets"] = dict(sorted(one["buckets"].items(), key=lambda item: int(item[0])))
        one["count"] = sum(one["buckets"].values())
    return list(sums.values())
