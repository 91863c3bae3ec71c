"""Copyups as Prometheus counters and histograms (text format 0.0.4)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tracer.histogram import Histogram
from tracer.schema import PHASES

if TYPE_CHECKING:
    import pyarrow as pa

    from tracer.session import Session

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Counts = npt.NDArray[np.int64]

#: Upper bounds of the latency buckets, ns: 10 µs to 10 s.
_BOUNDS = np.array([int(f * 10**e) for e in range(4, 10) for f in (1, 2.5, 5)] + [10**10], np.int64)


class Metrics:
    """Adds up spans; :meth:`render` gives the page that Prometheus scrapes.

    Labels have few values (kinds, system calls, how data got up, errno), so the page
    stays small whatever runs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: dict[tuple[str, ...], Counts] = {}
        self._sums: Counter[tuple[str, ...]] = Counter()
        self._bytes: Counter[tuple[str, ...]] = Counter()
        self._phases: Counter[tuple[str, ...]] = Counter()
        self._errors: Counter[tuple[str, ...]] = Counter()
        self._counts = {"lost": 0, "unmatched": 0}
        self._info: tuple[str, ...] = ("", "", "")
        self._kept: dict[tuple[str, ...], Histogram] = {}

    def watch(self, table: pa.Table, session: Session) -> None:
        """Count these spans, and note what the session has lost."""
        run = session.metadata()
        with self._lock:
            self._counts = {"lost": run.lost, "unmatched": run.unmatched}
            self._info = (run.tool_version, run.kernel, run.backend)
            self.keep(run.latencies)
            self.add(table)

    def keep(self, latencies: Iterable[dict[str, Any]]) -> None:
        """Note the histograms that the kernel keeps (of :func:`tracer.latencies.described`), of
        all unions together; they hold all since the start."""
        self._kept = {}
        for one in latencies:
            key = (one["kind"], one["outcome"] or "", str(one["layers"] or ""))
            counts = {int(index): count for index, count in one["buckets"].items()}
            kept = self._kept.setdefault(key, Histogram())
            kept.merge(Histogram.counted(counts, one["sum_ns"]))

    def add(self, table: pa.Table) -> None:
        """Count these spans (columns as in :data:`tracer.schema.SCHEMA`)."""
        import pyarrow as pa

        for how, rows in _groups(table, ("kind", "op", "how")):
            durations = rows["dur"].cast(pa.int64()).to_numpy()
            places = np.searchsorted(_BOUNDS, durations)  # le: at most the bound
            counts = np.bincount(places, minlength=len(_BOUNDS) + 1)
            self._buckets[how] = self._buckets.get(how, 0) + counts
            self._sums[how] += int(durations.sum())
            self._bytes[how] += _sum(rows["bytes"])
            for phase in PHASES:
                self._phases[*how[:1], phase] += _sum(rows[phase].cast(pa.int64()))
        for what, rows in _groups(table, ("kind", "op", "errno")):
            if what[2] != "0":
                self._errors[what] += rows.num_rows

    def render(self) -> str:
        """The page, as of the last :meth:`watch`."""
        with self._lock:
            return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield from _head("fallthru_trace_info", "gauge", "What traces, and where.")
        yield _sample("fallthru_trace_info", ("version", "kernel", "backend"), self._info, 1)
        yield from _histograms(
            "fallthru_span_duration_seconds",
            "How long copyups, and other spans, took.",
            ("kind", "op", "how"),
            {key: (counts, self._sums[key]) for key, counts in self._buckets.items()},
        )
        yield from _histograms(
            "fallthru_operation_duration_seconds",
            "How long lookups, readdirs and other operations took, as the kernel counted.",
            ("kind", "outcome", "layers"),
            {key: (_within(one), one.sum) for key, one in self._kept.items()},
        )
        labels = ("kind", "op", "how")
        yield from _counters(
            "fallthru_copied_bytes_total", "Data moved to the top.", labels, self._bytes
        )
        yield from _counters(
            "fallthru_phase_seconds_total",
            "Time in each phase, where the backend can tell.",
            ("kind", "phase"),
            self._phases,
            scale=1e9,
        )
        yield from _counters(
            "fallthru_errors_total",
            "Spans of system calls that failed.",
            ("kind", "op", "errno"),
            {(*key[:2], _errno_name(key[2])): value for key, value in self._errors.items()},
        )
        helps = {
            "lost": ("fallthru_lost_records_total", "Records the kernel could not deliver."),
            "unmatched": ("fallthru_unmatched_total", "Copyups seen to begin but not to end."),
        }
        for which, (name, text) in helps.items():
            yield from _counters(name, text, (), {(): self._counts[which]})


def _groups(table: pa.Table, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], pa.Table]]:
    """The rows for each combination of values in ``names`` (text; null is "unknown")."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not table.num_rows:
        return
    keys = [pc.fill_null(table[name].cast(pa.string()), "unknown") for name in names]
    key = pc.binary_join_element_wise(*keys, "\0").combine_chunks().dictionary_encode()
    for code, text in enumerate(key.dictionary.to_pylist()):
        yield tuple(text.split("\0")), table.filter(pc.equal(key.indices, code))


def _within(kept: Histogram) -> Counts:
    """Counts by our bounds; what may be beyond a bound counts as beyond."""
    counts = np.zeros(len(_BOUNDS) + 1, np.int64)
    for bucket in kept.buckets(16):
        counts[np.searchsorted(_BOUNDS, bucket.high - 1)] += bucket.count
    return counts


def _histograms(
    name: str,
    text: str,
    labels: tuple[str, ...],
    values: dict[tuple[str, ...], tuple[Counts, int]],
) -> Iterator[str]:
    yield from _head(name, "histogram", text)
    for key, (counts, total) in sorted(values.items()):
        running = np.cumsum(counts)
        for bound, count in zip([*_BOUNDS.tolist(), None], running.tolist(), strict=True):
            limit = "+Inf" if bound is None else repr(bound / 1e9)
            yield _sample(f"{name}_bucket", (*labels, "le"), (*key, limit), count)
        yield _sample(f"{name}_sum", labels, key, total / 1e9)
        yield _sample(f"{name}_count", labels, key, int(running[-1]))


def _sum(column: pa.ChunkedArray) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(column).as_py() or 0)


def _errno_name(text: str) -> str:
    from errno import errorcode

    return errorcode.get(int(text), text)


def _head(name: str, kind: str, text: str) -> Iterable[str]:
    return (f"# HELP {name} {text}", f"# TYPE {name} {kind}")


def _counters(
    name: str,
    text: str,
    labels: tuple[str, ...],
    values: dict[tuple[str, ...], int],
    scale: float = 1,
) -> Iterator[str]:
    yield from _head(name, "counter", text)
    for key, value in sorted(values.items()):
        yield _sample(name, labels, key, value / scale if scale != 1 else value)


def _sample(name: str, labels: tuple[str, ...], values: tuple[str, ...], value: float) -> str:
    pairs = ",".join(
        f'{label}="{_escape(text)}"' for label, text in zip(labels, values, strict=True)
    )
    return f"{name}{{{pairs}}} {value!r}" if pairs else f"{name} {value!r}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
