"""How read-only a bottom really is (document L256–L274).

"Simply checking that the bottom layer is read-only at the time the overlay is
mounted is pointless", since a mount can be made read-write again.  This module
tells what stands in the way of that; counting the overlays that rely on it, and
standing in the way where nothing else does, builds on the same interface.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass

from overlay import mountinfo, syscalls
from overlay.errors import Refused
from overlay.text import printable

__all__ = ["BottomState", "Hold", "assess", "require_read_only"]

#: File systems that have no code to write at all.
READ_ONLY_FILESYSTEMS = frozenset({"squashfs", "erofs", "iso9660", "cramfs", "romfs"})


class Hold(enum.Enum):
    """What keeps a bottom from changing, strongest first."""

    FORMAT = "format"  # the file system cannot be written, whatever one does
    DEVICE = "device"  # the block device is read-only: remount,rw is refused by the kernel
    MOUNT = "mount"  # mounted read-only now; root can make it read-write again
    NONE = "none"  # mounted read-write: only discipline keeps it from changing


@dataclass(frozen=True, slots=True)
class BottomState:
    """``hold`` on the bottom at ``path``, with one sentence why."""

    path: str
    fstype: str
    hold: Hold
    reason: str

    @property
    def really_read_only(self) -> bool:
        """The document's guarantee: read-only for as long as it is a bottom (L263–L264)."""
        return self.hold in (Hold.FORMAT, Hold.DEVICE)


def assess(path: str, entries: list[mountinfo.MountEntry] | None = None) -> BottomState:
    """What keeps the file system at ``path`` from changing.

    ``entries`` is a mountinfo already read, for callers that ask about many bottoms.
    OSError where ``path`` cannot be opened.
    """
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount_id = syscalls.statx(fd, "", syscalls.AT_EMPTY_PATH).mnt_id
    finally:
        os.close(fd)
    for entry in mountinfo.read() if entries is None else entries:
        if entry.mount_id == mount_id:
            hold, reason = _hold_of(entry)
            return BottomState(path, entry.fstype, hold, reason)
    return BottomState(path, "unknown", Hold.NONE, "its mount is in another mount namespace")


def _hold_of(entry: mountinfo.MountEntry) -> tuple[Hold, str]:
    if entry.fstype in READ_ONLY_FILESYSTEMS:
        return Hold.FORMAT, f"{entry.fstype} cannot be written"
    if entry.super_read_only and _device_is_read_only(entry.dev):
        return Hold.DEVICE, f"{entry.source} is a read-only block device"
    if entry.super_read_only:
        return Hold.MOUNT, f"{entry.fstype} is mounted read-only, but can be remounted read-write"
    if "ro" in entry.vfs_options:
        return Hold.MOUNT, f"this mount is read-only, but the {entry.fstype} below is not"
    return Hold.NONE, f"{entry.fstype} is mounted read-write"


def _device_is_read_only(device: tuple[int, int]) -> bool:
    """What BLKROGET would tell, without opening the device; False for what has none (tmpfs)."""
    try:
        with open(f"/sys/dev/block/{device[0]}:{device[1]}/ro", encoding="ascii") as file:
            return file.read().strip() == "1"
    except OSError:
        return False


def require_read_only(bottom: str) -> BottomState:
    """The bottom's state, or Refused unless the kernel itself keeps it read-only."""
    state = assess(bottom)
    if not state.really_read_only:
        raise Refused(
            f"the bottom {printable(bottom)} may change while the overlay is mounted: "
            f"{state.reason}",
            hint="use a read-only image (squashfs, erofs), or a block device after "
            "`blockdev --setro`",
        )
    return state
