"""Read-only snapshots of btrfs: a bottom that nothing writes to, made in an instant."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

__all__ = ["MAGIC", "is_read_only_subvolume", "snapshot"]

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


def snapshot(source_fd: int, parent_fd: int, name: bytes) -> None:
    """Make ``name`` in ``parent_fd`` a read-only snapshot of the subvolume ``source_fd``.

    OSError: EINVAL when it is no subvolume's root, EXDEV when it is on another file system.
    """
    if os.fstat(source_fd).st_ino != _SUBVOLUME_ROOT:
        raise OSError(errno.EINVAL, "not the root of a subvolume")
    if len(name) > _NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    # struct btrfs_ioctl_vol_args_v2: fd, transid, flags, 4 unused words, name.
    arguments = struct.pack("=qQQ32x4040s", source_fd, 0, _SUBVOL_RDONLY, name)
    fcntl.ioctl(parent_fd, _SNAP_CREATE_V2, arguments)
