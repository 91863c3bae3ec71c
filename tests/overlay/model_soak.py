"""Run the model for long: ``python -m tests.overlay.model_soak --steps 500000 --seed 1``.

Every script of 250 steps has a seed of its own, counted up from ``--seed``; a mismatch
is printed with the shortest script found that still shows it, and ends the run.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from overlay import syscalls
from tests.fsimages import MKFS, loop_filesystem, tmpfs
from tests.overlay.model import Mismatch, Session
from tests.strategies import Step

__all__ = ["main", "run_script"]

SCRIPT = 250


def run_script(base: Path, seed: int, script: list[Step]) -> tuple[Counter[str], str | None]:
    """Run one script on fresh layers: (differences counted, what did not match)."""
    base.mkdir()
    choose = random.Random(seed).choice
    session = Session(base, choose, directory_copyup=bool(seed % 2), links=seed % 3 == 2)
    try:
        for number, step in enumerate(script):
            if number == len(script) * 2 // 3:
                session.swap()
            session.run(step)
        session.swap()
    except Mismatch as mismatch:
        return session.differences, str(mismatch)
    finally:
        session.close()
        shutil.rmtree(base)
    return session.differences, None


def script_of(seed: int, length: int) -> list[Step]:
    choose = random.Random(-seed - 1).choice
    return [Step.draw(choose) for _ in range(length)]


def shortest(base: Path, seed: int, script: list[Step]) -> list[Step]:
    """Leave steps out as long as the script still shows a mismatch."""
    size = len(script) // 2
    while size:
        at = 0
        while at < len(script):
            shorter = script[:at] + script[at + size :]
            if run_script(base, seed, shorter)[1] is not None:
                script = shorter
            else:
                at += size
        size //= 2
    return script


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fs", choices=["tmpfs", *MKFS], default="tmpfs", help="of all layers")
    options = parser.parse_args()
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
    differences: Counter[str] = Counter()
    started, done, seed = time.monotonic(), 0, options.seed
    with ExitStack() as stack:
        if options.fs == "tmpfs":
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            mounted = stack.enter_context(tmpfs(scratch))
        else:
            mounted = stack.enter_context(loop_filesystem(options.fs, 64))
        base = mounted / "session"
        while done < options.steps:
            script = script_of(seed, min(SCRIPT, options.steps - done))
            found, mismatch = run_script(base, seed, script)
            differences += found
            if mismatch is not None:
                script = shortest(base, seed, script)
                _, mismatch = run_script(base, seed, script)
                print(f"seed {seed}: mismatch after {len(script)} steps")
                print(*script, sep="\n")
                print(mismatch)
                return 1
            done, seed = done + len(script), seed + 1
            if seed % 40 == 0:
                _report(done, seed - options.seed, started, differences)
        os.chdir("/")
    _report(done, seed - options.seed, started, differences)
    return 0


def _report(done: int, seeds: int, started: float, differences: Counter[str]) -> None:
    rate = done / (time.monotonic() - started)
    counted = ", ".join(f"{name} {count}" for name, count in sorted(differences.items()))
    print(f"{done} steps, {seeds} seeds, {rate:.0f} steps/s; differences: {counted or 'none'}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
