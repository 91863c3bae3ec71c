"""Overlays by the kernel's overlayfs, mounted with the new mount API: no fork, no exec.

>>> mount(Overlay(bottoms=("/usr",), top="/srv/usr-top"), "/mnt")
>>> unmount("/mnt")
"""

from __future__ import annotations

import errno
import functools
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from overlay import holding, layerargs, readonlyusers, refusals, syscalls, workdir
from overlay.errors import MountPointBusy, UsageError
from overlay.preflight import OpenLayers, open_layers
from overlay.profiles import DEFAULT, profile_named
from overlay.text import printable

__all__ = [
    "ATTRIBUTES",
    "Overlay",
    "attach",
    "mount",
    "mounted",
    "open_overlay",
    "unmount",
]

#: Attributes of a mount by their options.  Access times are not among them: an access must
#: never copy a file up, so every overlay is noatime (L234–L237, L341).
ATTRIBUTES = {
    "ro": syscalls.MOUNT_ATTR_RDONLY,
    "nosuid": syscalls.MOUNT_ATTR_NOSUID,
    "nodev": syscalls.MOUNT_ATTR_NODEV,
    "noexec": syscalls.MOUNT_ATTR_NOEXEC,
}
_LAYER_KEYS = frozenset({"lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir", "source"})


@dataclass(frozen=True, slots=True)
class Overlay:
    """One top over its bottoms (uppermost first), and how to mount them.

    ``work`` defaults to ``TOP.work``, made when missing.  ``options`` are overlayfs
    options (key, value; an empty value for a flag) that override what the profile pins.
    With ``require_read_only`` every bottom must be kept read-only by the kernel itself.
    With ``hold`` the block device of a bottom that is mounted read-only is made read-only
    for as long as an overlay relies on it.  Where there is no such device, a BPF LSM program
    does as much (:mod:`overlay.lsm`) if it is loaded already, or ``require_read_only`` or
    ``hold_lsm`` ask for it; the latter fails without.  ``index`` is a shared index of the
    bottoms (:mod:`overlay.priming.sharedindex`).  ``attributes`` are MOUNT_ATTR_* bits, besides
    noatime.
    """

    bottoms: tuple[str, ...]
    top: str
    work: str | None = None
    profile: str = DEFAULT
    options: tuple[tuple[str, str], ...] = ()
    require_read_only: bool = False
    hold: bool = True
    hold_lsm: bool = False
    index: str | None = None
    attributes: int = 0

    def effective_options(self) -> tuple[tuple[str, str], ...]:
        """What the kernel is told besides the layers: pinned options, overridden and added to."""
        chosen = {key: value for key, value, _ in profile_named(self.profile).pinned}
        for key, value in self.options:
            if key in _LAYER_KEYS:
                raise UsageError(
                    f"the option {key} names a layer",
                    hint="use --bottom, --top and --work for layers",
                )
            chosen[key] = value
        return tuple(chosen.items())

    def describe(self, mount_point: str) -> str:
        """The mount(8) command that does nearly the same, for --dry-run and bug reports."""
        lower = ":".join(layerargs.escape(path) for path in self.bottoms)
        if self.index is not None:
            data = "".join("::" + layerargs.escape(path) for path in self.bottoms)
            lower = layerargs.escape(_index_layer(self.index)) + data
        layers = (
            ("lowerdir", lower),
            ("upperdir", layerargs.escape(self.top)),
            ("workdir", layerargs.escape(self.work or workdir.beside(self.top))),
        )
        options = ["noatime", *(name for name, bit in ATTRIBUTES.items() if self.attributes & bit)]
        options += [f"{key}={value.replace(',', chr(92) + ',')}" for key, value in layers]
        options += [f"{key}={value}" if value else key for key, value in self.effective_options()]
        source = profile_named(self.profile).source
        command = ["mount", "-t", "overlay", source, "-o", ",".join(options), mount_point]
        return " ".join(_quoted(word) for word in command)


def _quoted(word: str) -> str:
    text = printable(word)
    return shlex.quote(text) if text == word else "$'" + text.replace("'", "\\'") + "'"


def open_overlay(overlay: Overlay) -> int:
    """Mount ``overlay`` detached: an O_PATH descriptor that nobody else can see.

    The overlay lives as long as the descriptor, or until :func:`attach` gives it a place.
    Raises UsageError, EnvironmentLacks, Refused or OperationFailed; then nothing is left.
    """
    profile = profile_named(overlay.profile)
    if not overlay.bottoms:
        raise UsageError("an overlay needs a bottom", hint="name one with --bottom")
    if overlay.hold_lsm and not overlay.hold:
        raise UsageError("a bottom cannot be held and not be held", hint="leave --no-hold out")
    options = overlay.effective_options()
    try:
        fs = syscalls.fsopen("overlay")
    except OSError as error:
        raise refusals.no_overlay(error) from None
    try:
        index = None if overlay.index is None else _index_layer(overlay.index)
        with open_layers(overlay.bottoms, overlay.top, overlay.work, profile, index) as layers:
            if overlay.index is not None:
                _require_fresh(overlay.index, layers)
            asked = frozenset(key for key, _ in overlay.options)
            attributes = overlay.attributes
            make = functools.partial(
                _create, fs, layers, profile.source, options, asked, attributes
            )
            if not overlay.require_read_only and not readonlyusers.any_read_only(layers):
                return make()
            with readonlyusers.relied_on(
                layers,
                enforce=overlay.hold,
                lsm=overlay.hold_lsm,
                require=overlay.require_read_only,
            ) as noted:
                return noted(make())
    finally:
        os.close(fs)


def _index_layer(index: str) -> str:
    from overlay.priming import sharedindex  # most overlays have none

    return sharedindex.layer_of(index)


def _require_fresh(index: str, layers: OpenLayers) -> None:
    from overlay.priming import sharedindex

    roots = [bottom.fd for bottom in layers.bottoms]
    sharedindex.require_fresh(index, roots, [bottom.path for bottom in layers.bottoms])


def _create(
    fs: int,
    layers: OpenLayers,
    source: str,
    options: tuple[tuple[str, str], ...],
    asked: frozenset[str],
    attributes: int,
) -> int:
    try:
        _configure(fs, layers, source, options)
        return syscalls.fsmount(fs, attributes | syscalls.MOUNT_ATTR_NOATIME)
    except OSError as error:
        raise refusals.of_layers(error, layers, asked) from error


def _configure(
    fs: int, layers: OpenLayers, source: str, options: tuple[tuple[str, str], ...]
) -> None:
    with layerargs.names(layers):
        syscalls.fsconfig_string(fs, "source", source)
        layerargs.configure(fs, layers)
        for key, value in options:
            if value:
                syscalls.fsconfig_string(fs, key, value)
            else:
                syscalls.fsconfig_flag(fs, key)
        if layers.family == "user":
            syscalls.fsconfig_flag(fs, "userxattr")
        syscalls.fsconfig_create(fs)


def attach(tree: int, mount_point: str) -> None:
    """Give a detached mount its place; MountPointBusy where there is one already."""
    try:
        syscalls.move_mount(
            tree, "", syscalls.AT_FDCWD, mount_point, syscalls.MOVE_MOUNT_F_EMPTY_PATH
        )
    except OSError as error:
        raise refusals.of_mount_point(mount_point, error) from None


def mount(overlay: Overlay, mount_point: str) -> None:
    """Mount ``overlay`` at ``mount_point``: complete and in place, or an error and nothing.

    A mount point that already has a mount is refused, except that a top may be put over
    its own bottom in place, as the document does (L138–L141, L230).
    """
    _check_mount_point(mount_point, overlay)
    tree = open_overlay(overlay)
    try:
        attach(tree, mount_point)
    finally:
        os.close(tree)


def _check_mount_point(mount_point: str, overlay: Overlay) -> None:
    try:
        place = syscalls.statx(syscalls.AT_FDCWD, mount_point, 0)
    except OSError as error:
        raise refusals.of_mount_point(mount_point, error) from None
    if not place.attributes & syscalls.STATX_ATTR_MOUNT_ROOT:
        return
    for bottom in overlay.bottoms:
        try:
            if syscalls.statx(syscalls.AT_FDCWD, bottom, 0).mnt_id == place.mnt_id:
                return
        except OSError:
            continue  # open_layers says what is wrong with it
    raise MountPointBusy(
        f"something is mounted at {printable(mount_point)} already",
        hint=f"fallthru status; or umount {printable(mount_point)} first",
        errno=errno.EBUSY,
    )


def unmount(mount_point: str, *, lazy: bool = False) -> None:
    """Remove the overlay at ``mount_point``; MountPointBusy, naming the users, while in use.

    ``lazy`` takes it out of sight now and lets it end when its last user does.
    UsageError when what is mounted there is no overlay.
    """
    _check_overlay(mount_point)
    flags = syscalls.UMOUNT_NOFOLLOW | (syscalls.MNT_DETACH if lazy else 0)
    try:
        syscalls.umount2(mount_point, flags)
    except OSError as error:
        root = os.path.realpath(mount_point)
        if error.errno == errno.EINVAL and root != os.path.abspath(mount_point):
            unmount(root, lazy=lazy)  # the path was a symlink, which umount2 does not follow
            return
        raise refusals.of_unmount(root, error) from None
    if holding.any_held():
        readonlyusers.reconcile()


def _check_overlay(mount_point: str) -> None:
    """UsageError unless what is at ``mount_point`` is an overlay; mountinfo may be long."""
    try:
        magic = syscalls.statfs_type(mount_point)
    except OSError as error:
        raise UsageError(
            f"no overlay at {printable(mount_point)}", errno=error.errno or 0
        ) from None
    if magic != syscalls.OVERLAYFS_MAGIC:
        mounted_there = os.path.ismount(mount_point)
        what = "another file system is mounted there" if mounted_there else "not a mount point"
        raise UsageError(
            f"no overlay at {printable(mount_point)}: {what}",
            hint="`fallthru status` lists the overlays",
        )


@contextmanager
def mounted(overlay: Overlay, mount_point: str) -> Iterator[str]:
    """``overlay`` at ``mount_point`` for the length of a with block; yields the mount point."""
    mount(overlay, mount_point)
    try:
        yield mount_point
    finally:
        unmount(mount_point)
