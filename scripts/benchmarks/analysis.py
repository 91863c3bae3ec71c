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
from madetraces import write_trace
from measuring import emit

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
