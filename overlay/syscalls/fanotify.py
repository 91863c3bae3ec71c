"""Events about files: fanotify(7)."""

from __future__ import annotations

import ctypes
import os

from overlay.lighttyping import TYPE_CHECKING
from overlay.syscalls.libc import Path, check, libc

if TYPE_CHECKING:
    from typing import Final

__all__ = [
    "FAN_ATTRIB",
    "FAN_CLOEXEC",
    "FAN_CREATE",
    "FAN_DELETE",
    "FAN_MARK_ADD",
    "FAN_MARK_FILESYSTEM",
    "FAN_MODIFY",
    "FAN_MOVED_FROM",
    "FAN_MOVED_TO",
    "FAN_NONBLOCK",
    "FAN_ONDIR",
    "FAN_Q_OVERFLOW",
    "FAN_REPORT_DFID_NAME",
    "fanotify_init",
    "fanotify_mark",
]

# include/uapi/linux/fanotify.h
FAN_CLOEXEC: Final = 0x1
FAN_NONBLOCK: Final = 0x2
FAN_REPORT_DFID_NAME: Final = 0xC00
FAN_MARK_ADD: Final = 0x1
FAN_MARK_FILESYSTEM: Final = 0x100
FAN_MODIFY: Final = 0x2
FAN_ATTRIB: Final = 0x4
FAN_MOVED_FROM: Final = 0x40
FAN_MOVED_TO: Final = 0x80
FAN_CREATE: Final = 0x100
FAN_DELETE: Final = 0x200
FAN_Q_OVERFLOW: Final = 0x4000
FAN_ONDIR: Final = 0x40000000


def fanotify_init(flags: int, event_flags: int = os.O_RDONLY) -> int:
    """A group that receives events about files (reported by directory and name: since 5.9)."""
    return check(libc.fanotify_init(ctypes.c_uint(flags), ctypes.c_uint(event_flags)))


def fanotify_mark(group: int, flags: int, mask: int, dirfd: int, path: Path) -> None:
    """Ask for events about a file, or with FAN_MARK_FILESYSTEM its whole file system."""
    check(
        libc.fanotify_mark(
            ctypes.c_int(group),
            ctypes.c_uint(flags),
            ctypes.c_uint64(mask),
            ctypes.c_int(dirfd),
            os.fsencode(path),
        ),
        path,
    )
