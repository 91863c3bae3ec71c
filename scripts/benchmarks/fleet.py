"""How summarising a fleet's traces grows with their number, in time and memory.

Traces of --hosts are made up, part by part (--keep leaves them), and summarised on Dask with a
worker for each processor: the first million spans, then more.  Each size runs in processes of
its own; wall time needs an idle machine, processor time is printed beside it.
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

from madetraces import PART, write_trace
from measuring import emit

_CHILD = """
import json, os, sys, time

def used():
    status = open("/proc/self/status").read()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    return [sum(os.times()[:2]), peak]

def main():
    import distributed
    from analysis import fleet
    paths, workers = json.load(sys.stdin), int(sys.argv[1])
    start = time.perf_counter()
    with distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0"
    ) as cluster, distributed.Client(cluster) as client:
        client.wait_for_workers(workers)
        fleet.survey(paths[:1], ["host"], engine="dask")  # imports
        ready, before = time.perf_counter(), [used(), *client.run(used).values()]
        made = fleet.survey(paths, ["host", "process", "size", ["host", "op"]], engine="dask")
        done, after = time.perf_counter(), [used(), *client.run(used).values()]
    print(json.dumps({
        "spans": made.overview()["spans"],
        "files": made.overview()["files"],
        "hosts": len(made.summarise("host")),
        "start": ready - start,
        "wall": done - ready,
        "cpu": sum(one[0] for one in after) - sum(one[0] for one in before),
        "peaks_mib": [one[1] for one in after],
    }))

if __name__ == "__main__":
    main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--spans", type=int, default=10_000_000, help="Of the largest size.")
    parser.add_argument("--hosts", type=int, default=64)
    parser.add_argument("--files", type=int, default=1_000_000, help="Different paths.")
    parser.add_argument(
        "--different", type=int, default=64, help="Parts that are made; the others are links."
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--directory", default="/var/tmp", help="Where the traces are written.")
    parser.add_argument("--keep", metavar="DIR", help="Write the traces here, or use them again.")
    options = parser.parse_args()
    parts = -(-options.spans // PART)
    with tempfile.TemporaryDirectory(prefix="fallthru-bench-", dir=options.directory) as scratch:
        root = options.keep or scratch
        runs = [
            f"{root}/host=web{number % options.hosts:02}/run={number // options.hosts}"
            for number in range(parts)
        ]
        for number, run in enumerate(runs):
            if os.path.isdir(run):
                continue
            if number < options.different:
                write_trace(run, PART, files=options.files, seed=number)
            else:
                # Another host's, so that no host has the same part twice.
                shift = number // options.hosts * 7
                _link(runs[(number + shift) % options.different], run)
        size = sum(one.stat().st_size for run in runs for one in Path(run).iterdir())
        sizes = sorted({max(1, parts // share) for share in (100, 32, 10, 3, 1)})
        measured = [_measure(runs[:count], options.workers) for count in sizes]
    lines = [
        f"{parts * PART:,} spans of {options.files:,} files on {options.hosts} hosts,"
        f" {size >> 20:,} MiB, {min(parts, options.different)} of {parts} parts different;"
        f" {options.workers} workers:",
        "         spans  seconds  a million  processor  a million    MiB",
    ]
    for one in measured:
        million = one["spans"] / 1e6
        lines.append(
            f"  {one['spans']:12,}{one['wall']:9.1f}{one['wall'] / million:11.3f}"
            f"{one['cpu']:11.1f}{one['cpu'] / million:11.3f}{sum(one['peaks_mib']):7,.0f}"
        )
    lines.append(f"the cluster was ready after {measured[-1]['start']:.1f} s, which is not in it")
    lines.append(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    emit("fleet", lines, {"time": time.time(), "workers": options.workers, "sizes": measured})


def _link(source: str, target: str) -> None:
    os.makedirs(target)
    for name in os.listdir(source):
        os.link(f"{source}/{name}", f"{target}/{name}")


def _measure(paths: list[str], workers: int) -> dict[str, Any]:
    command = [sys.executable, "-c", _CHILD, str(workers)]
    done = subprocess.run(
        command, input=json.dumps(paths), stdout=subprocess.PIPE, text=True, check=True
    )
    made: dict[str, Any] = json.loads(done.stdout)
    return made


if __name__ == "__main__":
    main()
