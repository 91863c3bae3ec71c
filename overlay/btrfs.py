"""What holds a btrfs: read-only snapshots, made in an instant, and devices opened read-only."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import struct
from typing import Final

__all__ = ["MAGIC", "is_read_only_subvolume", "opened_read_only", "snapshot"]

#: statfs(2) f_type.
MAGIC: Final = 0x9123683E

# include/uapi/linux/btrfs.h and btrfs_tree.h.
_SUBVOLUME_ROOT: Final = 256  # BTRFS_FIRST_FREE_OBJECTID: the inode of every subvolume's root
_SUBVOL_GETFLAGS: Final = 0x80089419
_SNAP_CREATE_V2: Final = 0x50009417
_SUBVOL_RDONLY: Final = 1 << 1
_NAME_MAX: Final = 4039


def is_read_only_subvolume(fd: int) -> bool:
    """Whether the directory ``fd`` (may be O_PATH) is in a read-only subvolume or snapshot."""
    at = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    try:
        # Only a subvolume's root tells; every directory has a way up to it.
        while os.fstat(at).st_ino != _SUBVOLUME_ROOT:
            above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
            at, below = above, at
            here, there = os.fstat(below), os.fstat(at)
            os.close(below)
            if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                return False  # a bind mount of something inside: its subvolume is out of reach
        answer = fcntl.ioctl(at, _SUBVOL_GETFLAGS, bytes(8))
        return bool(struct.unpack("=Q", answer)[0] & _SUBVOL_RDONLY)
    except OSError:
        return False
    finally:
        os.close(at)


def opened_read_only(device: tuple[int, int]) -> bool:
    """Whether the mounted btrfs on ``device`` can write to none of its devices.

    It asks once, when it opens them: a device made read-only later does not stop btrfs from
    being remounted read-write, and then even from writing (seen on 6.18).
    """
    try:
        name = os.path.basename(os.readlink(f"/sys/dev/block/{device[0]}:{device[1]}"))
        for found in glob.glob(f"/sys/fs/btrfs/*/devices/{glob.escape(name)}"):
            states = glob.glob(os.path.join(os.path.dirname(found), "../devinfo/*/writeable"))
            return bool(states) and all(_reads_zero(state) for state in states)
    except OSError:
        pass
    return False


def _reads_zero(path: str) -> bool:
    with open(path, encoding="ascii") as file:
        return file.read().strip() == "0"


def snapshot(source_fd: int, parent_fd: int, name: bytes) -> None:
    """Make ``name`` in ``parent_fd`` a read-only snapshot of the subvolume ``source_fd``.

    OSError: EINVAL when it is no subvolume's root, EXDEV when it is on another file system.
    """
    if os.fstat(source_fd).st_ino != _SUBVOLUME_ROOT:
        raise OSError(errno.EINVAL, "not the root of a subvolume")
    if len(name) > _NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    # struct btrfs_ioctl_vol_args_v2: fd, transid, flags, 4 unused words, name.
    arguments = bytearray(struct.pack("=qQQ32x4040s", source_fd, 0, _SUBVOL_RDONLY, name))
    fcntl.ioctl(parent_fd, _SNAP_CREATE_V2, arguments)
