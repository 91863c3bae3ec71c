"""When priming pays: lookups and readdirs, as ratios to a merged directory.

One ext4 on a loop device holds all layers.  Cold means that it was just mounted anew:
no name and no inode is cached, while the device's blocks are.  What is timed is the
caller's CPU time, which is all the time there is on an idle machine, as nothing waits for
a disk.  Ten bottoms share the entries evenly.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from measuring import emit

from overlay import kernel, syscalls
from overlay.kernel import Overlay
from overlay.newmount import new_mount
from overlay.priming import sharedindex
from overlay.priming.prime import prime
from overlay.priming.unprime import undo

BASE = "merged"

#: The peers of priming: calls in a loop.
EMPTY, STUBS = BY_HAND = ("empty files, by hand", "stubs, by hand")

Action = Callable[[int, list[str]], object]


@dataclass(frozen=True)
class Case:
    """One way to see the directory: an overlay's layers, or with no top a bottom alone."""

    bottoms: int
    top: str | None = None
    index: str | None = None


CASES = {
    "bottom alone": Case(1),
    "merged": Case(1, "merged"),
    "primed": Case(1, "primed"),
    "primed, exact inodes": Case(1, "exact"),
    "shared index": Case(1, "shared", "meta1"),
    "shared image": Case(1, "image", "meta1.erofs"),
    "merged, 10 bottoms": Case(10, "merged10"),
    "primed, 10 bottoms": Case(10, "primed10"),
    "shared index, 10 bottoms": Case(10, "shared10", "meta10"),
}


# ---------------------------------------------------------------------- what is measured


def stat_all(fd: int, names: list[str]) -> None:
    for name in names:
        os.stat(name, dir_fd=fd, follow_symlinks=False)


def stat_missing(fd: int, names: list[str]) -> None:
    for name in names:
        try:
            os.stat(name + "-no", dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            continue


def stat_new_missing(fd: int, names: list[str]) -> None:
    stat_missing(fd, [name + "-new" for name in names])


def read(fd: int, _names: list[str]) -> list[str]:
    # Opened anew: overlayfs keeps what it merged as long as a reader has it open.
    mine = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
    try:
        return os.listdir(mine)
    finally:
        os.close(mine)


def list_long(fd: int, names: list[str]) -> None:
    stat_all(fd, read(fd, names))


#: Name, what is done in a cold file system before the clock starts, what is timed.
OPERATIONS: dict[str, tuple[Action | None, Action]] = {
    "stat existing, cold": (None, stat_all),
    "stat existing, warm": (stat_all, stat_all),
    "stat missing, cold": (None, stat_missing),
    "new missing names": (stat_missing, stat_new_missing),
    "readdir, cold": (None, read),
    "readdir, warm": (read, read),
    "ls -l, cold": (None, list_long),
}


# ---------------------------------------------------------------------------- the layers


class Disk:
    """An ext4 in an image; mounted at ``path`` by :meth:`mounted`."""

    def __init__(self, base: Path, entries: int, directory: str) -> None:
        self.directory = directory
        self.path = base / "disk"
        self.path.mkdir()
        self.union = base / "union"
        self.union.mkdir()
        self.image = base / "image"
        with self.image.open("wb") as file:
            file.truncate((64 << 20) + entries * 16384)
        command = ["mkfs.ext4", "-q", "-F", "-i", "2048"]
        command += ["-E", "lazy_itable_init=0,lazy_journal_init=0", str(self.image)]
        subprocess.run(command, check=True)
        image = os.open(self.image, os.O_RDWR)
        # As long as the device is open, its blocks stay cached.
        self.device, self.name = syscalls.loop_attach(image, read_only=False)
        os.close(image)

    def close(self) -> None:
        os.close(self.device)

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        tree = new_mount("ext4", self.name)
        flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH
        syscalls.move_mount(tree, "", syscalls.AT_FDCWD, self.path, flags)
        os.close(tree)
        try:
            yield self.path
        finally:
            syscalls.umount2(self.path)

    @contextmanager
    def seen(self, case: Case) -> Iterator[int]:
        """The directory as ``case`` shows it, everything cold."""
        with self.mounted() as disk:
            if case.top is None:
                with opened(disk / "b1-0" / self.directory) as fd:
                    yield fd
                return
            index = None if case.index is None else str(disk / case.index)
            overlay = Overlay(
                bottoms_of(disk, case), str(disk / case.top), profile="fallthru", index=index
            )
            with (
                kernel.mounted(overlay, str(self.union)),
                opened(self.union / self.directory) as fd,
            ):
                yield fd


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def bottoms_of(disk: Path, case: Case) -> tuple[str, ...]:
    return tuple(str(disk / f"b{case.bottoms}-{number}") for number in range(case.bottoms))


def populate(disk: Path, where: str, entries: int) -> list[str]:
    names = [f"f{number:06d}" for number in range(entries)]
    for count in (1, 10):
        for number in range(count):
            directory = disk / f"b{count}-{number}" / where
            directory.mkdir(parents=True)
            with opened(directory) as fd:
                for name in names[number::count]:
                    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))
    return names


def prepare(disk: Path, where: str, entries: int) -> dict[str, dict[str, float]]:
    """Make the tops and indexes; what each cost, an entry."""
    costs = {}
    for name, case in CASES.items():
        bottoms = bottoms_of(disk, case)
        if case.top is None:
            continue
        top = disk / case.top
        top.mkdir()
        if case.top.startswith("merged"):
            (top / where).mkdir(parents=True)
            continue
        before, began, cpu = used(disk), time.perf_counter(), cpu_seconds()
        if case.index is not None:
            sharedindex.build(str(disk / case.index), bottoms)
        else:
            prime(str(top), bottoms, [where], exact_inodes=case.top == "exact")
        seconds, cpu = time.perf_counter() - began, cpu_seconds() - cpu
        after = used(disk)
        costs[name] = {
            "us": seconds / entries * 1e6,
            "cpu_us": cpu / entries * 1e6,
            "bytes": (after[0] - before[0]) / entries,
            "inodes": (after[1] - before[1]) / entries,
        }
    top, bottoms = disk / "undone", bottoms_of(disk, CASES["primed"])
    top.mkdir()
    prime(str(top), bottoms, [where])
    began, cpu = time.perf_counter(), cpu_seconds()
    undo(str(top), bottoms, recursive=True)
    seconds, cpu = time.perf_counter() - began, cpu_seconds() - cpu
    costs["undo"] = {"us": seconds / entries * 1e6, "cpu_us": cpu / entries * 1e6}
    return costs | {name: by_hand(disk, where, entries, name) for name in BY_HAND}


def by_hand(disk: Path, where: str, entries: int, what: str) -> dict[str, float]:
    """What the least calls cost on one core, an entry: for empty files, for stubs."""
    directory = disk / what / where
    directory.mkdir(parents=True)
    times = (1_000_000_000, 1_000_000_000)
    before, began, cpu = used(disk), time.perf_counter(), cpu_seconds()
    with opened(directory) as at:
        for number in range(entries):
            name = f"f{number:06d}"
            fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644, dir_fd=at)
            if what == STUBS:
                os.truncate(fd, 1)
                os.setxattr(fd, "trusted.overlay.metacopy", b"")
                os.setxattr(fd, "trusted.overlay.redirect", f"/{where}/{name}".encode())
                os.utime(fd, ns=times)
            os.close(fd)
    seconds, cpu = time.perf_counter() - began, cpu_seconds() - cpu
    after = used(disk)
    return {
        "us": seconds / entries * 1e6,
        "cpu_us": cpu / entries * 1e6,
        "bytes": (after[0] - before[0]) / entries,
        "inodes": (after[1] - before[1]) / entries,
    }


def cpu_seconds() -> float:
    """CPU time of this process and of its helpers that have ended."""
    return sum(os.times()[:4])


def used(disk: Path) -> tuple[int, int]:
    """Bytes and inodes in use, when all is written."""
    os.sync()
    info = os.statvfs(disk)
    return (info.f_blocks - info.f_bfree) * info.f_frsize, info.f_files - info.f_ffree


def measure(disk: Disk, names: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds by operation and case, taking turns."""
    random.Random(7).shuffle(names)
    seconds: dict[str, dict[str, list[float]]] = {
        operation: {case: [] for case in CASES} for operation in OPERATIONS
    }
    for _ in range(rounds):
        for operation, (warmup, action) in OPERATIONS.items():
            for name, case in CASES.items():
                with disk.seen(case) as fd:
                    if warmup is not None:
                        warmup(fd, names)
                    began = time.thread_time()
                    action(fd, names)
                    seconds[operation][name].append(time.thread_time() - began)
    return {
        operation: {name: statistics.median(values) for name, values in cases.items()}
        for operation, cases in seconds.items()
    }


def table(rows: dict[str, dict[str, float]], entries: int) -> list[str]:
    """One line a case, one column an operation; ``us`` is the merged directory's, an entry."""
    width = max(map(len, CASES)) + 1
    labels = list(rows)
    lines = [" " * width + "  ".join(label.rjust(19) for label in labels)]
    for case in CASES:
        ratios = [f"{rows[label][case] / rows[label][BASE]:.2f}" for label in labels]
        lines.append(case.ljust(width) + "  ".join(ratio.rjust(19) for ratio in ratios))
    base = [f"{rows[label][BASE] / entries * 1e6:.2f}" for label in labels]
    return [*lines, "merged, µs an entry".ljust(width) + "  ".join(each.rjust(19) for each in base)]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--directory", default="srv/d", help="the directory's path in the union")
    parser.add_argument("--where", default="/dev/shm", help="where the image goes")
    arguments = parser.parse_args(argv)
    entries: int = arguments.entries
    with tempfile.TemporaryDirectory(prefix="fallthru-bench-", dir=arguments.where) as scratch:
        disk = Disk(Path(scratch), entries, arguments.directory)
        try:
            with disk.mounted() as path:
                names = populate(path, arguments.directory, entries)
                costs = prepare(path, arguments.directory, entries)
            seconds = measure(disk, names, arguments.rounds)
        finally:
            disk.close()
    lines = [
        f"{entries} entries on ext4, ratios to a merged directory's time (medians of "
        f"{arguments.rounds}):",
        *table(seconds, entries),
        "",
        "what it costs to make, an entry:",
        *(
            f"{name:28}{cost['us']:8.1f} µs{cost['cpu_us']:8.1f} µs of CPU"
            + (f"{cost['bytes']:8.0f} bytes{cost['inodes']:6.2f} inodes" if "bytes" in cost else "")
            for name, cost in costs.items()
        ),
    ]
    primed = costs["primed"]
    lines += [
        f"primed: {primed['us'] / costs[name]['us']:.2f} of the time, "
        f"{primed['cpu_us'] / costs[name]['cpu_us']:.2f} of the CPU time of {name}"
        for name in BY_HAND
    ]
    ratios = {
        operation: {name: value / cases[BASE] for name, value in cases.items()}
        for operation, cases in seconds.items()
    }
    emit(
        "prime",
        lines,
        {
            "entries": entries,
            "directory": arguments.directory,
            "seconds": seconds,
            "ratios": ratios,
            "cost": costs,
        },
    )


if __name__ == "__main__":
    main()
