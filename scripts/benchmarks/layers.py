"""How long diff, check, export and commit of a large top take, against rsync, tar and podman.

The layer is that of the benchmark ``check``.  Each command runs as users run it, in a
process of its own, on fresh copies where it changes something; the peers do the nearest
thing they can, and those that are not installed are left out:

  diff    rsync -an --delete (what would have to be copied), tar to a pipe (reads every entry),
          overlay diff (overlayfs-tools), podman diff (calls every copyup a change)
  export  tar --xattrs -cf FILE, podman commit (makes a layer of the top, in its storage)
  commit  rsync -aX (copies, but knows no whiteouts, verifies nothing and removes nothing)

Seconds of wall clock and of processors, and the peak resident memory of the largest process.
On a busy machine only processor time means something, and what takes two processors of it
takes half as long on an idle one.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from check import build
from measuring import ENVIRONMENT, emit

from overlay import syscalls

__all__ = ["main"]

_PODMAN_LAYERS = ("UpperDir", "LowerDir")


def _run(command: Sequence[str | Path], accepted: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Run a command in a process that is measured alone."""
    begun = time.perf_counter()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with open(os.devnull, "wb") as nothing:
                done = subprocess.run(command, stdout=nothing, env=ENVIRONMENT, check=False)
            status = 0 if done.returncode in accepted else 1
        finally:
            usage = resource.getrusage(resource.RUSAGE_CHILDREN)
            text = f"{usage.ru_utime + usage.ru_stime} {usage.ru_maxrss}"
            Path(f"/proc/self/fd/{_answer[1]}").write_text(text)
            os._exit(status)
    _, status = os.waitpid(child, 0)
    seconds = time.perf_counter() - begun
    cpu, rss = os.read(_answer[0], 100).split()
    if status:
        raise SystemExit(f"failed: {' '.join(map(str, command))}")
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(float(cpu), 2),
        "peak_rss_mib": round(int(rss) / 1024, 1),
    }


_answer = os.pipe()


def _measure(base: Path, entries: int, repeat: int, changing: bool) -> dict[str, dict[str, Any]]:
    suspect = build(base, entries)
    top, bottom = Path(suspect.top), Path(suspect.bottoms[0])
    ours = [sys.executable, "-m", "overlay"]
    of = ["--top", top, "--bottom", bottom]
    jobs: dict[str, Any] = {
        "diff": lambda: _run([*ours, "diff", *of], (1,)),
        "diff --stat": lambda: _run([*ours, "diff", "--stat", *of], (1,)),
        "check": lambda: _run([*ours, "check", *of]),
        "export": lambda: _export([*ours, "export", "--top", top, "-o"], base / "layer.tar"),
        "tar to a file": lambda: _export(
            ["tar", "--xattrs", "-C", top, "-c", ".", "-f"], base / "t"
        ),
        "tar to a pipe": lambda: _run(["sh", "-c", f"tar -C {top} -c . | cat"]),
    }
    if shutil.which("overlay"):
        jobs["overlay diff"] = lambda: _run(["overlay", "diff", "-l", bottom, "-u", top])
    if shutil.which("rsync"):
        jobs["rsync -an"] = lambda: _run(["rsync", "-an", "--delete", f"{top}/", f"{bottom}/"])
    found: dict[str, dict[str, Any]] = {}
    for number in range(repeat):
        order = list(jobs.items())
        for name, job in order if number % 2 else reversed(order):
            result = job()
            before = found.get(name, result)
            found[name] = {key: min(value, before[key]) for key, value in result.items()}
    if shutil.which("podman"):
        found.update(_podman(base, top, bottom, changing))
    if not changing:
        return found
    if shutil.which("rsync"):
        copy = base / "copy"
        shutil.copytree(bottom, copy)
        found["rsync -aX"] = _run(["rsync", "-aX", f"{top}/", f"{copy}/"])
        shutil.rmtree(copy)
    found["commit"] = _run([*ours, "commit", "--yes", *of])
    return found


def _podman(base: Path, top: Path, bottom: Path, changing: bool) -> dict[str, dict[str, Any]]:
    """The layers as a container's, put into a storage of podman's own for a while."""
    store = base / "podman"
    podman = ["podman", "--root", store / "graph", "--runroot", store / "run"]
    podman += ["--storage-driver", "overlay"]
    (store / "empty").mkdir(parents=True)
    (store / "empty" / "x").touch()
    archive = store / "empty.tar"
    subprocess.run(["tar", "-C", store / "empty", "-cf", archive, "."], check=True)
    nothing = subprocess.DEVNULL
    subprocess.run([*podman, "import", "-q", archive, "base"], check=True, stdout=nothing)
    subprocess.run([*podman, "create", "--name", "it", "base", "/x"], check=True, stdout=nothing)
    shown = subprocess.run(
        [*podman, "inspect", "it", "--format", "{{.GraphDriver.Data}}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    upper, lower = (Path(re.findall(rf"{key}:(\S+?)[\s\]]", shown)[0]) for key in _PODMAN_LAYERS)
    for layer, place in ((top, upper), (bottom, lower)):
        shutil.rmtree(place)
        layer.rename(place)
    try:
        found = {"podman diff": _run([*podman, "diff", "it"])}
        if changing:
            found["podman commit"] = _run([*podman, "commit", "-q", "it", "made"])
        return found
    finally:
        upper.rename(top)
        lower.rename(bottom)
        subprocess.run(["umount", "--lazy", "--quiet", store / "graph" / "overlay"], check=False)
        shutil.rmtree(store)


def _export(command: Sequence[str | Path], output: Path) -> dict[str, Any]:
    try:
        return _run([*command, output])
    finally:
        output.unlink(missing_ok=True)


def main(argv: list[str]) -> int:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument(
        "--repeat", type=int, default=3, help="The fastest counts; commit runs once."
    )
    parser.add_argument(
        "--read-only", action="store_true", help="Leave out commit and what it is compared with."
    )
    parser.add_argument("--directory", default="/dev/shm", help="Where to build the layers.")
    options = parser.parse_args(argv)
    base = Path(tempfile.mkdtemp(prefix="fallthru-bench-layers-", dir=options.directory))
    try:
        # What podman mounts is gone with this process.
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
        found = _measure(base, options.entries, options.repeat, not options.read_only)
    finally:
        shutil.rmtree(base)
    lines = [f"{options.entries} entries, load {os.getloadavg()[0]:.1f}:"]
    lines += [
        f"  {name:14} {each['seconds']:8.2f} s {each['cpu_seconds']:8.2f} s cpu "
        f"{each['peak_rss_mib']:7.1f} MiB"
        for name, each in found.items()
    ]
    emit("layers", lines, {"entries": options.entries, "results": found})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
