"""Experiments: file systems in images, a workload that copies up, and its recording.

What the benchmarks and the notebooks have in common.  Everything is made below a scratch
directory and gone afterwards.  Needs root.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from overlay import kernel, syscalls
from overlay.kernel import Overlay
from overlay.newmount import new_mount
from tracer.session import Session
from tracer.tracefile import TraceWriter

__all__ = [
    "CHURN",
    "can_record",
    "disk",
    "lacking",
    "populate",
    "record",
    "timed",
    "used",
    "workload",
]

_MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "-q"],
}
#: The directory that :func:`workload` rewrites.
CHURN = "var/log"


def lacking(*kinds: str) -> list[str]:
    """What this machine lacks for experiments with these kinds of file systems."""
    if os.geteuid() != 0:
        return ["root"]
    with open("/proc/filesystems", encoding="ascii") as file:
        known = {line.split()[-1] for line in file}
    return [one for one in kinds if one not in known or shutil.which(_MKFS[one][0]) is None]


def can_record() -> bool:
    """Whether copyups can be traced here."""
    from tracer import doctor

    return os.geteuid() == 0 and all(one.ok for one in doctor.checks() if one.required)


@contextmanager
def disk(kind: str, where: Path, mib: int, image: Path | None = None) -> Iterator[Path]:
    """A file system at ``where``: a fresh one, or the one in ``image``, which is kept."""
    own = where.with_suffix(".image")
    if image is None:
        with own.open("wb") as file:
            file.truncate(mib << 20)
        subprocess.run([*_MKFS[kind], str(own)], check=True, stdout=subprocess.DEVNULL)
    backing = os.open(image or own, os.O_RDWR)
    device, name = syscalls.loop_attach(backing, read_only=False)
    os.close(backing)
    where.mkdir()
    try:
        tree = new_mount(kind, name)
        syscalls.move_mount(tree, "", syscalls.AT_FDCWD, where, syscalls.MOVE_MOUNT_F_EMPTY_PATH)
        os.close(tree)
        try:
            yield where
        finally:
            syscalls.umount2(where)
    finally:
        os.close(device)
        where.rmdir()
        if image is None:
            own.unlink()


def used(place: Path) -> int:
    """Bytes in use on the file system at ``place``, when all is written."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        syscalls.syncfs(fd)
    finally:
        os.close(fd)
    told = os.statvfs(place)
    return (told.f_blocks - told.f_bfree) * told.f_frsize


def timed(action: Callable[[], object]) -> float:
    """Seconds that ``action`` takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def populate(bottom: Path, files: int, seed: int = 1009) -> None:
    """Known files below ``bottom``, most of them small, two fifths in :data:`CHURN`."""
    dice = random.Random(seed)
    directories = ("etc/app", "srv/www", "usr/share", CHURN, CHURN)
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
    for file in sorted((root / CHURN).iterdir()):
        with file.open("r+b") as rewritten:
            rewritten.write(b"rewritten")


def record(
    directory: Path,
    bottom: Path,
    place: Path,
    root: Path,
    *,
    profile: str = "document",
    before: Callable[[Path], object] = lambda root: None,
    after: Callable[[Path], object] = lambda root: None,
) -> Path:
    """Trace :func:`workload` in a union of ``bottom`` and a fresh top in ``place``, at ``root``.

    ``before`` and ``after`` are done in the union, untraced.  Returns ``directory``, the trace.
    """
    top = place / f"top-{directory.name}"
    top.mkdir()
    root.mkdir(exist_ok=True)
    overlay = Overlay(bottoms=(str(bottom),), top=str(top), profile=profile)
    with kernel.mounted(overlay, str(root)):
        try:
            before(root)
            os.sync()  # the dirty pages of whatever was before are not this run's cost
            with Session(mounts=[root]) as session:
                workload(root)
        finally:
            after(root)
    TraceWriter(str(directory)).write(session.table(), session.metadata())
    shutil.rmtree(top)
    shutil.rmtree(f"{top}.work", ignore_errors=True)
    return directory
