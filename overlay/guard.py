"""How read-only a bottom really is (document L256–L274).

"Simply checking that the bottom layer is read-only at the time the overlay is
mounted is pointless", since a mount can be made read-write again.  This module tells
what stands in the way of that; :mod:`overlay.readonlyusers` counts the overlays that
rely on it, and puts something in the way where nothing is.
"""

from __future__ import annotations

import enum
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from overlay import btrfs, images, lsm, mountinfo, syscalls
from overlay.errors import EnvironmentLacks, Refused
from overlay.text import printable

__all__ = [
    "IGNORE_THEIR_DEVICE",
    "BottomState",
    "Hold",
    "assess",
    "assess_open",
    "of_image",
    "require_read_only",
]

#: File systems that have no code to write at all.
READ_ONLY_FILESYSTEMS = frozenset({"squashfs", "erofs", "iso9660", "cramfs", "romfs"})

#: File systems that a block device made read-only does not keep from being remounted: btrfs
#: asks it only once (:func:`overlay.btrfs.opened_read_only`); jffs2 is on the flash below.
IGNORE_THEIR_DEVICE = frozenset({"btrfs", "jffs2"})

#: What other machines write to as well, so that nothing here can keep it (L580).
_SHARED = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs"})


class Hold(enum.Enum):
    """What keeps a bottom from changing, strongest first."""

    FORMAT = "format"  # the file system cannot be written, whatever one does
    DEVICE = "device"  # the block device is read-only: remount,rw is refused by the kernel
    LSM = "lsm"  # a BPF LSM program refuses to make it writable
    SNAPSHOT = "snapshot"  # a read-only subvolume: written by nobody, through whatever mount
    MOUNT = "mount"  # mounted read-only now; root can make it read-write again
    NONE = "none"  # mounted read-write: only discipline keeps it from changing

    @property
    def kept(self) -> bool:
        """Whether the kernel keeps it, so that mounting again does not undo it."""
        return self not in (Hold.MOUNT, Hold.NONE)

    @property
    def strength(self) -> int:
        """Larger is stronger."""
        return -list(Hold).index(self)


@dataclass(frozen=True, slots=True)
class BottomState:
    """``hold`` on the bottom at ``path``, with one sentence why.

    ``filesystem`` is the device number of its file system, as mountinfo has it; ``device``
    that of the block device it is on, if any.  ``image`` is the image or block device that
    was attached to be this bottom.
    """

    path: str
    fstype: str
    hold: Hold
    reason: str
    filesystem: tuple[int, int] | None = None
    device: tuple[int, int] | None = None
    image: str | None = None
    super_read_only: bool = False

    @property
    def numbers(self) -> set[tuple[int, int]]:
        """By which a hold on it may be known: of its file system, and of its device."""
        return {number for number in (self.filesystem, self.device) if number is not None}

    @property
    def really_read_only(self) -> bool:
        """The document's guarantee: read-only for as long as it is a bottom (L263)."""
        return self.hold.kept


def assess(
    path: str,
    entries: Iterable[mountinfo.MountEntry] | None = None,
    *,
    beneath: int | None = None,
    root: str = "",
) -> BottomState:
    """What keeps the file system at ``path`` from changing.

    ``path`` may be an image, or the name by which mountinfo shows one.  ``entries`` is a
    mountinfo already read, for callers that ask about many bottoms; ``root`` is where the
    namespace it is from has its root (``/proc/PID/root``).  ``beneath`` is the number of
    the overlay's own mount, which may cover its bottom in place (L231).
    OSError where ``path`` cannot be opened.
    """
    known = images.attached_as(path)
    if known is None and images.is_image(path):
        with images.opened(path) as image:
            return of_image(image)
    if known is not None:
        return of_image(known, path)
    fd = os.open(root + path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return assess_open(fd, path, entries, beneath=beneath)
    finally:
        os.close(fd)


def assess_open(
    fd: int,
    path: str,
    entries: Iterable[mountinfo.MountEntry] | None = None,
    *,
    beneath: int | None = None,
) -> BottomState:
    """:func:`assess` for a directory that is open, ``fd`` (may be O_PATH)."""
    mount_id = syscalls.statx(fd, "", syscalls.AT_EMPTY_PATH).mnt_id
    mounts = {entry.mount_id: entry for entry in (entries or mountinfo.read())}
    entry = mounts.get(mount_id)
    if entry is not None and beneath in mounts:
        entry = _under(mounts[beneath], entry, mounts)
    if entry is None:
        return BottomState(path, "unknown", Hold.NONE, "its mount is in another mount namespace")
    device = _block_device(entry)
    hold, reason = _hold_of(entry, device)
    # Through an overlay that covers it, the bottom's subvolume is out of reach.
    if (
        not hold.kept
        and syscalls.fstatfs_type(fd) == btrfs.MAGIC
        and (btrfs.is_read_only_subvolume(fd))
    ):
        hold, reason = Hold.SNAPSHOT, "it is in a read-only btrfs snapshot"
    return BottomState(
        path, entry.fstype, hold, reason, entry.dev, device, None, entry.super_read_only
    )


def _under(
    overlay: mountinfo.MountEntry,
    found: mountinfo.MountEntry,
    mounts: dict[int, mountinfo.MountEntry],
) -> mountinfo.MountEntry | None:
    """The mount that a bottom is on, where ``found`` may be the overlay that covers it."""
    at: mountinfo.MountEntry | None = found
    while at is not None and at.mount_point == overlay.mount_point:
        above, at = at, mounts.get(at.parent_id)
        if above is overlay:
            return at
    return found


def of_image(image: images.Image, path: str | None = None) -> BottomState:
    """The state of a bottom that was attached from ``image``; ``path`` as mountinfo shows it."""
    device = _number(f"/dev/{image.device}")
    if image.fstype in READ_ONLY_FILESYSTEMS:
        hold, reason = Hold.FORMAT, f"{image.fstype} cannot be written"
    elif device is not None and _device_is_read_only(device, image.fstype):
        hold, reason = Hold.DEVICE, f"/dev/{image.device} is a read-only block device"
    elif device is not None and (refused := lsm.refused(device)) is not None:
        hold, reason = Hold.LSM, _by_lsm(image.fstype, refused)
    else:
        hold, reason = Hold.MOUNT, f"/dev/{image.device} is mounted read-only, but can be written"
    return BottomState(
        path or image.file,
        image.fstype or "unknown",
        hold,
        reason,
        device,
        device,
        image.file,
        True,
    )


def _hold_of(entry: mountinfo.MountEntry, device: tuple[int, int] | None) -> tuple[Hold, str]:
    if entry.fstype in READ_ONLY_FILESYSTEMS:
        return Hold.FORMAT, f"{entry.fstype} cannot be written"
    if entry.super_read_only and device and _device_is_read_only(device, entry.fstype):
        return Hold.DEVICE, f"{entry.source} is a read-only block device"
    if entry.fstype in _SHARED:
        return Hold.MOUNT if entry.read_only else Hold.NONE, (
            f"{entry.fstype} is {'mounted read-only here' if entry.read_only else 'read-write'}, "
            "and its server, or another client, can change it"
        )
    if entry.super_read_only:
        refused = lsm.refused(entry.dev)
        if refused is not None:
            return Hold.LSM, _by_lsm(entry.fstype, refused)
        return Hold.MOUNT, f"{entry.fstype} is mounted read-only, but can be remounted read-write"
    if "ro" in entry.vfs_options:
        return Hold.MOUNT, f"this mount is read-only, but the {entry.fstype} below is not"
    return Hold.NONE, f"{entry.fstype} is mounted read-write"


def _by_lsm(fstype: str, refused: int) -> str:
    times = "" if not refused else ", so far once" if refused == 1 else f", so far {refused} times"
    return f"{fstype} is mounted read-only, and a BPF LSM program refuses to change that{times}"


def _block_device(entry: mountinfo.MountEntry) -> tuple[int, int] | None:
    if entry.dev[0] != 0:
        return entry.dev
    # btrfs numbers its file systems itself; the source is one of its devices.
    return _number(entry.source) if entry.source.startswith("/dev/") else None


def _number(node: str) -> tuple[int, int] | None:
    try:
        found = os.stat(node)
    except OSError:
        return None
    if not stat.S_ISBLK(found.st_mode):
        return None
    return os.major(found.st_rdev), os.minor(found.st_rdev)


def _device_is_read_only(device: tuple[int, int], fstype: str) -> bool:
    """What BLKROGET would tell, without opening the device, where that binds the file system."""
    if fstype in IGNORE_THEIR_DEVICE:
        return fstype == "btrfs" and btrfs.opened_read_only(device)
    try:
        with open(f"/sys/dev/block/{device[0]}:{device[1]}/ro", encoding="ascii") as file:
            return file.read().strip() == "1"
    except OSError:
        return False


def require_read_only(
    bottom: str | BottomState, lacking: EnvironmentLacks | None = None
) -> BottomState:
    """The bottom's state, or Refused unless the kernel itself keeps it read-only.

    ``lacking`` is why no BPF LSM program could do so.
    """
    state = assess(bottom) if isinstance(bottom, str) else bottom
    if not state.really_read_only:
        raise Refused(
            f"the bottom {printable(state.image or state.path)} may change while the overlay is "
            f"mounted: {state.reason}",
            hint="use a read-only image (`fallthru freeze` makes one), or a block device that is "
            "mounted read-only" + (f"; no BPF LSM: {lacking}" if lacking else ""),
        )
    return state
