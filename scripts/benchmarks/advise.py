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
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from measuring import emit

from analysis import advise, stats
from analysis.load import Trace, load
from overlay import kernel, syscalls
from overlay.kernel import Overlay
from tracer.session import Session
from tracer.tracefile import TraceWriter

_MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
}
_VOLUME = "var/log"
_RUN = "typical"


@contextmanager
def disk(kind: str, where: Path, mib: int) -> Iterator[Path]:
    """A fresh file system at ``where``, in an image beside it."""
    image = where.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(mib << 20)
    subprocess.run([*_MKFS[kind], str(image)], check=True)
    backing = os.open(image, os.O_RDWR)
    device, name = syscalls.loop_attach(backing, read_only=False)
    os.close(backing)
    where.mkdir()
    try:
        fs = syscalls.fsopen(kind)
        syscalls.fsconfig_string(fs, "source", name)
        syscalls.fsconfig_create(fs)
        tree = syscalls.fsmount(fs)
        os.close(fs)
        flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH
        syscalls.move_mount(tree, "", syscalls.AT_FDCWD, where, flags)
        os.close(tree)
        try:
            yield where
        finally:
            syscalls.umount2(where)
    finally:
        os.close(device)
        image.unlink()
        where.rmdir()


def populate(bottom: Path, files: int) -> None:
    dice = random.Random(1009)
    directories = ("etc/app", "srv/www", "usr/share", _VOLUME, _VOLUME)
    for number in range(files):
        size = min(int(dice.lognormvariate(9.5, 1.8)), 4 << 20)
        file = bottom / directories[number % 5] / f"f{number:05}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(dice.randbytes(size))


def workload(root: Path) -> None:
    """chown of two fifths of the files, an append to one, a log directory rewritten."""
    for directory in ("etc/app", "srv/www"):
        for file in sorted((root / directory).iterdir()):
            os.chown(file, 1, 1)
    for file in sorted((root / "usr/share").iterdir()):
        with file.open("ab") as appended:
            appended.write(b"appended")
    for file in sorted((root / _VOLUME).iterdir()):
        with file.open("r+b") as rewritten:
            rewritten.write(b"rewritten")


@dataclass(frozen=True)
class Setup:
    """Where the layers of one measurement are, its profile, and what is done beforehand."""

    bottom: Path
    top: Path
    profile: str = "document"
    before: Callable[[Path, Path], None] | None = None
    after: Callable[[Path], None] | None = None


def measure(setup: Setup, scratch: Path, number: int) -> Trace:
    """Run the workload once in a fresh top, traced."""
    top = setup.top / f"top-{number}"
    root, directory = scratch / "root", scratch / f"trace-{number}"
    top.mkdir()
    root.mkdir(exist_ok=True)
    overlay = Overlay(bottoms=(str(setup.bottom),), top=str(top), profile=setup.profile)
    with kernel.mounted(overlay, str(root)):
        try:
            if setup.before is not None:
                setup.before(root, scratch)
            os.sync()  # the dirty pages of the run before are not this one's cost
            with Session(mounts=[root]) as session:
                workload(root)
        finally:
            if setup.after is not None:
                setup.after(root)
    TraceWriter(str(directory)).write(session.table(), session.metadata())
    shutil.rmtree(top)
    shutil.rmtree(f"{top}.work", ignore_errors=True)
    trace = load(directory)
    shutil.rmtree(directory)
    return trace


def copy_ahead(first: Trace) -> Callable[[Path, Path], None]:
    """What the advice's command does: open each file for writing, and write nothing."""
    paths = advise.paths_ahead(first)

    def run(root: Path, _scratch: Path) -> None:
        listed = "\0".join(paths) + "\0"
        script = ["xargs", "-0", "-n", "1", "sh", "-c", ': >> ".$1"', "sh"]
        subprocess.run(script, input=listed.encode(), cwd=root, check=True)

    return run


def bind_volume(root: Path, scratch: Path) -> None:
    volume = scratch / "volume"
    volume.mkdir()
    tree = root / _VOLUME
    subprocess.run(["cp", "-a", f"{tree}/.", str(volume)], check=True)
    subprocess.run(["mount", "--bind", str(volume), str(tree)], check=True)


def unbind_volume(root: Path) -> None:
    subprocess.run(["umount", str(root / _VOLUME)], check=True)
    shutil.rmtree(root.parent / "volume")


def seconds(trace: Trace) -> float:
    return float(stats.copyups(trace.frame)["dur"].sum().total_seconds())


def moved(trace: Trace) -> int:
    return int(stats.bytes_moved(stats.copyups(trace.frame)).sum())


def prove(kind: str, names: tuple[str, ...], scratch: Path, options: Any) -> dict[str, Any]:
    """Predicted and measured savings of the advice ``names`` for a bottom of ``kind``."""
    with disk(kind, scratch / "bottom", 1024) as bottom, disk("ext4", scratch / "top", 1024) as top:
        tree = bottom / "tree"
        tree.mkdir()
        populate(tree, options.files)
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
        said = [one for one in said if name != "volume" or _VOLUME in one.what]
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
    parser.add_argument("--directory", default="/var/tmp", help="Where the images are.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fallthru-bench-", dir=options.directory) as name:
        scratch = Path(name)
        names = ("metacopy", "throwaway", "ahead", "volume")
        found = prove("ext4", names, scratch, options)
        found |= prove("xfs", ("reflink",), scratch, options)
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
