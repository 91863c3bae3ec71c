"""Many roots on one bottom, live at once: starting, listing, entering, memory for each.

Aims: 1,000 live at once, and `fallthru list` in under 0.3 s with all of them.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measuring import ENVIRONMENT, emit

from overlay import mountinfo, syscalls
from overlay.roots import named as roots
from overlay.roots import notes as rootnotes
from overlay.roots.cgroups import Limits
from overlay.roots.root import Root

FALLTHRU = [sys.executable, "-m", "overlay"]


@contextmanager
def own_state() -> Iterator[None]:
    """Where roots are remembered, for this run only: in a mount namespace of its own."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
    for directory in ("/run/fallthru", "/var/lib/fallthru"):
        os.makedirs(directory, exist_ok=True)
        syscalls.mount("many", directory, "tmpfs", 0, None)
    yield


class Memory:
    """What this process and those it starts take, kernel memory included, in KiB.

    A memory control group tells; without one, what is available on the machine, which others
    use as well.
    """

    def __init__(self) -> None:
        self.group = None
        for entry in mountinfo.read():
            names = {key for key, _ in entry.super_options}
            if entry.fstype == "cgroup" and "memory" in names:
                self.group = Path(entry.mount_point, f"many-{os.getpid()}")
                self.usage = self.group / "memory.usage_in_bytes"
            elif entry.fstype == "cgroup2" and "memory" in _controllers(entry.mount_point):
                self.group = Path(entry.mount_point, f"many-{os.getpid()}")
                self.usage = self.group / "memory.current"
        if self.group is not None:
            self.group.mkdir()
            (self.group / "cgroup.procs").write_text(str(os.getpid()))

    def used(self) -> int:
        if self.group is not None:
            return int(self.usage.read_text()) // 1024
        with open("/proc/meminfo", encoding="ascii") as file:
            return -next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))

    def close(self) -> None:
        if self.group is not None:
            (self.group.parent / "cgroup.procs").write_text(str(os.getpid()))
            self.group.rmdir()


def _controllers(mount_point: str) -> list[str]:
    return Path(mount_point, "cgroup.controllers").read_text().split()


def seconds(*command: str) -> float:
    before = time.perf_counter()
    subprocess.run([*FALLTHRU, *command], check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - before


def pss(pids: list[int]) -> int:
    """The proportional set size of processes, in KiB."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            total += next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    return total


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--roots", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything is stopped
    with own_state(), tempfile.TemporaryDirectory(dir="/dev/shm") as base:
        bottom = Path(base, "bottom")
        (bottom / "etc").mkdir(parents=True)
        names = [f"many-{number:04}" for number in range(arguments.roots)]
        for name in names:
            roots.create(Root(name, (str(bottom),)), Limits())
        bare = [seconds("--help") for _ in range(arguments.rounds)]
        memory = Memory()
        before = memory.used()
        started: list[float] = []
        try:
            for name in names:
                begin = time.perf_counter()
                roots.start(name)
                started.append(time.perf_counter() - begin)
            used = memory.used() - before
            standings = rootnotes.standings()
            processes = pss([each.pid for each in standings.values()])
            listed = [seconds("list") for _ in range(arguments.rounds)]
            begin = time.perf_counter()
        finally:
            for name in rootnotes.standings():
                roots.stop(name, patience=0)
        memory.close()
        stopped = (time.perf_counter() - begin) / max(len(names), 1)
    first, last = started[: len(started) // 10], started[-len(started) // 10 :]
    results = {
        "roots": len(standings),
        "start_seconds": statistics.median(started),
        "start_first_tenth": statistics.median(first),
        "start_last_tenth": statistics.median(last),
        "stop_seconds": stopped,
        "list_seconds": statistics.median(listed),
        "help_seconds": statistics.median(bare),
        "memory_kib_each": used / len(standings),
        "process_kib_each": processes / len(standings),
    }
    emit(
        "many",
        [
            f"{len(standings)} roots live at once on one bottom; medians:",
            f"  start {results['start_seconds'] * 1e3:.1f} ms "
            f"(the first tenth {results['start_first_tenth'] * 1e3:.1f}, "
            f"the last {results['start_last_tenth'] * 1e3:.1f}), "
            f"stop {stopped * 1e3:.1f} ms",
            f"  list {results['list_seconds'] * 1e3:.0f} ms; --help alone "
            f"{results['help_seconds'] * 1e3:.0f} ms",
            f"  memory {used / len(standings):.0f} KiB each, of which its process "
            f"{processes / len(standings):.0f} KiB",
        ],
        {"arguments": vars(arguments), "results": results},
    )


if __name__ == "__main__":
    main()
