"""Starting the command: fallthru --help and a mount that is only described, against python3.

Aim: under 5 times `python3 -c pass`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from measuring import emit, in_turn, median_seconds


def running(*command: str) -> Callable[[], None]:
    def run() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    return run


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args(argv).rounds
    fallthru = str(Path(sys.executable).with_name("fallthru"))
    with tempfile.TemporaryDirectory(prefix="fallthru-bench-") as base:
        dry_run = ("mount", "--dry-run", "--bottom", "/usr", "--top", f"{base}/top", base)
        medians = median_seconds(
            in_turn(
                {
                    "python3 -c pass": running(sys.executable, "-c", "pass"),
                    "fallthru --help": running(fallthru, "--help"),
                    "fallthru mount --dry-run": running(fallthru, *dry_run),
                },
                rounds=rounds,
            )
        )
    python = medians["python3 -c pass"]
    lines = ["start to end, medians; ratios to python3 -c pass:"]
    lines += [
        f"  {name}: {value * 1e3:.0f} ms = {value / python:.1f}" for name, value in medians.items()
    ]
    emit("start", lines, {"rounds": rounds, "seconds": medians})


if __name__ == "__main__":
    main()
