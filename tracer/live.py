"""The running account that ``trace top`` shows: who copies up what, now and in all.

It stays small whatever happens: of processes and files the costliest are kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tracer.histogram import Histogram

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Cost", "Live", "Snapshot"]

#: "Now" is the time (s) up to a moment ago.
_WINDOW = 10.0
_KEPT = 4096
#: Of each interval's files this many are looked at one by one: the slowest.
_FILES = 512

Key = tuple[Any, ...]


@dataclass
class Cost:
    """How many copyups, the bytes they moved, the time they took (ns), how many failed."""

    count: int = 0
    bytes: int = 0
    ns: int = 0
    failed: int = 0

    def add(self, other: Cost) -> None:
        self.count += other.count
        self.bytes += other.bytes
        self.ns += other.ns
        self.failed += other.failed


@dataclass(frozen=True)
class Snapshot:
    """The account at one moment.

    ``now`` is what the last ``seconds`` cost, ``total`` everything since the start; ``latency``
    counts durations of the last ``seconds``.  ``processes`` (pid, name, system call, container or
    nothing) and ``files`` (path with its mount point) come with both costs, the one that costs
    most now first.
    """

    elapsed: float
    seconds: float
    now: Cost
    total: Cost
    latency: Histogram
    processes: list[tuple[Key, Cost, Cost]]
    files: list[tuple[Key, Cost, Cost]]
    lost: int = 0

    def as_data(self) -> dict[str, Any]:
        """For JSON: times in ns, rates by the second."""
        return {
            "elapsed_s": round(self.elapsed, 3),
            "window_s": round(self.seconds, 3),
            "now": vars(self.now),
            "total": vars(self.total),
            "lost": self.lost,
            "latency_ns": {
                **{f"p{share}": self.latency.quantile(share / 100) for share in (50, 90, 99)},
                "max": self.latency.greatest,
                "buckets": [[one.low, one.high, one.count] for one in self.latency.buckets()],
            },
            "processes": [
                {
                    "pid": key[0],
                    "comm": key[1],
                    "op": key[2],
                    "container": key[3] or None,
                    "now": vars(now),
                    "total": vars(total),
                }
                for key, now, total in self.processes
            ],
            "files": [
                {"path": path, "now": vars(now), "total": vars(total)}
                for (path,), now, total in self.files
            ],
        }


@dataclass
class _Interval:
    end: float
    seconds: float
    cost: Cost = field(default_factory=Cost)
    latency: Histogram = field(default_factory=Histogram)
    processes: dict[Key, Cost] = field(default_factory=dict)
    files: dict[Key, Cost] = field(default_factory=dict)


class Live:
    """Adds up tables of spans as they come; times are seconds of any steady clock."""

    def __init__(self, started: float) -> None:
        self._started = self._last = started
        self._total = Cost()
        self._processes: dict[Key, Cost] = {}
        self._files: dict[Key, Cost] = {}
        self._intervals: deque[_Interval] = deque()

    def add(self, table: pa.Table, now: float) -> None:
        """Count the spans that came since the last call (columns: ``tracer.schema.SCHEMA``)."""
        one = _Interval(now, now - self._last)
        self._last = now
        _count(one, table)
        self._total.add(one.cost)
        for all_time, recent in (
            (self._processes, one.processes),
            (self._files, one.files),
        ):
            for key, cost in recent.items():
                all_time.setdefault(key, Cost()).add(cost)
            _prune(all_time)
        self._intervals.append(one)
        while len(self._intervals) > 1 and self._intervals[0].end <= now - _WINDOW:
            self._intervals.popleft()

    def snapshot(self, rows: int, lost: int = 0) -> Snapshot:
        """The account now, with at most ``rows`` processes and files."""
        recent = _Interval(self._last, sum(one.seconds for one in self._intervals))
        for one in self._intervals:
            recent.cost.add(one.cost)
            recent.latency.merge(one.latency)
            for into, costs in ((recent.processes, one.processes), (recent.files, one.files)):
                for key, cost in costs.items():
                    into.setdefault(key, Cost()).add(cost)
        return Snapshot(
            elapsed=self._last - self._started,
            seconds=recent.seconds,
            now=recent.cost,
            total=replace(self._total),
            latency=recent.latency,
            processes=_best(self._processes, recent.processes, rows),
            files=_best(self._files, recent.files, rows),
            lost=lost,
        )


def _count(interval: _Interval, table: pa.Table) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not table.num_rows:
        return
    ns = table["dur"].cast(pa.int64())
    interval.latency.add(ns.to_numpy())
    where = pc.binary_join_element_wise(
        pc.utf8_rtrim(pc.fill_null(table["mount"].cast(pa.string()), ""), "/"),
        pc.fill_null(table["path"], "/?"),
        "",
    )
    plain = pa.table(
        {
            "pid": table["pid"],
            "comm": table["comm"].cast(pa.string()),
            "op": table["op"].cast(pa.string()),
            "container": pc.fill_null(table["container"].cast(pa.string()), ""),
            "where": where,
            "bytes": pc.fill_null(table["bytes"], 0),
            "ns": ns,
            "failed": pc.not_equal(table["errno"], 0).cast(pa.int64()),
        }
    )
    interval.processes = dict(_grouped(plain, ["pid", "comm", "op", "container"]))
    for cost in interval.processes.values():
        interval.cost.add(cost)
    slowest = plain.sort_by([("ns", "descending")]).slice(0, _FILES)
    interval.files = dict(_grouped(slowest, ["where"]))


def _grouped(table: pa.Table, keys: list[str]) -> Iterator[tuple[Key, Cost]]:
    sums = [("ns", "count"), ("bytes", "sum"), ("ns", "sum"), ("failed", "sum")]
    found = table.group_by(keys, use_threads=False).aggregate(sums)
    names = [f"{name}_{what}" for name, what in sums]
    for row in found.to_pylist():
        yield tuple(row[key] for key in keys), Cost(*(row[name] for name in names))


def _prune(costs: dict[Key, Cost]) -> None:
    if len(costs) > _KEPT:
        worst = sorted(costs, key=lambda key: costs[key].ns)
        for key in worst[: len(costs) - _KEPT // 2]:
            del costs[key]


def _best(total: dict[Key, Cost], now: dict[Key, Cost], rows: int) -> list[tuple[Key, Cost, Cost]]:
    nothing = Cost()
    order = sorted(
        total.keys() | now.keys(),
        key=lambda key: (-now.get(key, nothing).ns, -total.get(key, nothing).ns, key),
    )
    return [(key, now.get(key, Cost()), total.get(key, Cost())) for key in order[:rows]]
