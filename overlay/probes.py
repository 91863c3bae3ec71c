"""What the file system under a directory can do, found by trying.

Every probe takes a directory's descriptor (O_PATH will do), costs some microseconds,
can be asked alone, and leaves nothing behind.  Nothing is concluded from versions; a
file system's name is for messages only, with one exception that says why.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from overlay import syscalls
from overlay.marks import temporary_name
from overlay.markvalues import MarkFamily

__all__ = [
    "LayerCapabilities",
    "capabilities",
    "fs_name",
    "has_d_type",
    "has_reflink",
    "has_rename_exchange",
    "has_rename_whiteout",
    "has_tmpfile",
    "has_whiteout_device",
    "has_xattrs",
    "is_read_only",
    "top_shortcomings",
]

#: statfs(2) f_type (include/uapi/linux/magic.h); ext2 and ext3 share ext4's.
_MAGIC: Final = {
    0x01021994: "tmpfs",
    0x0000EF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0xF2F52010: "f2fs",
    0x794C7630: "overlay",
    0x73717368: "squashfs",
    0xE0F5E1E2: "erofs",
    0x00009660: "iso9660",
    0x00004D44: "vfat",
    0x2011BAB0: "exfat",
    0x65735546: "fuse",
    0x00006969: "nfs",
    0x01021997: "9p",
    0x6A656A63: "virtiofs",
    0x000072B6: "jffs2",
    0x2FC12FC1: "zfs",
    0xCA451A4E: "bcachefs",
    0x858458F6: "ramfs",
    0x62656570: "configfs",
    0x00009FA0: "proc",
    0x62656572: "sysfs",
}

#: Always made device nodes, exchanged names, and has a type in every directory entry.
#: Trying would cost each mount some changes of the disk; here the answer can't be another.
_KNOWN_GOOD: Final = frozenset({"tmpfs", "btrfs"})
_MAKES_DEVICES: Final = _KNOWN_GOOD | {"ext4", "xfs"}

_READABLE: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class LayerCapabilities:
    """What can be done in a directory.  On a read-only file system only reading was tried."""

    fs: str
    read_only: bool
    trusted_xattrs: bool
    user_xattrs: bool
    whiteout_device: bool
    d_type: bool
    tmpfile: bool
    reflink: bool
    rename_whiteout: bool
    rename_exchange: bool


def capabilities(dirfd: int) -> LayerCapabilities:
    """Everything that can be asked about the file system under a directory."""
    read_only = is_read_only(dirfd)

    def tried(probe: Callable[[int], bool]) -> bool:
        return not read_only and probe(dirfd)

    return LayerCapabilities(
        fs=fs_name(dirfd),
        read_only=read_only,
        trusted_xattrs=has_xattrs(dirfd, MarkFamily.TRUSTED),
        user_xattrs=has_xattrs(dirfd, MarkFamily.USER),
        whiteout_device=tried(has_whiteout_device),
        d_type=has_d_type(dirfd),
        tmpfile=tried(has_tmpfile),
        reflink=tried(has_reflink),
        rename_whiteout=tried(has_rename_whiteout),
        rename_exchange=tried(has_rename_exchange),
    )


def top_shortcomings(top_fd: int, family: str) -> list[str]:
    """What keeps a directory from being a top, in words; empty if nothing does.

    Meant for every mount, so nothing is written where the answer can be read.
    """
    name = fs_name(top_fd)
    missing = []
    if not has_xattrs(top_fd, MarkFamily(family)):
        missing.append(f"{family}.* extended attributes")
    if name not in _MAKES_DEVICES and not has_whiteout_device(top_fd):
        missing.append("whiteouts (character device 0/0)")
    if not _surely_exchanges(top_fd, name) and not has_rename_exchange(top_fd):
        # overlayfs mounts without it, and then cannot remove a directory of the bottom.
        missing.append("exchanging two names (RENAME_EXCHANGE)")
    # ext4 and xfs can be made without: mkfs decided.
    if name not in _KNOWN_GOOD and not has_d_type(top_fd):
        missing.append("file types in directory entries (d_type)")
    return missing


def _surely_exchanges(fd: int, name: str) -> bool:
    if name != "ext4":
        return name in _MAKES_DEVICES
    # The ext2 driver, whose magic number is the same, cannot, and has never heard of verity.
    known = syscalls.statx(fd, "", syscalls.AT_EMPTY_PATH).attributes_mask
    return bool(known & syscalls.STATX_ATTR_VERITY)


def fs_name(dirfd: int) -> str:
    """The file system's name, or its magic number in hexadecimal."""
    magic = syscalls.fstatfs_type(dirfd) & 0xFFFFFFFF
    return _MAGIC.get(magic, f"{magic:#x}")


def is_read_only(dirfd: int) -> bool:
    """Whether the file system, or the mount the descriptor came through, is read-only."""
    return bool(os.fstatvfs(dirfd).f_flag & os.ST_RDONLY)


def has_xattrs(dirfd: int, family: MarkFamily) -> bool:
    """Whether files have extended attributes of this family here.

    Asked by reading: "no such attribute" comes from a file system that could have it.
    Whether the caller may write them (``trusted.`` takes CAP_SYS_ADMIN) is not asked.
    """
    try:
        syscalls.getxattr(dirfd, family.attribute("opaque"))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return False
        if error.errno != errno.ENODATA:
            raise
    return True


def has_whiteout_device(dirfd: int) -> bool:
    """Whether a character device 0/0 can be made (since 5.8 that takes no privilege)."""
    with _scratch(dirfd) as (fd, name):
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=fd)
        except OSError:
            return False
        return True


def has_tmpfile(dirfd: int) -> bool:
    """Whether a file can be made without a name (O_TMPFILE): how copyup stays unseen."""
    try:
        os.close(_tmpfile(dirfd))
    except OSError:
        return False
    return True


def has_reflink(dirfd: int) -> bool:
    """Whether a file's data can be shared with another's (FICLONE)."""
    try:
        source = _tmpfile(dirfd)
    except OSError:
        return False
    try:
        target = _tmpfile(dirfd)
        try:
            # Nothing to share is enough: who can't do it refuses before looking.
            fcntl.ioctl(target, syscalls.FICLONE, source)
        except OSError:
            return False
        finally:
            os.close(target)
    finally:
        os.close(source)
    return True


def has_rename_whiteout(dirfd: int) -> bool:
    """Whether a rename can leave a whiteout behind in the same step (RENAME_WHITEOUT)."""
    with _scratch(dirfd) as (fd, name):
        moved = temporary_name()
        try:
            os.mknod(name, stat.S_IFREG | 0o600, 0, dir_fd=fd)
            syscalls.renameat2(fd, name, fd, moved, syscalls.RENAME_WHITEOUT)
        except OSError:
            return False
        os.unlink(moved, dir_fd=fd)
        return True


def has_rename_exchange(dirfd: int) -> bool:
    """Whether a rename can exchange two names in one step (RENAME_EXCHANGE)."""
    with _scratch(dirfd) as (fd, one), _scratch(dirfd) as (_, other):
        try:
            for name in (one, other):
                os.mknod(name, stat.S_IFREG | 0o600, 0, dir_fd=fd)
            syscalls.renameat2(fd, one, fd, other, syscalls.RENAME_EXCHANGE)
        except OSError:
            return False
        return True


def has_d_type(dirfd: int) -> bool:
    """Whether directory entries tell their type, without which overlayfs shows whiteouts.

    Asked of an entry that exists, here or beside the directory; else one is made.
    """
    known = _first_entry_has_type(dirfd, b".")
    if known is None and _same_device(dirfd, b".."):
        known = _first_entry_has_type(dirfd, b"..")
    if known is None and not is_read_only(dirfd):
        try:
            with _scratch(dirfd) as (fd, name):
                os.mkdir(name, 0o700, dir_fd=fd)
                known = _first_entry_has_type(fd, b".")
        except OSError:
            return False
    return bool(known)


def _first_entry_has_type(dirfd: int, name: bytes) -> bool | None:
    """Whether readdir gives a type; None where there is nothing to read or no permission."""
    try:
        fd = os.open(name, _READABLE, dir_fd=dirfd)
    except PermissionError:
        return None
    with os.scandir(fd) as found:
        entry = next(found, None)
        # An entry without a type is asked for by stat below this descriptor: which fails
        # once it is an O_PATH of no directory, and an entry with a type needs none.
        nowhere = os.open("/proc/self/exe", os.O_PATH | os.O_CLOEXEC)
        os.dup2(nowhere, fd, inheritable=False)
        os.close(nowhere)
        try:
            if entry is None:
                return None
            entry.is_dir(follow_symlinks=False)
        except OSError:
            return False
        else:
            return True
        finally:
            os.close(fd)


def _same_device(dirfd: int, name: bytes) -> bool:
    return os.stat(name, dir_fd=dirfd).st_dev == os.fstat(dirfd).st_dev


def _tmpfile(dirfd: int) -> int:
    return os.open(b".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=dirfd)


@contextmanager
def _scratch(dirfd: int) -> Iterator[tuple[int, bytes]]:
    """A name to make something at, below ``dirfd``; what was made there is removed."""
    name = temporary_name()
    try:
        yield dirfd, name
    finally:
        try:
            os.unlink(name, dir_fd=dirfd)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=dirfd)
        except (FileNotFoundError, PermissionError):
            pass
