"""What lookups and listings cost, by how they came out and how many layers were asked.

The probes count them in the kernel; a trace has the histograms in its metadata (``latencies``).
Backends that stand at tracepoints cannot see them (``unseen``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.runs import Run
from tracer.histogram import Histogram
from tracer.latencies import added

__all__ = ["KINDS", "Counted", "counted", "seen", "table", "together"]

KINDS = ("lookup", "readdir")

#: In the order in which a name is looked for.
_ORDER = ("top", "bottom", "merged", "whiteout", "opaque", "absent", "error", "cached", "plain")


@dataclass(frozen=True)
class Counted:
    """Operations of one ``kind`` in the union at ``mount`` that came out alike, after asking
    ``layers`` layers (0: not counted); ``times`` (ns) is a histogram of 16 buckets to a power of
    two, its sum exact."""

    mount: str | None
    kind: str
    outcome: str
    layers: int
    times: Histogram

    @property
    def count(self) -> int:
        return self.times.total

    @property
    def mean(self) -> float:
        """Nanoseconds."""
        return self.times.sum / self.times.total


def counted(latencies: Iterable[Mapping[str, Any]]) -> list[Counted]:
    """The lookups and listings in a trace's ``latencies``, in the order of :data:`KINDS`, outcome
    and layers; nothing of those that never happened."""
    found = []
    for one in latencies:
        buckets = {int(bucket): int(count) for bucket, count in one["buckets"].items()}
        times = Histogram.counted(buckets, int(one["sum_ns"]))
        if one["kind"] in KINDS and times.total:
            outcome = str(one["outcome"])
            found.append(Counted(one["mount"], one["kind"], outcome, int(one["layers"]), times))
    return sorted(found, key=_order)


def _order(one: Counted) -> tuple[Any, ...]:
    place = _ORDER.index(one.outcome) if one.outcome in _ORDER else len(_ORDER)
    return one.mount or "", KINDS.index(one.kind), place, one.outcome, one.layers


def together(runs: Iterable[Run]) -> list[Counted]:
    """Those of several runs: what has the same union, kind, outcome and layers adds up exactly."""
    return counted(added(row for run in runs for row in run.metadata.latencies))


def seen(run: Run) -> bool:
    """Whether the run's backend could see lookups at all."""
    return "lookup" not in run.metadata.unseen


def table(found: Iterable[Counted]) -> pd.DataFrame:
    """One row each, in their order.  Columns: ``mount``, ``kind``, ``outcome``, ``layers``,
    ``count``, ``time`` in all, ``mean`` (exact), ``p50``, ``p99`` (within 6 %)."""
    rows = [
        {
            "mount": one.mount,
            "kind": one.kind,
            "outcome": one.outcome,
            "layers": one.layers,
            "count": one.count,
            "time": pd.Timedelta(one.times.sum, unit="ns"),
            "mean": pd.Timedelta(round(one.mean), unit="ns"),
            "p50": pd.Timedelta(one.times.quantile(0.50), unit="ns"),
            "p99": pd.Timedelta(one.times.quantile(0.99), unit="ns"),
        }
        for one in found
    ]
    names = ("mount", "kind", "outcome", "layers", "count", "time", "mean", "p50", "p99")
    return pd.DataFrame(rows, columns=list(names))
