"""The mount API of 5.2 (fsopen and its kin), and mount(2), umount2(2), pivot_root(2)."""

from __future__ import annotations

import ctypes
import os

from overlay.lighttyping import TYPE_CHECKING
from overlay.syscalls.libc import Path, call, check, libc, word

if TYPE_CHECKING:
    from typing import Final

__all__ = [
    "FSCONFIG_CMD_CREATE",
    "FSCONFIG_CMD_RECONFIGURE",
    "FSCONFIG_SET_FD",
    "FSCONFIG_SET_FLAG",
    "FSCONFIG_SET_STRING",
    "FSMOUNT_CLOEXEC",
    "FSOPEN_CLOEXEC",
    "MNT_DETACH",
    "MNT_FORCE",
    "MOUNT_ATTR_NOATIME",
    "MOUNT_ATTR_NODEV",
    "MOUNT_ATTR_NODIRATIME",
    "MOUNT_ATTR_NOEXEC",
    "MOUNT_ATTR_NOSUID",
    "MOUNT_ATTR_RDONLY",
    "MOVE_MOUNT_F_EMPTY_PATH",
    "MOVE_MOUNT_T_EMPTY_PATH",
    "MS_PRIVATE",
    "MS_REC",
    "MS_SLAVE",
    "OPEN_TREE_CLOEXEC",
    "OPEN_TREE_CLONE",
    "OVERLAYFS_MAGIC",
    "UMOUNT_NOFOLLOW",
    "fsconfig_create",
    "fsconfig_fd",
    "fsconfig_flag",
    "fsconfig_reconfigure",
    "fsconfig_string",
    "fsmount",
    "fsopen",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pivot_root",
    "read_fs_log",
    "umount2",
]

# The new mount API (include/uapi/linux/mount.h).
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x04
MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
FSOPEN_CLOEXEC: Final = 1
FSMOUNT_CLOEXEC: Final = 1
FSCONFIG_SET_FLAG: Final = 0
FSCONFIG_SET_STRING: Final = 1
FSCONFIG_SET_FD: Final = 5
FSCONFIG_CMD_CREATE: Final = 6
FSCONFIG_CMD_RECONFIGURE: Final = 7
MOUNT_ATTR_RDONLY: Final = 0x01
MOUNT_ATTR_NOSUID: Final = 0x02
MOUNT_ATTR_NODEV: Final = 0x04
MOUNT_ATTR_NOEXEC: Final = 0x08
MOUNT_ATTR_NOATIME: Final = 0x10
MOUNT_ATTR_NODIRATIME: Final = 0x80

OVERLAYFS_MAGIC: Final = 0x794C7630  # statfs(2) f_type (include/uapi/linux/magic.h)

# mount(2), umount2(2).
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MNT_FORCE: Final = 1
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429
_NR_FSOPEN = 430
_NR_FSCONFIG = 431
_NR_FSMOUNT = 432
_NR_MOUNT_SETATTR = 442


def fsopen(fstype: str, flags: int = FSOPEN_CLOEXEC) -> int:
    """A configuration context for a new file system of ``fstype``; ENODEV if unknown."""
    return call(_NR_FSOPEN, fstype.encode(), word(flags), path=fstype)


def fsconfig_string(fs_fd: int, key: str, value: Path) -> None:
    """Set one string option; the kernel's own message is put in the error."""
    _fsconfig(fs_fd, FSCONFIG_SET_STRING, key, os.fsencode(value), 0)


def fsconfig_flag(fs_fd: int, key: str) -> None:
    """Set one option that takes no value."""
    _fsconfig(fs_fd, FSCONFIG_SET_FLAG, key, None, 0)


def fsconfig_fd(fs_fd: int, key: str, fd: int) -> None:
    """Hand a directory over by descriptor (overlay layers: since 6.13)."""
    _fsconfig(fs_fd, FSCONFIG_SET_FD, key, None, fd)


def fsconfig_create(fs_fd: int) -> None:
    """Make the super block that the options so far describe."""
    _fsconfig(fs_fd, FSCONFIG_CMD_CREATE, None, None, 0)


def fsconfig_reconfigure(fs_fd: int) -> None:
    """Apply the options so far to a mounted file system (a descriptor of fspick)."""
    _fsconfig(fs_fd, FSCONFIG_CMD_RECONFIGURE, None, None, 0)


def _fsconfig(fs_fd: int, command: int, key: str | None, value: bytes | None, aux: int) -> None:
    result = libc.syscall(
        ctypes.c_long(_NR_FSCONFIG),
        word(fs_fd),
        word(command),
        None if key is None else key.encode(),
        value,
        word(aux),
    )
    if result < 0:
        number = ctypes.get_errno()
        text = "; ".join([os.strerror(number), *read_fs_log(fs_fd)])
        raise OSError(number, text, key)


def read_fs_log(fs_fd: int) -> list[str]:
    """The messages the kernel left on a file system context, oldest first, without level.

    Each read returns one message, ``e overlay: ...`` for an error; ENODATA ends them
    (Documentation/filesystems/mount_api.rst).
    """
    messages: list[str] = []
    while True:
        try:
            message = os.read(fs_fd, 8192)
        except OSError:
            return messages
        if not message:
            return messages
        text = message.decode(errors="replace").rstrip("\n")
        messages.append(text[2:] if text[1:2] == " " else text)


def fsmount(fs_fd: int, attrs: int = 0, flags: int = FSMOUNT_CLOEXEC) -> int:
    """A detached mount of a created file system, as an O_PATH descriptor."""
    return call(_NR_FSMOUNT, word(fs_fd), word(flags), word(attrs))


def open_tree(dirfd: int, path: Path, flags: int) -> int:
    """An O_PATH descriptor on ``path``, or with OPEN_TREE_CLONE on a detached copy of its mount."""
    return call(
        _NR_OPEN_TREE, word(dirfd), os.fsencode(path), word(flags | OPEN_TREE_CLOEXEC), path=path
    )


def move_mount(from_dirfd: int, from_path: Path, to_dirfd: int, to_path: Path, flags: int) -> None:
    """Attach a detached mount, or move an attached one."""
    call(
        _NR_MOVE_MOUNT,
        word(from_dirfd),
        os.fsencode(from_path),
        word(to_dirfd),
        os.fsencode(to_path),
        word(flags),
        path=to_path,
    )


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount_setattr(
    dirfd: int,
    path: Path,
    flags: int,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
) -> None:
    """Change a mount's attributes (since 5.12); AT_RECURSIVE for the whole tree."""
    attr = _MountAttr(attr_set, attr_clr, propagation, 0)
    call(
        _NR_MOUNT_SETATTR,
        word(dirfd),
        os.fsencode(path),
        word(flags),
        ctypes.byref(attr),
        word(ctypes.sizeof(attr)),
        path=path,
    )


def mount(
    source: Path | None, target: Path, fstype: str | None, flags: int, data: bytes | None
) -> None:
    """mount(2), for propagation changes and kernels whose overlay predates the new API (< 6.5)."""
    check(
        libc.mount(
            None if source is None else os.fsencode(source),
            os.fsencode(target),
            None if fstype is None else fstype.encode(),
            ctypes.c_ulong(flags),
            data,
        ),
        target,
    )


def umount2(target: Path, flags: int = UMOUNT_NOFOLLOW) -> None:
    """Remove the topmost mount at ``target``; EBUSY while it is in use."""
    check(libc.umount2(os.fsencode(target), ctypes.c_int(flags)), target)


def pivot_root(new_root: Path, put_old: Path) -> None:
    """Make ``new_root`` the root mount and put the old one at ``put_old`` (document L272)."""
    check(libc.pivot_root(os.fsencode(new_root), os.fsencode(put_old)), new_root)
