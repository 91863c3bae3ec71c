"""Whether advice comes true: record a workload, predict, apply each advice, measure again.

A workload in a root over a bottom of known files: the owner of every file changed, some
opened and appended to, one directory rewritten.  For each advice the union is changed as it
says and the same workload runs again, in alternating order.  Of each file the copyup with
the median time of all rounds counts, before and after.  Top and bottom are file systems of
their own, in images on loop devices.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from measuring import emit

from analysis import advise, lab, stats
from analysis.load import Trace, load
from overlay.precopy import precopy

_RUN = "typical"
#: What is proven, by the bottom's file system.
_PROVEN = {"ext4": ("metacopy", "throwaway", "ahead", "volume"), "xfs": ("reflink",)}


@dataclass(frozen=True)
class Setup:
    """Where the layers of one measurement are, its profile, and what is done beforehand."""

    bottom: Path
    top: Path
    profile: str = "document"
    before: Callable[[Path], None] = lambda root: None
    after: Callable[[Path], None] = lambda root: None


def measure(setup: Setup, scratch: Path, number: int) -> Trace:
    """Run the workload once in a fresh top, traced."""
    directory = lab.record(
        scratch / f"trace-{number}",
        setup.bottom,
        setup.top,
        scratch / "root",
        profile=setup.profile,
        before=setup.before,
        after=setup.after,
    )
    trace = load(directory)
    shutil.rmtree(directory)
    return trace


def copy_ahead(first: Trace) -> Callable[[Path], None]:
    """What the advice's command does."""
    paths = [os.fsencode(path) for path in advise.paths_ahead(first)]

    def run(root: Path) -> None:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            precopy(fd, paths, jobs=2 * (os.cpu_count() or 1))
        finally:
            os.close(fd)

    return run


def bind_volume(root: Path) -> None:
    volume = root.parent / "volume"
    volume.mkdir()
    tree = root / lab.CHURN
    subprocess.run(["cp", "-a", f"{tree}/.", str(volume)], check=True)
    subprocess.run(["mount", "--bind", str(volume), str(tree)], check=True)


def unbind_volume(root: Path) -> None:
    subprocess.run(["umount", str(root / lab.CHURN)], check=True)
    shutil.rmtree(root.parent / "volume")


def seconds(trace: Trace) -> float:
    return float(stats.copyups(trace.frame)["dur"].sum().total_seconds())


def moved(trace: Trace) -> int:
    return int(stats.bytes_moved(stats.copyups(trace.frame)).sum())


def prove(kind: str, names: tuple[str, ...], scratch: Path, options: Any) -> dict[str, Any]:
    """Predicted and measured savings of the advice ``names`` for a bottom of ``kind``."""
    with (
        lab.disk(kind, scratch / "bottom", 1024) as bottom,
        lab.disk("ext4", scratch / "top", 1024) as top,
    ):
        tree = bottom / "tree"
        tree.mkdir()
        lab.populate(tree, options.files)
        base = Setup(tree, top)
        first = measure(base, scratch, 0)
        changed = {
            "metacopy": Setup(tree, top, profile="fallthru"),
            "throwaway": Setup(tree, top, profile="throwaway"),
            "reflink": Setup(tree, bottom),
            "ahead": Setup(tree, top, before=copy_ahead(first)),
            "volume": Setup(tree, top, before=bind_volume, after=unbind_volume),
        }
        before: list[Trace] = []
        after: dict[str, list[Trace]] = {name: [] for name in names}
        number = 1
        for turn in range(options.rounds):
            for name in names:
                # A B, B A, …: drift hits both alike.
                for setup in (base, changed[name])[:: 1 if turn % 2 else -1]:
                    trace = measure(setup, scratch, number)
                    (before if setup is base else after[name]).append(trace)
                    number += 1
    usual = typical(before)
    found = {}
    for name in names:
        # Depth 2: the directory that the workload rewrites.
        said = [one for one in advise.advise(usual, depth=2) if one.name == name]
        said = [one for one in said if name != "volume" or lab.CHURN in one.what]
        if not said:
            raise SystemExit(f"advise: no advice {name!r} for a workload made for it")
        now = typical(after[name])
        came = seconds(usual) - seconds(now)
        found[name] = {
            "predicted_s": said[0].time.value / 1e9,
            "measured_s": came,
            "ratio": said[0].time.value / 1e9 / came,
            "share": said[0].share,
            "predicted_bytes": said[0].bytes,
            "measured_bytes": moved(usual) - moved(now),
            "confidence": said[0].confidence,
        }
    return found


def typical(traces: list[Trace]) -> Trace:
    """Of each file the copyup that took the median time of all runs: no run is like another on a
    machine that does other things, too."""
    frame = pd.concat([stats.copyups(one.frame).assign(run=_RUN) for one in traces])
    frame = frame[frame["path"].notna()].sort_values("dur").reset_index(drop=True)
    rank = frame.groupby(frame["path"].astype(object)).cumcount()
    count = frame.groupby(frame["path"].astype(object))["dur"].transform("size")
    usual = frame[(rank == (count - 1) // 2) & (count > len(traces) // 2)].copy()
    usual["run"] = usual["run"].astype("category")
    for name in ("kind", "op", "how", "ftype", "comm", "mount"):
        usual[name] = usual[name].astype("category")
    return Trace(usual.reset_index(drop=True), (replace(traces[0].runs[0], name=_RUN),))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--advice", nargs="+", choices=sorted(sum(_PROVEN.values(), ())))
    parser.add_argument("--directory", default="/var/tmp", help="Where the images are.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fallthru-bench-", dir=options.directory) as name:
        scratch = Path(name)
        found = {}
        for kind, possible in _PROVEN.items():
            names = tuple(one for one in possible if one in (options.advice or possible))
            found |= prove(kind, names, scratch, options) if names else {}
    load_average = os.getloadavg()[0]
    lines = [
        f"{options.files} files, medians of {options.rounds} runs each, "
        f"load average {load_average:.1f}:"
    ]
    for advice, row in found.items():
        lines.append(
            f"  {advice:10} predicted {row['predicted_s']:.3f} s, measured"
            f" {row['measured_s']:.3f} s saved, ratio {row['ratio']:.2f};"
            f" {row['share']:.0%} of all;"
            f" bytes {row['predicted_bytes']:,} and {row['measured_bytes']:,}"
        )
    emit("advise", lines, {"files": options.files, "rounds": options.rounds, "advice": found})


if __name__ == "__main__":
    main()
