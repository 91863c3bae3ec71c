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
from overlay.spec.fuzz.case import Case
from overlay.spec.fuzz.session import Found
from overlay.spec.fuzz.shrink import shrink
from overlay.spec.fuzz.steps import SWAP, Step
from tests.fsimages import MKFS, loop_filesystem, tmpfs
from tests.overlay.model import Model, Unannounced, case_of

__all__ = ["main", "numbered", "run_case"]

SCRIPT = 250
SHRINKING = 120.0  # seconds


def numbered(seed: int, length: int) -> Case:
    """The case of one seed: half have directory copyup, a third links in the bottoms."""
    choose = random.Random(-seed - 1).choice
    steps = [Step.draw(choose) for _ in range(length)]
    steps.insert(length * 2 // 3, SWAP)
    return case_of(
        random.Random(seed).choice,
        (*steps, SWAP),
        directory_copyup=bool(seed % 2),
        links=seed % 3 == 2,
    )


def run_case(base: Path, case: Case) -> tuple[Counter[str], Found | None]:
    """Run one case on fresh layers: (differences counted, what is not announced)."""
    base.mkdir()
    model = Model(base, case)
    try:
        model.open()
        for step in case.steps:
            model.run(step)
    except Unannounced as unannounced:
        return model.counts, unannounced.found
    finally:
        model.close()
        shutil.rmtree(base)
    return model.counts, None


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
            length = min(SCRIPT, options.steps - done)
            case = numbered(seed, length)
            counted, found = run_case(base, case)
            differences += counted
            if found is not None:
                _show(base, seed, case, found)
                return 1
            done, seed = done + length, seed + 1
            if seed % 40 == 0:
                _report(done, seed - options.seed, started, differences)
        os.chdir("/")
    _report(done, seed - options.seed, started, differences)
    return 0


def _show(base: Path, seed: int, case: Case, found: Found) -> None:
    def shows(candidate: Case) -> bool:
        again = run_case(base, candidate)[1]
        return again is not None and again.signature == found.signature

    case = shrink(case, shows, SHRINKING)
    print(f"seed {seed}: a difference after {len(case.steps)} steps")
    print(*case.bottoms, *(f"{step.user}: {step}" for step in case.steps), sep="\n")
    print(run_case(base, case)[1])


def _report(done: int, seeds: int, started: float, differences: Counter[str]) -> None:
    rate = done / (time.monotonic() - started)
    counted = ", ".join(f"{name} {count}" for name, count in sorted(differences.items()))
    print(f"{done} steps, {seeds} seeds, {rate:.0f} steps/s; announced: {counted or 'nothing'}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
