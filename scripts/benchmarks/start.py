"""Starting the command: fallthru --help, mount --dry-run, try and list, against python3.

Aims: --help under 5 times `python3 -c pass`; `try -- true`, with all that it mounts and takes
away again, within 60 ms on a quiet machine; `list` of a thousand roots within 300 ms.
The roots are notes only, all with this program as their first process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from many import own_state
from measuring import ENVIRONMENT, emit, in_turn, median_seconds

from overlay import runstate
from overlay.roots import notes as rootnotes


def running(*command: str) -> Callable[[], None]:
    def run() -> None:
        subprocess.run(
            command,
            check=True,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    return run


def note_roots(count: int) -> None:
    """Have ``count`` roots stand noted as running."""
    started = rootnotes.start_time(os.getpid()) or 0
    for number in range(count):
        name = f"noted-{number:04}"
        os.makedirs(os.path.join(rootnotes.DIRECTORY, name))
        standing = rootnotes.Standing(name, os.getpid(), started, time.time())
        with runstate.locked("roots") as drawer:
            assert drawer is not None
            runstate.put(drawer, name, standing.to_note())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--roots", type=int, default=1000, help="How many `list` is to list.")
    options = parser.parse_args(argv)
    fallthru = str(Path(sys.executable).with_name("fallthru"))
    listing = f"fallthru list ({options.roots} roots)"
    with own_state(), tempfile.TemporaryDirectory(prefix="fallthru-bench-") as base:
        note_roots(options.roots)
        dry_run = ("mount", "--dry-run", "--bottom", "/usr", "--top", f"{base}/top", base)
        medians = median_seconds(
            in_turn(
                {
                    "python3 -c pass": running(sys.executable, "-c", "pass"),
                    "python3 -c 'import click'": running(sys.executable, "-c", "import click"),
                    "fallthru --help": running(fallthru, "--help"),
                    "fallthru mount --dry-run": running(fallthru, *dry_run),
                    "fallthru try -- true": running(fallthru, "try", "--discard", "--", "true"),
                    listing: running(fallthru, "list"),
                },
                rounds=options.rounds,
            )
        )
    python = medians["python3 -c pass"]
    lines = ["start to end, medians; ratios to python3 -c pass:"]
    lines += [
        f"  {name}: {value * 1e3:.0f} ms = {value / python:.1f}" for name, value in medians.items()
    ]
    emit("start", lines, {**vars(options), "seconds": medians})


if __name__ == "__main__":
    main()
