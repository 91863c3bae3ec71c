"""What ``mount -t fallthru`` does: a request from mount(8) carried out.

The document mounts in two steps: the bottom read-only in the usual manner, then the top
"with the '-o union' option at the same mountpoint" (L229–L230).  The second step is
``mount -t fallthru -o union TOP MOUNTPOINT`` here, with a directory as the top.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace

from overlay import conflicts, images, kernel, mountinfo, syscalls
from overlay.errors import MountPointBusy, NoPrivilege, OperationFailed, Refused, UsageError
from overlay.mountoptions import Request
from overlay.profiles import DEFAULT, SOURCE_PREFIX, profile_named
from overlay.text import printable

__all__ = ["complete", "is_mounted", "mount", "remount"]

#: Sources that say nothing: an overlay has no device.
_NO_SOURCE = frozenset({"", "none", "overlay", "fallthru"})


def complete(request: Request, source: str, mount_point: str) -> Request:
    """The request with its layers known; UsageError if one is missing."""
    overlay = _of_source(request.overlay, source)
    if request.union:
        if overlay.bottoms:
            raise UsageError(
                "with the option union, what is mounted at the mount point is the bottom",
                hint="leave out bottom=, or leave out union",
            )
        top = overlay.top or ("" if source in _NO_SOURCE else source)
        if top and not os.path.isdir(top):
            raise UsageError(
                f"the top {printable(top)} is not a directory",
                hint="mount its file system elsewhere, and name a directory in it as the top",
                errno=errno.ENOTDIR,
            )
        overlay = replace(overlay, top=top, bottoms=(mount_point,))
    if not overlay.bottoms or not overlay.top:
        missing = "top" if overlay.bottoms else "bottom"
        raise UsageError(
            f"the option {missing}= is missing",
            hint="mount -t fallthru -o bottom=DIR,top=DIR none MOUNTPOINT",
        )
    return replace(request, overlay=overlay)


def _of_source(overlay: kernel.Overlay, source: str) -> kernel.Overlay:
    """A source as it will be in mountinfo, which tells ``mount -a`` what is mounted already."""
    if not source.startswith(SOURCE_PREFIX):
        return overlay
    profile = profile_named(source.removeprefix(SOURCE_PREFIX)).name
    if overlay.profile not in (DEFAULT, profile):
        raise UsageError(
            f"the source says {source}, the options profile={overlay.profile}", hint="say one"
        )
    return replace(overlay, profile=profile)


def _require_read_only(mount_point: str) -> None:
    try:
        system = os.statvfs(mount_point)
    except OSError as error:
        raise UsageError(
            f"the mount point {printable(mount_point)} cannot be opened", errno=error.errno or 0
        ) from None
    if not system.f_flag & os.ST_RDONLY:
        raise Refused(
            f"the bottom, what is mounted at {printable(mount_point)}, is not read-only",
            hint="mount it read-only first: mount -o ro DEVICE "
            f"{printable(mount_point)}; or name it with bottom= instead of union",
        )


def is_mounted(request: Request, mount_point: str) -> bool:
    """Whether what a complete request asks for is there, as for the second ``mount -a``.

    mount(8) itself compares source and mount point.  The source of an overlay is its profile,
    so what a line says in its options, or as the top of two steps, is compared here.
    """
    try:
        there = mountinfo.overlay_at(mount_point)
    except UsageError:
        return False
    asked = request.overlay
    return (
        there.source == profile_named(asked.profile).source
        and _same(asked.top, there.top)
        and (asked.work is None or _same(asked.work, there.work))
        and _same_bottoms(asked, there)
    )


def mount(request: Request, mount_point: str) -> list[conflicts.Covered]:
    """Mount a complete request; the mounts that the union covers.

    Besides the errors of :func:`overlay.kernel.mount`, Refused for a writable bottom in two
    steps (the bottom layer must be read-only, L232).
    """
    if request.union:
        _require_read_only(mount_point)
    return conflicts.mount(request.overlay, mount_point, allow_submounts=request.allow_submounts)


def remount(request: Request, mount_point: str) -> None:
    """Change ``ro``, ``nosuid``, ``nodev`` and ``noexec`` of the overlay at ``mount_point``.

    What is not asked for is off afterwards, as in mount(2).  Layers and what a profile pins
    stay as they were made: UsageError where others are named, as by a changed fstab line.
    """
    mounted = mountinfo.overlay_at(mount_point)
    asked = request.overlay
    named = {"top": (asked.top, mounted.top), "work directory": (asked.work, mounted.work)}
    for role, (wanted, there) in named.items():
        if wanted and not _same(wanted, there):
            raise _cannot_change(role, mount_point)
    # In two steps no bottom is named: it has the overlay's own path.
    if asked.bottoms and not _same_bottoms(asked, mounted):
        raise _cannot_change("bottoms", mount_point)
    wanted_bits = asked.attributes
    try:
        syscalls.mount_setattr(
            syscalls.AT_FDCWD,
            mount_point,
            0,
            attr_set=wanted_bits,
            attr_clr=sum(kernel.ATTRIBUTES.values()) & ~wanted_bits,
        )
    except OSError as error:
        number = error.errno or 0
        if number == errno.EBUSY:
            raise MountPointBusy(
                f"{printable(mount_point)} has files open for writing",
                hint="end what writes there (fuser -vm), then remount read-only",
                errno=number,
            ) from None
        if number == errno.EPERM:
            raise NoPrivilege(
                f"{printable(mount_point)} may not be remounted", hint="run as root", errno=number
            ) from None
        raise OperationFailed(
            f"{printable(mount_point)} cannot be remounted", errno=number
        ) from None


def _same_bottoms(asked: kernel.Overlay, there: mountinfo.OverlayMount) -> bool:
    wanted, recorded = asked.bottoms, (*there.bottoms, *there.data_bottoms)
    if asked.index is not None:
        from overlay.priming import sharedindex  # most overlays have none

        wanted = (sharedindex.layer_of(asked.index), *wanted)
    return len(wanted) == len(recorded) and all(map(_same, wanted, map(_file_of, recorded)))


def _file_of(recorded: str) -> str:
    """The image that a bottom was attached from, or its directory."""
    image = images.attached_as(recorded)
    return recorded if image is None else image.file


def _same(path: str, recorded: str | None) -> bool:
    if recorded is None:
        return False
    if os.path.realpath(path) == recorded:
        return True
    try:
        return os.path.samefile(path, recorded)
    except OSError:
        return False


def _cannot_change(role: str, mount_point: str) -> UsageError:
    return UsageError(
        f"a remount cannot change the {role} of {printable(mount_point)}",
        hint="umount it, and mount it with the other layers",
    )
