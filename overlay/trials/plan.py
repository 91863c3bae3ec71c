"""Which parts of the system a trial overlays, and which it shows as they are.

Every file system that is mounted and could be written is overlaid by itself, because a
union covers what is mounted below its bottom (L239).  The kernel's own views (/proc, /sys,
/dev) and read-only mounts are shown as they are.

An ordinary user's namespace gets its mounts locked together: nothing that has a mount below
it can be a bottom there (clone_private_mount() refuses locked children), and directories of
others cannot be copied up, whose owners the namespace does not know.  So there a tree is
overlaid in pieces without mounts, joined by directories that cannot be written, and the
directories on the way to where the user writes are made beforehand: *ways*.
"""

from __future__ import annotations

import os
import stat

from overlay import mountinfo, syscalls
from overlay.lighttyping import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final

__all__ = ["Piece", "Plan", "Shown", "make"]

#: Shown as they are whatever is mounted there: containers have a tmpfs with devices on /dev.
_DEVICES: Final = "/dev"
_PROCESSES: Final = "/proc"
#: Everything in it is the kernel's, though older cgroups have a tmpfs to be in.
_KERNEL: Final = "/sys"


class Piece(NamedTuple):
    """One overlay of the trial: ``path`` is its bottom and its place, ``name`` its directory
    among the tops.  For an ordinary user the root of the top gets ``mode``, and ``ways`` are
    directories below (relative) with theirs; else the root gets all that its bottom has.
    """

    path: str
    name: str
    mode: int | None = None
    ways: tuple[tuple[str, int], ...] = ()


class Shown(NamedTuple):
    """A mount, a file or a tree at ``path`` that is not overlaid, and why."""

    path: str
    why: str
    read_only: bool = False
    recursive: bool = True


class Plan:
    """A trial of the system: what is made of it, outermost first.

    ``joints`` are directories that only hold pieces together, with their modes; ``links``
    symlinks in them, with their targets.  ``names`` are those of tops that are there already,
    by the places that they belong to.
    """

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self.names = dict(names or {})
        self.pieces: list[Piece] = []
        self.shown: list[Shown] = []
        self.joints: list[tuple[str, int]] = []
        self.links: list[tuple[str, str]] = []

    def add(self, path: str, mode: int | None = None, ways: Sequence[tuple[str, int]] = ()) -> None:
        taken = {piece.name for piece in self.pieces} | set(self.names.values())
        name = wanted = path.strip("/").replace("/", "-") or "root"
        number = 1
        while name in taken:
            number += 1
            name = f"{wanted}.{number}"
        name = self.names.get(path, name)
        self.pieces.append(Piece(path, name, mode, tuple(ways)))


def make(
    *, in_pieces: bool, writes: Sequence[str] = (), names: Mapping[str, str] | None = None
) -> Plan:
    """The plan for the mounts of this process; ``names`` as in :class:`Plan`.

    ``in_pieces`` for a user namespace; ``writes`` are directories that the user is
    expected to write to then.
    """
    mounts = [entry for entry in mountinfo.read() if _visible(entry)]
    plan = Plan(names)
    overlaid = []
    as_is: list[str] = []
    for entry in mounts:
        path = entry.mount_point
        if path == _PROCESSES or _inside(path, _PROCESSES):
            continue  # a new one is mounted, for the trial's own processes
        if not _holds_data(entry):
            if not any(_inside(path, above) for above in as_is):
                plan.shown.append(Shown(path, f"{entry.fstype}, as it is"))
                as_is.append(path)
        elif entry.read_only:
            plan.shown.append(Shown(path, "read-only already", recursive=in_pieces))
        elif not os.path.isdir(path):
            plan.shown.append(Shown(path, "a file that is mounted", read_only=True))
        else:
            overlaid.append(path)
    if not in_pieces:
        for path in overlaid:
            plan.add(path)
        return plan
    below = [entry.mount_point for entry in mounts]
    for path in overlaid:
        _in_pieces(plan, path, below, [os.path.realpath(each) for each in writes])
    return plan


def _holds_data(entry: mountinfo.MountEntry) -> bool:
    if entry.mount_point == _DEVICES or _inside(entry.mount_point, _KERNEL):
        return False
    return entry.fstype not in mountinfo.KERNEL_FILESYSTEMS


def _visible(entry: mountinfo.MountEntry) -> bool:
    """Whether its path leads to this mount: it may be covered, or out of the caller's reach."""
    try:
        flags = syscalls.AT_NO_AUTOMOUNT | syscalls.AT_SYMLINK_NOFOLLOW
        return syscalls.statx(syscalls.AT_FDCWD, entry.mount_point, flags).mnt_id == entry.mount_id
    except OSError:
        return False


def _inside(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/") and path != directory


def _in_pieces(plan: Plan, path: str, mounts: Sequence[str], writes: Sequence[str]) -> None:
    """Overlay the tree at ``path`` in pieces that have no mounts below them."""
    if not any(_inside(mount, path) for mount in mounts):
        plan.add(path, _mode_for(path, os.stat(path)), _ways(path, writes))
        return
    # A directory of the user's own may be written by nobody here: it has no overlay.
    plan.joints.append((path, stat.S_IMODE(os.stat(path).st_mode) & 0o555))
    try:
        names = sorted(os.listdir(path))
    except OSError:
        return
    for name in names:
        child = os.path.join(path, name)
        if child in mounts:
            continue
        try:
            st = os.lstat(child)
        except OSError:
            continue
        if stat.S_ISLNK(st.st_mode):
            plan.links.append((child, os.readlink(child)))
        elif stat.S_ISDIR(st.st_mode):
            _in_pieces(plan, child, mounts, writes)
        else:
            why = "beside a mount, and so not in an overlay"
            plan.shown.append(Shown(child, why, read_only=stat.S_ISREG(st.st_mode)))


def _ways(piece: str, writes: Sequence[str]) -> list[tuple[str, int]]:
    """The directories of others between a piece and where the user writes, outermost first."""
    found: dict[str, int] = {}
    for goal in writes:
        if not _inside(goal, piece):
            continue
        at = piece
        for name in os.path.relpath(goal, piece).split("/"):
            at = os.path.join(at, name)
            try:
                st = os.lstat(at)
            except OSError:
                break
            if not stat.S_ISDIR(st.st_mode):
                break
            if (st.st_uid, st.st_gid) != (os.geteuid(), os.getegid()):
                found[os.path.relpath(at, piece)] = _mode_for(at, st)
    return sorted(found.items())


def _mode_for(path: str, st: os.stat_result) -> int:
    """The mode of a directory that is the user's in the trial, whoever has it outside."""
    mode = stat.S_IMODE(st.st_mode)
    if st.st_uid == os.geteuid():
        return mode
    return mode | stat.S_IRWXU if os.access(path, os.W_OK) else mode & ~0o222
