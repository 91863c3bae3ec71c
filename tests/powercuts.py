"""Power cuts: file systems that stop at once, and come back with what was on the disk."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from enum import IntEnum
from pathlib import Path

import pytest

from overlay import syscalls
from tests.fsimages import make_image, mounted_image
from tests.running import in_child

__all__ = ["Cut", "Disks", "cut_power", "while_reading"]

#: EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are one number (fs/ext4/ext4.h, fs/xfs/libxfs/xfs_fs.h).
_SHUTDOWN = 0x8004587D


class Cut(IntEnum):
    """What came to the disk before: the two ends of what a crash can leave.

    A file system may bring names and attributes to the disk whenever it likes, and data only
    when it is told; or nothing at all that it was not told to.
    """

    DATA_LOST = 1  # EXT4_GOING_FLAGS_LOGFLUSH
    ALL_LOST = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH


def cut_power(mount_point: Path, cut: Cut) -> None:
    """Stop the file system there: nothing of it reaches its disk any more."""
    fd = os.open(mount_point, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", cut))
    finally:
        os.close(fd)


def while_reading(file: Path, action: Callable[[], object], cut: Callable[[], object]) -> str:
    """What came of ``action``, in a child, with ``cut`` done when it began to read ``file``.

    The reader waits meanwhile, by a permission event of fanotify(7).
    """
    class_content, access_perm, allow = 0x4, 0x20000, 0x1  # include/uapi/linux/fanotify.h
    try:
        group = syscalls.fanotify_init(syscalls.FAN_CLOEXEC | class_content)
        syscalls.fanotify_mark(group, syscalls.FAN_MARK_ADD, access_perm, syscalls.AT_FDCWD, file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        pytest.skip("needs: fanotify with permission events")
    seen, tell = os.pipe()
    watcher = os.fork()
    if watcher == 0:
        try:
            (opened,) = struct.unpack_from("=16xi", os.read(group, 24))
            cut()
            os.write(tell, b"cut")
            os.write(group, struct.pack("=iI", opened, allow))
        finally:
            os._exit(0)  # from now on nobody waits
    os.close(tell)
    os.close(group)
    told = in_child(action)
    os.kill(watcher, signal.SIGKILL)
    os.waitpid(watcher, 0)
    with open(seen, "rb") as pipe:
        assert pipe.read() == b"cut", told
    return told


class Disks:
    """Disks by name, each with a file system of ``kind``, that can be had as they were saved."""

    def __init__(self, base: Path, kind: str, names: Sequence[str]) -> None:
        self.base = base
        self.kind = kind
        self.names = names
        for name in names:
            (base / name).mkdir()
            make_image(kind, self._image(name))

    def _image(self, name: str) -> Path:
        return self.base / f"{name}.image"

    def save(self) -> None:
        for name in self.names:
            self._copy(self._image(name), self.base / f"{name}.saved")

    def restore(self) -> None:
        for name in self.names:
            self._copy(self.base / f"{name}.saved", self._image(name))

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        target.unlink(missing_ok=True)
        subprocess.run(["cp", "--sparse=always", source, target], check=True)

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """All of them, at ``base``/NAME."""
        with ExitStack() as stack:
            for name in self.names:
                stack.enter_context(mounted_image(self.kind, self._image(name), self.base / name))
            yield

    def cut(self, cuts: Mapping[str, Cut]) -> None:
        for name, cut in cuts.items():
            cut_power(self.base / name, cut)
