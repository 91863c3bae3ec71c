"""Traces made up for benchmarks: as large as one likes, written part by part."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracer.schema import SCHEMA, RunMetadata
from tracer.tracefile import TraceWriter

__all__ = ["PART", "write_trace"]

#: Spans to a part, as `fallthru trace record` has it.
PART = 1 << 18
_START = 1_790_000_000_000_000_000
_WORDS = {
    "kind": ["copyup"],
    "comm": ["chown", "sed", "logrotate", "python3", "rsync"],
    "op": ["fchownat", "openat", "truncate", "unlinkat"],
    "cgroup": ["/user.slice"],
    "ftype": ["file"],
    "how": ["copy"],
    "mount": ["/mnt"],
    "backend": ["tracepoint"],
}


def write_trace(directory: str, spans: int, *, files: int, seed: int = 0, host: str = "h") -> None:
    """Write a trace of ``spans`` copyups of ``files`` paths into ``directory``."""
    rng = np.random.default_rng(seed)
    os.makedirs(directory, exist_ok=True)
    writer = TraceWriter(directory)
    paths = pa.array([f"/share/pkg{number % 9973:04}/file-{number:07}" for number in range(files)])
    for first in range(0, spans, PART):
        count = min(PART, spans - first)
        metadata = RunMetadata(
            kernel="6.18.0",
            hostname=host,
            backend="tracepoint",
            started_ns=_START,
            ended_ns=_START + spans * 3000,
            spans=first + count,
        )
        made = _columns(rng, count, first)
        made["path"] = paths.take(pa.array(rng.integers(0, files, count)))
        arrays = [made[one.name].cast(one.type) for one in SCHEMA]
        writer.write(pa.table(arrays, schema=SCHEMA), metadata)


def _columns(rng: np.random.Generator, count: int, first: int) -> dict[str, pa.Array]:
    def noisy(base: Any) -> npt.NDArray[np.int64]:
        return np.asarray(base * np.exp(rng.normal(0, 0.25, count))).astype("i8")

    size = np.exp(rng.normal(9.2, 2.3, count)).astype("i8")
    phases = {
        "create": noisy(17_500),
        "data": noisy(size / 1.2),
        "sync": noisy(150_000 + size * 0.25),
        "meta": noisy(7_000),
        "link": noisy(10_000),
    }
    dur = np.sum(list(phases.values()), axis=0) + rng.integers(0, 2_000, count)
    numbers = {
        "ts": _START + (first + np.arange(count)) * 3_000,
        "dur": dur,
        "pid": 1_000 + rng.integers(0, 50, count),
        "tid": 1_000 + rng.integers(0, 50, count),
        "uid": np.zeros(count, "i8"),
        "size": size,
        "errno": np.zeros(count, "i8"),
        **phases,
    }
    made = {name: pa.array(values) for name, values in numbers.items()}
    made["bytes"] = pa.array(size, mask=rng.random(count) < 0.01)
    for name, words in _WORDS.items():
        codes = pa.array(rng.integers(0, len(words), count).astype("i4"))
        made[name] = pa.DictionaryArray.from_arrays(codes, pa.array(words))
    for one in SCHEMA:  # whatever column came later is null
        if one.name not in made and one.name != "path":
            made[one.name] = pa.nulls(count, one.type)
    return made
