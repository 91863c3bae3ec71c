"""Real file systems for tests: a fresh one of any kind, on a loop device, mounted."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from overlay import syscalls
from overlay.newmount import new_mount

__all__ = [
    "IMAGE_PREFIX",
    "MKFS",
    "SHM",
    "kernel_filesystems",
    "loop_filesystem",
    "loops",
    "make_image",
    "mounted_image",
    "needs_filesystem",
    "next_tick",
    "tmpfs",
]

#: Tells this run's images from those of another run on the same machine.
IMAGE_PREFIX = f"fallthru-test-{os.getpid()}-"

#: Where images are: in memory.
SHM = Path("/dev/shm")

#: How to make each kind, and its smallest useful size in MiB.
MKFS: dict[str, tuple[list[str], int]] = {
    "ext2": (["mkfs.ext2", "-q", "-F"], 8),
    # lazy_itable_init leaves a kernel thread writing to the image after the mount.
    "ext4": (["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"], 16),
    "xfs": (["mkfs.xfs", "-q", "-m", "reflink=1"], 320),
    "btrfs": (["mkfs.btrfs", "-q"], 120),
}


def kernel_filesystems() -> set[str]:
    """The file systems this kernel knows now (a module not yet loaded does not count)."""
    lines = Path("/proc/filesystems").read_text().splitlines()
    return {line.split()[-1] for line in lines}


def needs_filesystem(kind: str) -> None:
    """Skip the calling test unless the kernel and the tools offer ``kind``."""
    if kind not in kernel_filesystems() and shutil.which("modprobe"):
        subprocess.run(["modprobe", "-q", kind], check=False)
    if kind not in kernel_filesystems():
        pytest.skip(f"needs: {kind} in the kernel")
    if kind in MKFS and shutil.which(MKFS[kind][0][0]) is None:
        pytest.skip(f"needs: {MKFS[kind][0][0]}")


def loops() -> dict[str, str]:
    """The loop devices of the machine that have an image, and which, by the kernel's account."""
    found = {}
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):  # detached between two looks, by whoever had it
            found[backing.parts[3]] = backing.read_text("utf-8", "surrogateescape").rstrip("\n")
    return found


def next_tick() -> None:
    """Wait until a change has another time than the one before: files are given the time of the
    kernel's last tick, some milliseconds of which are one."""
    coarse = 5  # CLOCK_REALTIME_COARSE, include/uapi/linux/time.h
    before = time.clock_gettime_ns(coarse)
    while time.clock_gettime_ns(coarse) == before:
        pass


@contextmanager
def tmpfs(mount_point: Path, *, options: dict[str, str] | None = None) -> Iterator[Path]:
    """A fresh tmpfs at ``mount_point``."""
    tree = new_mount("tmpfs", options=(options or {}).items())
    with _attached(tree, mount_point):
        yield mount_point


@contextmanager
def loop_filesystem(
    kind: str,
    size_mb: int = 0,
    *,
    directory: Path | None = None,
    read_only: bool = False,
    mkfs_options: tuple[str, ...] = (),
) -> Iterator[Path]:
    """A fresh file system of ``kind`` on a loop device over a sparse image, mounted.

    Yields the mount point.  The image is at least as large as ``size_mb`` and as the
    kind demands; it lives in memory (``/dev/shm``) unless ``directory`` says otherwise.
    The calling test is skipped, with the reason, where the kind cannot be had.
    """
    with tempfile.TemporaryDirectory(prefix=IMAGE_PREFIX, dir=directory or SHM) as scratch:
        image = Path(scratch, "image")
        make_image(kind, image, size_mb, mkfs_options)
        mount_point = Path(scratch, "mnt")
        mount_point.mkdir()
        with mounted_image(kind, image, mount_point, read_only=read_only):
            yield mount_point


def make_image(
    kind: str, image: Path, size_mb: int = 0, mkfs_options: tuple[str, ...] = ()
) -> None:
    """A fresh file system of ``kind`` in the sparse file ``image``; skips as loop_filesystem."""
    needs_filesystem(kind)
    command, least = MKFS[kind]
    with image.open("wb") as file:
        file.truncate(max(size_mb, least) << 20)
    subprocess.run([*command, *mkfs_options, str(image)], check=True, capture_output=True)


@contextmanager
def mounted_image(
    kind: str, image: Path, mount_point: Path, *, read_only: bool = False
) -> Iterator[None]:
    """An image at ``mount_point``, on a loop device that goes with the mount."""
    image_fd = os.open(image, os.O_RDONLY if read_only else os.O_RDWR)
    try:
        device, name = syscalls.loop_attach(image_fd, read_only=read_only)
    finally:
        os.close(image_fd)
    try:
        if not read_only:
            # A device keeps BLKROSET when it changes its image: a killed run may have left it.
            syscalls.blkroset(device, False)
        tree = new_mount(kind, name, [("ro", "")] if read_only else [])
    finally:
        os.close(device)
    with _attached(tree, mount_point):
        yield


@contextmanager
def _attached(tree: int, mount_point: Path) -> Iterator[None]:
    try:
        syscalls.move_mount(
            tree, "", syscalls.AT_FDCWD, mount_point, syscalls.MOVE_MOUNT_F_EMPTY_PATH
        )
    finally:
        os.close(tree)
    try:
        yield
    finally:
        syscalls.umount2(mount_point)
