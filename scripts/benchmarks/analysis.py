"""How long a large trace takes to load and summarise, and how much memory.

A synthetic trace is written once (--keep leaves it), then each way to read it runs in a
process of its own.  Wall time needs an idle machine; processor time is printed beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import emit

from tracer.schema import SCHEMA, RunMetadata, schema_with

__all__ = ["write_trace"]

_PART = 1 << 18
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

#: What is measured, step by step: the first step reads, the others use what it read.
_STEPS = {
    "whole": {
        "load": "trace = load(path); frame = stats.copyups(trace.frame)",
        "by process": "stats.summarise(frame, 'process')",
        "by size": "stats.summarise(frame, 'size')",
        "phases": "stats.phases(frame)",
        "files": "frame['path'].nunique()",
    },
    "columns": {
        "load": "frame = load(path, columns=('dur', 'bytes', 'errno', 'comm', 'size')).frame",
        "by process": "stats.summarise(frame, 'process')",
        "by size": "stats.summarise(frame, 'size')",
    },
}
_CHILD = """
import json, sys, time
from analysis import stats
from analysis.load import load
path, steps = sys.argv[1], json.loads(sys.argv[2])
found = {}
for name, step in steps.items():
    wall, cpu = time.perf_counter(), time.process_time()
    exec(step)
    found[name] = [time.perf_counter() - wall, time.process_time() - cpu]
status = open("/proc/self/status").read()
peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps({"steps": found, "peak_mib": peak}))
"""


def write_trace(directory: str, spans: int, *, files: int, seed: int = 0, host: str = "h") -> None:
    """Write a trace of ``spans`` copyups of ``files`` paths into ``directory``."""
    rng = np.random.default_rng(seed)
    os.makedirs(directory, exist_ok=True)
    paths = pa.array([f"/share/pkg{number % 9973:04}/file-{number:07}" for number in range(files)])
    for part, first in enumerate(range(0, spans, _PART)):
        count = min(_PART, spans - first)
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
        table = pa.table(arrays, schema=schema_with(metadata))
        name = os.path.join(directory, f"part-{part:05}.parquet")
        pq.write_table(table, name, compression="zstd", write_page_checksum=True)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--spans", type=int, default=10_000_000)
    parser.add_argument("--files", type=int, default=1_000_000, help="Different paths.")
    parser.add_argument("--directory", default="/var/tmp", help="Where the trace is written.")
    parser.add_argument("--keep", metavar="TRACE", help="Write the trace here, or use it again.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fallthru-bench-", dir=options.directory) as scratch:
        trace = options.keep or f"{scratch}/trace"
        if not os.path.isdir(trace):
            write_trace(trace, options.spans, files=options.files)
        size = sum(one.stat().st_size for one in Path(trace).iterdir())
        measured = {name: _measure(trace, steps) for name, steps in _STEPS.items()}
    lines = [f"{options.spans:,} spans of {options.files:,} files, {size >> 20:,} MiB on disk:"]
    for name, one in measured.items():
        lines.append(f"  {'all columns' if name == 'whole' else 'only the columns needed'}:")
        total = np.zeros(2)
        for step, seconds in one["steps"].items():
            total += seconds
            lines.append(f"    {step:11}{seconds[0]:6.1f} s  (processor {seconds[1]:.1f} s)")
        lines.append(f"    {'in all':11}{total[0]:6.1f} s  (processor {total[1]:.1f} s)")
        lines.append(f"    at most {one['peak_mib']:,.0f} MiB resident")
    lines.append(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    emit("analysis", lines, {"spans": options.spans, "time": time.time(), **measured})


def _measure(trace: str, steps: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-c", _CHILD, trace, json.dumps(steps)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    made: dict[str, Any] = json.loads(found)
    return made


if __name__ == "__main__":
    main()
