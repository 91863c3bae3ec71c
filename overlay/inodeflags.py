"""chattr: the flags of an inode, as FS_IOC_GETFLAGS and FS_IOC_SETFLAGS know them.

An immutable or append-only file of the top would resist the engine and the kernel as
well as the caller, so overlayfs keeps these two as a mark, ``protattr`` (5.14; fs/
overlayfs/inode.c, ovl_set_protattr()), and refuses what they forbid.  So does the engine.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from typing import Final

from overlay import syscalls
from overlay.marks import clear_mark
from overlay.markvalues import NO_XATTR, MarkFamily

__all__ = [
    "APPEND",
    "IMMUTABLE",
    "copy_flags",
    "copy_unprotecting_flags",
    "get_flags",
    "inherit_flags",
    "mark_protected",
    "open_for_flags",
    "protect",
    "protected",
    "set_flags",
    "set_inode_flags",
    "withstands",
]

#: FS_*_FL of include/uapi/linux/fs.h.
SYNC: Final = 0x08
IMMUTABLE: Final = 0x10
APPEND: Final = 0x20
NOATIME: Final = 0x80

_GET: Final = 0x80086601
_SET: Final = 0x40086602
_LONG: Final = struct.Struct("l")
_LETTERS: Final = {"a": APPEND, "i": IMMUTABLE}
_PROTECTING: Final = APPEND | IMMUTABLE
#: What something new has from its directory; DIRSYNC only makes sense for another one.
_INHERITED: Final = 0x08 | 0x40 | 0x80  # SYNC, NODUMP, NOATIME
_DIRSYNC: Final = 0x10000
#: What a copyup keeps (OVL_COPY_FS_FLAGS_MASK and OVL_PROT_FS_FLAGS_MASK).
_KEPT: Final = SYNC | NOATIME
_NO_FLAGS: Final = frozenset(
    {errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EACCES, errno.EPERM}
)


def get_flags(fd: int) -> int:
    """The flags of an open file or directory; ENOTTY where the file system has none."""
    return int(_LONG.unpack(fcntl.ioctl(fd, _GET, _LONG.pack(0)))[0])


def protected(fd: int, name: bytes | None, family: MarkFamily) -> int:
    """IMMUTABLE and APPEND, as the mark of an entry of the top says."""
    try:
        value = syscalls.getxattr(fd, family.attribute("protattr"), name)
    except OSError as error:
        if error.errno in NO_XATTR:
            return 0
        raise
    found = 0
    for letter in value.decode("latin-1"):
        if letter not in _LETTERS:
            break  # what a later kernel may have added
        found |= _LETTERS[letter]
    return found


def withstands(fd: int, name: bytes | None, mode: int) -> int:
    """IMMUTABLE and APPEND, as the inode of a layer has them; ``mode`` is its st_mode.

    statx() also says so of what nobody can change anyway: erofs calls each of its files
    immutable (erofs_getattr()) without setting the flag, and overlayfs, which looks at the
    inode, copies them up.  So its word is checked by the ioctl where it says yes.
    """
    at = syscalls.AT_SYMLINK_NOFOLLOW | (0 if name else syscalls.AT_EMPTY_PATH)
    found = syscalls.statx(fd, name or b"", at)
    told = IMMUTABLE if found.attributes & syscalls.STATX_ATTR_IMMUTABLE else 0
    told |= APPEND if found.attributes & syscalls.STATX_ATTR_APPEND else 0
    if not told:
        return 0
    # chattr opens what it changes, which leads to no inode of the layer for devices,
    # and cannot be done for symlinks.
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return 0
    file = -1
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, dir_fd=fd) if name else open_for_flags(fd)
        return told & get_flags(file)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS):
            return 0  # no such flags here
        if error.errno in (errno.EACCES, errno.EPERM):
            return told  # not for us to ask
        raise
    finally:
        if file >= 0:
            os.close(file)


def set_inode_flags(fd: int, flags: int) -> None:
    """Set the flags of an open file or directory, whatever it is on."""
    fcntl.ioctl(fd, _SET, _LONG.pack(flags))


def set_flags(fd: int, flags: int, family: MarkFamily) -> None:
    """Set the flags of an open file of the top, the two protecting ones as a mark."""
    set_inode_flags(fd, flags & ~_PROTECTING)
    mark_protected(fd, flags, family)


def mark_protected(fd: int, flags: int, family: MarkFamily) -> None:
    """Keep IMMUTABLE and APPEND as overlayfs does on a top; without them, the mark goes."""
    letters = "".join(letter for letter, flag in _LETTERS.items() if flags & flag)
    if letters:
        syscalls.setxattr(fd, family.attribute("protattr"), letters.encode())
    else:
        clear_mark(fd, family, "protattr")


def copy_flags(source: int, copy: int, family: MarkFamily) -> None:
    """Give a copy what its original has of the flags that a copyup keeps."""
    protecting = copy_unprotecting_flags(source, copy)
    if protecting:
        mark_protected(copy, protecting, family)


def copy_unprotecting_flags(source: int, copy: int) -> int:
    """:func:`copy_flags` without IMMUTABLE and APPEND; which of these the original has."""
    try:
        flags = get_flags(source)
    except OSError as error:
        if error.errno in _NO_FLAGS:
            return 0
        raise
    if flags & _KEPT:
        try:
            fcntl.ioctl(copy, _SET, _LONG.pack(get_flags(copy) & ~_KEPT | flags & _KEPT))
        except OSError as error:
            if error.errno not in _NO_FLAGS:
                raise
    return flags & _PROTECTING


def protect(fd: int, flags: int) -> None:
    """Add IMMUTABLE or APPEND to what is open, itself and not as a mark."""
    file = open_for_flags(fd)
    try:
        fcntl.ioctl(file, _SET, _LONG.pack(get_flags(file) | flags & _PROTECTING))
    finally:
        os.close(file)


def inherit_flags(dirfd: int, made: int, *, is_dir: bool) -> None:
    """Give something made elsewhere the flags that it would have got in ``dirfd``.

    ``made`` is an O_PATH descriptor.  A file system may have more to hand on, which cannot
    be set by hand.
    """
    try:
        flags = get_flags(dirfd) & (_INHERITED | (_DIRSYNC if is_dir else 0))
        if flags:
            file = open_for_flags(made)
            try:
                fcntl.ioctl(file, _SET, _LONG.pack(get_flags(file) | flags))
            finally:
                os.close(file)
    except OSError as error:
        if error.errno not in _NO_FLAGS:
            raise


def open_for_flags(fd: int) -> int:
    """The file of an O_PATH descriptor, opened so that it can be asked and set."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(syscalls.fd_path(fd), flags)
