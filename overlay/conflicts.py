"""What a new overlay would do to the mounts around it: one look at mountinfo.

"A file system can never [be] a top and a bottom layer at the same time" (L435), yet the
kernel at most warns in its log when a top is in a bottom of another overlay.  And a union
covers what is mounted below its bottoms (L239), where the document wants no mount over
read-write ones (L252).

A look costs about 10 µs for every mount of the machine, so it is the caller's choice.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from overlay import kernel, mountinfo, runstate
from overlay.errors import Refused
from overlay.text import printable

__all__ = ["Covered", "check", "mount", "open_overlay"]


@dataclass(frozen=True, slots=True)
class Covered:
    """A mount at ``mount_point``, below a bottom, that the union does not show."""

    mount_point: str
    fstype: str
    writable: bool

    @property
    def holds_data(self) -> bool:
        """Whether somebody could miss what is written there."""
        return self.writable and self.fstype not in mountinfo.KERNEL_FILESYSTEMS


def check(
    bottoms: Sequence[str],
    top: str,
    *,
    allow_submounts: bool = False,
    entries: Sequence[mountinfo.MountEntry] | None = None,
) -> list[Covered]:
    """The mounts that a union of these layers would cover; Refused where it would do harm.

    Refused: the top is, holds or lies in a bottom of a live overlay, or a bottom is, holds
    or lies in a live overlay's top; and, unless ``allow_submounts``, a read-write file
    system with data is mounted below a bottom.  A bottom of ``/`` is exempt from the
    latter: there always is one.  Layers that are images or missing are left out.
    """
    entries = mountinfo.read() if entries is None else entries
    live = mountinfo.overlays(entries)
    for overlay in live:
        for bottom in (*overlay.bottoms, *overlay.data_bottoms):
            _keep_apart("top", top, "a bottom", bottom, overlay)
        if overlay.top is not None:
            for bottom in bottoms:
                _keep_apart("bottom", bottom, "the top", overlay.top, overlay)
    covered = []
    for bottom in bottoms:
        below = list(_below(bottom, entries))
        covered += below
        held = [mount for mount in below if mount.holds_data]
        if held and not allow_submounts and os.path.realpath(bottom) != "/":
            names = ", ".join(f"{printable(each.mount_point)} ({each.fstype})" for each in held)
            raise Refused(
                f"the union would cover what is mounted read-write below the bottom "
                f"{printable(bottom)}: {names}",
                hint="unmount it, or accept an empty directory there with --allow-submounts",
            )
    return covered


def mount(
    overlay: kernel.Overlay, mount_point: str, *, allow_submounts: bool = False
) -> list[Covered]:
    """:func:`check`, then :func:`overlay.kernel.mount`, with no other such mount in between."""
    with runstate.locked("mounts"):
        covered = check(overlay.bottoms, overlay.top, allow_submounts=allow_submounts)
        kernel.mount(overlay, mount_point)
    return covered


def open_overlay(overlay: kernel.Overlay, *, allow_submounts: bool = False) -> int:
    """:func:`check`, then :func:`overlay.kernel.open_overlay`, for a root of its own."""
    with runstate.locked("mounts"):
        check(overlay.bottoms, overlay.top, allow_submounts=allow_submounts)
        return kernel.open_overlay(overlay)


def _keep_apart(
    role: str, mine: str, other_role: str, other: str, overlay: mountinfo.OverlayMount
) -> None:
    how = _overlap(mine, other)
    if how is not None:
        raise Refused(
            f"the {role} {printable(mine)} {how} {printable(other)}, {other_role} of the overlay "
            f"at {printable(overlay.mount_point)}",
            hint="a file system is never top and bottom at once; unmount that overlay first, "
            "or copy the tree",
        )


def _overlap(mine: str, other: str) -> str | None:
    """How two directory trees overlap, through whatever bind mounts they are named."""
    here, there = _ancestry(mine), _ancestry(other)
    if not here or not there:
        return None  # an image, gone, or named relative to a directory nobody knows
    if here[0] == there[0]:
        return "is"
    if there[0] in here:
        return "lies in"
    if here[0] in there:
        return "contains"
    return None


def _ancestry(path: str) -> list[tuple[int, int]]:
    """(device, inode) of a directory and of those above it on the same file system."""
    if not os.path.isabs(path) and not os.path.exists(path):
        return []
    at = os.path.realpath(path)
    found: list[tuple[int, int]] = []
    try:
        if not os.path.isdir(at):
            return []
        while True:
            st = os.stat(at)
            # A union covers what is mounted below its layers, so it is not in them.
            if found and st.st_dev != found[0][0]:
                return found
            found.append((st.st_dev, st.st_ino))
            if at == "/":
                return found
            at = os.path.dirname(at)
    except OSError:
        return []


def _below(bottom: str, entries: Iterable[mountinfo.MountEntry]) -> Iterator[Covered]:
    inside = os.path.realpath(bottom).rstrip("/") + "/"
    for entry in entries:
        if entry.mount_point.startswith(inside) and entry.mount_point != "/":
            yield Covered(entry.mount_point, entry.fstype, not entry.read_only)
