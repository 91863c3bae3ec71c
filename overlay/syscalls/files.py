"""Files by directory and name, by handle, and what stat(2) leaves out."""

from __future__ import annotations

import ctypes
import functools
import os

from overlay.lighttyping import TYPE_CHECKING, NamedTuple
from overlay.syscalls.libc import Path, check, libc

if TYPE_CHECKING:
    from typing import Any, Final

__all__ = [
    "AT_EMPTY_PATH",
    "AT_FDCWD",
    "AT_NO_AUTOMOUNT",
    "AT_RECURSIVE",
    "AT_SYMLINK_FOLLOW",
    "AT_SYMLINK_NOFOLLOW",
    "FICLONE",
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "RENAME_WHITEOUT",
    "RESOLVE_BENEATH",
    "RESOLVE_IN_ROOT",
    "RESOLVE_NO_MAGICLINKS",
    "RESOLVE_NO_SYMLINKS",
    "RESOLVE_NO_XDEV",
    "STATX_ATTR_APPEND",
    "STATX_ATTR_IMMUTABLE",
    "STATX_ATTR_MOUNT_ROOT",
    "STATX_ATTR_VERITY",
    "STATX_BASIC_STATS",
    "STATX_BTIME",
    "STATX_MNT_ID",
    "Statx",
    "fstatfs_type",
    "name_to_handle_at",
    "open_beneath",
    "open_by_handle_at",
    "openat2",
    "renameat2",
    "statfs_type",
    "statx",
    "syncfs",
]

# Directory descriptors and *at() flags (include/uapi/linux/fcntl.h).
AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_SYMLINK_FOLLOW: Final = 0x400
AT_NO_AUTOMOUNT: Final = 0x800
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000

# openat2(2) (include/uapi/linux/openat2.h).
RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

# renameat2(2), ioctl_ficlone(2) (include/uapi/linux/fs.h).
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4
FICLONE: Final = 0x40049409

# statx(2) (include/uapi/linux/stat.h).
STATX_BASIC_STATS: Final = 0x7FF
STATX_BTIME: Final = 0x800
STATX_MNT_ID: Final = 0x1000
STATX_ATTR_IMMUTABLE: Final = 0x10
STATX_ATTR_APPEND: Final = 0x20
STATX_ATTR_MOUNT_ROOT: Final = 0x2000
STATX_ATTR_VERITY: Final = 0x100000

_NR_OPENAT2 = 437


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def openat2(dirfd: int, path: Path, flags: int, mode: int = 0, *, resolve: int = 0) -> int:
    """open(2) with rules for every component (since 5.6): ELOOP or EXDEV where one is broken."""
    how = _how(flags | os.O_CLOEXEC, mode, resolve)
    return check(_openat2(_NR_OPENAT2, dirfd, os.fsencode(path), how, _HOW_SIZE), path)


# It opens every directory of a layer, so it has a prototype of its own, which makes it
# twice as fast as arguments that are converted one by one.
_openat2 = libc["syscall"]
_openat2.restype = ctypes.c_long
_openat2.argtypes = (
    *(ctypes.c_long, ctypes.c_long, ctypes.c_char_p),
    *(ctypes.POINTER(_OpenHow), ctypes.c_size_t),
)
_HOW_SIZE = ctypes.sizeof(_OpenHow)


@functools.lru_cache(maxsize=64)
def _how(flags: int, mode: int, resolve: int) -> Any:
    return ctypes.pointer(_OpenHow(flags, mode, resolve))


def open_beneath(dirfd: int, path: Path, flags: int, mode: int = 0) -> int:
    """Open ``path`` below ``dirfd``: no symlink is followed and the tree is never left.

    This is how every file of a layer is opened, because layers are hostile.
    """
    resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    return openat2(dirfd, path, flags | os.O_NOFOLLOW, mode, resolve=resolve)


def renameat2(
    old_dirfd: int, old_name: Path, new_dirfd: int, new_name: Path, flags: int = 0
) -> None:
    """rename(2) by directory and name, with RENAME_* flags; EINVAL if a file system lacks one."""
    if not flags:
        # Without flags it is renameat(), which Python has, and calls twice as fast.
        os.rename(old_name, new_name, src_dir_fd=old_dirfd, dst_dir_fd=new_dirfd)
        return
    check(
        libc.renameat2(
            ctypes.c_int(old_dirfd),
            os.fsencode(old_name),
            ctypes.c_int(new_dirfd),
            os.fsencode(new_name),
            ctypes.c_uint(flags),
        ),
        old_name,
    )


def syncfs(fd: int) -> None:
    """Write out the file system that ``fd`` (not O_PATH) is on, after any remount of it."""
    check(libc.syncfs(ctypes.c_int(fd)))


class _StatxTimestamp(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_int64), ("tv_nsec", ctypes.c_uint32), ("pad", ctypes.c_int32))


class _Statx(ctypes.Structure):
    _fields_ = (
        ("stx_mask", ctypes.c_uint32),
        ("stx_blksize", ctypes.c_uint32),
        ("stx_attributes", ctypes.c_uint64),
        ("stx_nlink", ctypes.c_uint32),
        ("stx_uid", ctypes.c_uint32),
        ("stx_gid", ctypes.c_uint32),
        ("stx_mode", ctypes.c_uint16),
        ("pad0", ctypes.c_uint16),
        ("stx_ino", ctypes.c_uint64),
        ("stx_size", ctypes.c_uint64),
        ("stx_blocks", ctypes.c_uint64),
        ("stx_attributes_mask", ctypes.c_uint64),
        ("stx_atime", _StatxTimestamp),
        ("stx_btime", _StatxTimestamp),
        ("stx_ctime", _StatxTimestamp),
        ("stx_mtime", _StatxTimestamp),
        ("stx_rdev_major", ctypes.c_uint32),
        ("stx_rdev_minor", ctypes.c_uint32),
        ("stx_dev_major", ctypes.c_uint32),
        ("stx_dev_minor", ctypes.c_uint32),
        ("stx_mnt_id", ctypes.c_uint64),
        ("spare", ctypes.c_uint64 * 13),
    )


# A commit asks when each thing on the top was born, so it has a prototype, as openat2 has.
_statx = libc["statx"]
_statx.argtypes = (
    *(ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint),
    ctypes.POINTER(_Statx),
)
_STATX_MASK = STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID


class Statx(NamedTuple):
    """The part of statx(2) that os.stat lacks.

    ``mnt_id`` is the mount's number as in mountinfo (0 before 5.8), ``btime_ns`` the
    birth time or None, ``attributes`` the STATX_ATTR_* bits of those that the file system
    knows, ``attributes_mask``.
    """

    mnt_id: int
    attributes: int
    attributes_mask: int
    btime_ns: int | None
    dev: tuple[int, int]
    ino: int


def statx(dirfd: int, path: Path, flags: int = AT_SYMLINK_NOFOLLOW) -> Statx:
    """What only statx(2) tells of a file; AT_EMPTY_PATH with "" for the descriptor itself."""
    buffer = _Statx()
    check(_statx(dirfd, os.fsencode(path), flags, _STATX_MASK, buffer), path)
    born = buffer.stx_btime
    return Statx(
        mnt_id=buffer.stx_mnt_id if buffer.stx_mask & STATX_MNT_ID else 0,
        attributes=buffer.stx_attributes & buffer.stx_attributes_mask,
        attributes_mask=buffer.stx_attributes_mask,
        btime_ns=born.tv_sec * 10**9 + born.tv_nsec if buffer.stx_mask & STATX_BTIME else None,
        dev=(buffer.stx_dev_major, buffer.stx_dev_minor),
        ino=buffer.stx_ino,
    )


class _Statfs(ctypes.Structure):
    # struct statfs of the 64-bit architectures (x86-64, arm64, riscv64, ppc64, …).
    _fields_ = (
        ("f_type", ctypes.c_long),
        ("f_bsize", ctypes.c_long),
        ("f_blocks", ctypes.c_ulong),
        ("f_bfree", ctypes.c_ulong),
        ("f_bavail", ctypes.c_ulong),
        ("f_files", ctypes.c_ulong),
        ("f_ffree", ctypes.c_ulong),
        ("f_fsid", ctypes.c_int * 2),
        ("f_namelen", ctypes.c_long),
        ("f_frsize", ctypes.c_long),
        ("f_flags", ctypes.c_long),
        ("f_spare", ctypes.c_long * 4),
    )


def fstatfs_type(fd: int) -> int:
    """The file system's magic number (statfs(2) f_type), which os.statvfs leaves out."""
    buffer = _Statfs()
    check(libc.fstatfs(ctypes.c_int(fd), ctypes.byref(buffer)))
    return int(buffer.f_type)


def statfs_type(path: Path) -> int:
    """:func:`fstatfs_type` of what ``path`` leads to."""
    buffer = _Statfs()
    check(libc.statfs(os.fsencode(path), ctypes.byref(buffer)), path)
    return int(buffer.f_type)


_MAX_HANDLE = 128  # MAX_HANDLE_SZ (include/linux/exportfs.h)


class _FileHandle(ctypes.Structure):
    _fields_ = (
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_ubyte * _MAX_HANDLE),
    )


def name_to_handle_at(dirfd: int, path: Path = "", flags: int = AT_EMPTY_PATH) -> tuple[int, bytes]:
    """A file's handle as (type, bytes), which stays when it is renamed; EOPNOTSUPP without."""
    handle = _FileHandle(handle_bytes=_MAX_HANDLE)
    mount_id = ctypes.c_int()
    check(
        libc.name_to_handle_at(
            ctypes.c_int(dirfd),
            os.fsencode(path),
            ctypes.byref(handle),
            ctypes.byref(mount_id),
            ctypes.c_int(flags),
        ),
        path,
    )
    return handle.handle_type, bytes(handle.f_handle[: handle.handle_bytes])


def open_by_handle_at(mount_fd: int, kind: int, handle: bytes, flags: int) -> int:
    """Open the file of a handle; ESTALE when it is gone.  ``mount_fd`` is on its file system."""
    file = _FileHandle(handle_bytes=len(handle), handle_type=kind)
    ctypes.memmove(file.f_handle, handle, len(handle))
    return check(
        libc.open_by_handle_at(
            ctypes.c_int(mount_fd), ctypes.byref(file), ctypes.c_int(flags | os.O_CLOEXEC)
        )
    )
