"""How long it takes to check a large top, and how much memory.

The layer: 40 % changed files, 30 % new, 20 % whiteouts, the rest directories, of which a
tenth are opaque, on tmpfs with the marks that the kernel leaves.  Prints JSON: seconds,
processor seconds and the load, which tell how far a busy machine distorts them, peak
resident memory of the largest process and of all together, entries a second, and the
seconds that only listing the tree with an lstat each takes, to compare machines by.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import stat
import sys
import tempfile
import time
from pathlib import Path

from overlay.checking.check import Suspect, check

__all__ = ["build", "main"]

#: Of ten entries in a directory: changed files, new ones, whiteouts; the tenth is itself.
_CHANGED, _NEW, _WHITEOUTS = 4, 3, 2
_DIRECTORY_SIZE = 9
_FANOUT = 32
#: A handle of no file: "copied up, nobody knows from what", as after the bottom was copied.
_ORIGIN = bytes.fromhex("00fb210001") + bytes(16) + bytes(12)


def build(base: Path, entries: int) -> Suspect:
    """A top of about ``entries`` entries over its bottom, below ``base``."""
    top, bottom = base / "top", base / "bottom"
    for layer in (top, bottom):
        layer.mkdir()
    (base / "top.work").mkdir()
    made, number = 0, 0
    while made < entries:
        name = f"d{number // _FANOUT:05}"
        if number % _FANOUT == 0:
            _directory(top / name, bottom / name, opaque=False)
            made += 1
        name += f"/d{number % _FANOUT:02}"
        opaque = number % 10 == 0
        _directory(top / name, bottom / name, opaque=opaque)
        made += 1 + _fill(top / name, bottom / name, opaque=opaque)
        number += 1
    return Suspect(str(top), (str(bottom),))


def _directory(top: Path, bottom: Path, *, opaque: bool) -> None:
    bottom.mkdir()
    top.mkdir()
    if opaque:
        os.setxattr(top, "trusted.overlay.opaque", b"y")
    else:
        os.setxattr(top, "trusted.overlay.origin", _ORIGIN)
        os.setxattr(top, "trusted.overlay.impure", b"y")


def _fill(top: Path, bottom: Path, *, opaque: bool) -> int:
    """Fill one directory; nothing in an opaque one was copied up, or needs a whiteout."""
    for index in range(_DIRECTORY_SIZE):
        changed = index < _CHANGED
        whiteout = index >= _CHANGED + _NEW and not opaque
        if changed or whiteout:
            os.close(os.open(bottom / f"f{index}", os.O_CREAT | os.O_WRONLY))
        if whiteout:
            os.mknod(top / f"f{index}", stat.S_IFCHR, 0)
        else:
            os.close(os.open(top / f"f{index}", os.O_CREAT | os.O_WRONLY))
            if changed and not opaque:
                os.setxattr(top / f"f{index}", "trusted.overlay.origin", _ORIGIN)
    return _DIRECTORY_SIZE


def _lstat_all(directory: str) -> int:
    count = 0
    pending = [directory]
    while pending:
        with os.scandir(pending.pop()) as found:
            for entry in found:
                entry.stat(follow_symlinks=False)
                count += 1
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
    return count


def _cpu_seconds() -> float:
    """Processor time of this process and of all workers that have ended."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime


def _peak_rss_kib() -> int:
    """This program's own peak: ru_maxrss still holds that of whoever executed it."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


def main(argv: list[str]) -> int:
    """Build, check, print; 1 if the check found anything, which it must not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=1, help="The fastest counts.")
    parser.add_argument("--directory", default="/dev/shm", help="Where to build the layers.")
    options = parser.parse_args(argv)
    base = Path(tempfile.mkdtemp(prefix="fallthru-bench-check-", dir=options.directory))
    try:
        suspect = build(base, options.entries)
        begun = time.perf_counter()
        listed = _lstat_all(suspect.top)
        lstat_seconds = time.perf_counter() - begun
        seconds, cpu = [], []
        for _ in range(options.repeat):
            begun, used = time.perf_counter(), _cpu_seconds()
            report = check(suspect, workers=options.workers)
            seconds.append(time.perf_counter() - begun)
            cpu.append(_cpu_seconds() - used)
        own = _peak_rss_kib()
        worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    finally:
        shutil.rmtree(base)
    result = {
        "entries": report.entries,
        "workers": options.workers,
        "seconds": round(min(seconds), 3),
        "cpu_seconds": round(min(cpu), 3),
        "load": round(os.getloadavg()[0], 1),
        "entries_per_second": round(report.entries / min(seconds)),
        "peak_rss_mib": round(max(own, worker) / 1024, 1),
        "peak_rss_all_mib": round((own + worker * options.workers) / 1024, 1),
        "lstat_seconds": round(lstat_seconds, 3),
        "findings": len(report.findings),
    }
    print(json.dumps(result, indent=2))
    return 1 if report.findings or report.entries != listed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
