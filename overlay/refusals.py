"""The kernel's refusals in words: what is wrong, who is in the way, what to do.

An errno of the mount API says little ("Device or resource busy"), and overlayfs puts
most of its reasons into the kernel log only.  Here each refusal becomes the error
class, with its exit code, that the cause deserves.
"""

from __future__ import annotations

import errno
import os

from overlay import mountinfo, owners, syscalls
from overlay.errors import (
    EnvironmentLacks,
    FallthruError,
    MountPointBusy,
    NoPrivilege,
    OperationFailed,
    Refused,
    TopInUse,
    UsageError,
)
from overlay.preflight import OpenLayers
from overlay.text import printable

__all__ = ["no_overlay", "of_layers", "of_mount_point", "of_unmount"]


def no_overlay(error: OSError) -> FallthruError:
    """Why overlayfs cannot even be opened for configuration."""
    number = error.errno or 0
    if number == errno.ENODEV:
        return EnvironmentLacks(
            "this kernel has no overlayfs", hint="modprobe overlay", errno=number
        )
    if number == errno.EPERM:
        return NoPrivilege(
            "mounting an overlay needs privilege",
            hint="run as root, or as root of a user namespace: unshare -rm fallthru ...",
            errno=number,
        )
    return OperationFailed("overlayfs cannot be configured", errno=number)


def of_layers(error: OSError, layers: OpenLayers, asked: frozenset[str]) -> FallthruError:
    """Why the kernel makes no overlay of these layers; ``asked``: the options of the user."""
    number = error.errno or 0
    top = printable(layers.top.path)
    if number == errno.EBUSY:
        return _in_use(layers)
    if number == errno.ESTALE:
        return Refused(
            f"the top {top} was made for other bottoms than these",
            hint="mount it over its own bottoms, or start an empty top",
            errno=number,
        )
    if number == errno.ELOOP:
        return UsageError(
            "the layers overlap, or one is used twice",
            hint="layers must be separate directory trees",
        )
    said = error.strerror or ""
    if error.filename in asked:
        return UsageError(f"overlayfs does not take the option {error.filename}: {said}")
    if number == errno.EINVAL and os.path.isdir(
        f"/proc/self/fd/{layers.work.fd}/work/incompat/volatile"
    ):
        return Refused(
            f"the top {top} was used by the throwaway profile and may be incomplete",
            hint="delete the top and its work directory; what must be kept needs another profile",
            errno=number,
        )
    if number == errno.EINVAL and layers.index is not None:
        # Since 6.5 "ovl: introduce data-only lower layers"; before 6.16 "ovl: relax
        # redirect/metacopy requirements for lower -> data redirect" with metacopy only.
        return EnvironmentLacks(
            f"this kernel's overlayfs does not take data-only bottoms with these options: {said}",
            hint="try --profile fallthru, or mount without --index",
            errno=number,
        )
    if number == errno.EPERM:
        return NoPrivilege(f"the kernel refused the overlay: {said}", errno=number)
    stacked = [
        each
        for each in layers.bottoms
        if syscalls.fstatfs_type(each.fd) == syscalls.OVERLAYFS_MAGIC
    ]
    if number == errno.EINVAL and stacked:
        return UsageError(
            f"the bottom {printable(stacked[0].path)} is an overlay over an overlay, and overlayfs "
            f"stacks two at most: {said}",
            hint="name the layers of that overlay as bottoms, instead of its mount point",
        )
    return OperationFailed(
        f"the kernel refused the overlay: {said}",
        hint="its log may say more: dmesg | grep overlayfs",
        errno=number,
    )


def _in_use(layers: OpenLayers) -> FallthruError:
    """Which layer is in use, and by whom: overlayfs locks tops and work directories."""
    for directory in (layers.top, layers.work):
        found = owners.overlay_using(directory.path)
        if found is not None:
            in_use = TopInUse(
                f"the {directory.role} {printable(directory.path)} is in use by the overlay at "
                f"{_place(*found)}",
                hint=f"a top serves one overlay: {_freed(*found)}",
                errno=errno.EBUSY,
            )
            in_use.work = found[0].work
            return in_use
    for bottom in layers.bottoms:
        found = None if bottom.image else owners.overlay_using(bottom.path)
        if found is not None:
            return Refused(
                f"the bottom {printable(bottom.path)} is the top of the overlay at "
                f"{_place(*found)}",
                hint="a file system is never top and bottom at once; `fallthru freeze` a copy",
                errno=errno.EBUSY,
            )
    return TopInUse(
        f"the top {printable(layers.top.path)} is in use by an overlay that cannot be seen "
        "from here",
        hint="it may be a detached mount, or one that was lazily unmounted and is still open",
        errno=errno.EBUSY,
    )


def _freed(overlay: mountinfo.OverlayMount, process: owners.Process | None) -> str:
    """What ends it; what is mounted elsewhere cannot be unmounted from here."""
    if process is None:
        return f"fallthru umount {printable(overlay.mount_point)}"
    return f"it ends with that process and others in its mount namespace: kill {process.pid}"


def _place(mount: mountinfo.OverlayMount, process: owners.Process | None) -> str:
    where = "" if process is None else f" in the mount namespace of {process}"
    return f"{printable(mount.mount_point)}{where}"


def of_mount_point(mount_point: str, error: OSError) -> FallthruError:
    """Why nothing can be mounted at ``mount_point``."""
    number = error.errno or 0
    shown = printable(mount_point)
    if number == errno.ENOENT:
        return UsageError(
            f"the mount point {shown} does not exist", hint=f"mkdir {shown}", errno=number
        )
    if number == errno.ENOTDIR:
        return UsageError(f"the mount point {shown} is not a directory", errno=number)
    if number in (errno.EPERM, errno.EACCES):
        return NoPrivilege(f"nothing may be mounted at {shown}", hint="run as root", errno=number)
    return OperationFailed(f"nothing can be mounted at {shown}", errno=number)


def of_unmount(root: str, error: OSError) -> FallthruError:
    """Why the overlay at ``root`` stays: when busy, what is mounted in it or who uses it."""
    number = error.errno or 0
    shown = printable(root)
    if number == errno.EPERM:
        return NoPrivilege("unmounting needs privilege", hint="run as root", errno=number)
    if number == errno.EINVAL:
        return UsageError(
            f"no overlay at {shown}: it lies in one", hint="`fallthru status` lists the overlays"
        )
    if number != errno.EBUSY:
        return OperationFailed(f"{shown} cannot be unmounted", errno=number)
    inside = root.rstrip("/") + "/"
    below = [entry for entry in mountinfo.read() if entry.mount_point.startswith(inside)]
    if below:
        cause = f"{printable(below[-1].mount_point)} is mounted in it"
    else:
        users = [str(process) for process in owners.processes_using(os.stat(root).st_dev)]
        cause = "used by " + ", ".join(users[:5]) if users else "it is in use"
        cause += f" and {len(users) - 5} more" if len(users) > 5 else ""
    return MountPointBusy(
        f"{shown} is busy: {cause}",
        hint="end what uses it, or detach it now with --lazy",
        errno=errno.EBUSY,
    )
