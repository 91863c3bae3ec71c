"""Targets with one planted fault each: what the clauses must not let pass."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from overlay import syscalls
from overlay.spec.calls import Calls, MountedCalls
from overlay.spec.targets import OverlayfsTarget

FULL = (("metacopy", "on"), ("index", "on"))


def _bind(source: str, mnt: str) -> None:
    tree = syscalls.open_tree(syscalls.AT_FDCWD, source, syscalls.OPEN_TREE_CLONE)
    try:
        syscalls.move_mount(tree, "", syscalls.AT_FDCWD, mnt, syscalls.MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)


@dataclass(frozen=True)
class _Bound:
    """Not a union at all: some directory, bound to the mount point."""

    name: str

    def available(self) -> str | None:
        return None

    def by_hand(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> tuple[str, str]:
        return "", ""

    def unmount(self, mnt: str) -> None:
        syscalls.umount2(mnt)

    def calls(self, mnt: str) -> Calls:
        return MountedCalls(mnt)

    def features(self, mnt: str) -> frozenset[str]:
        return frozenset({"overlayfs"})  # claims every departure it can get


@dataclass(frozen=True)
class BottomItself(_Bound):
    """Lets everything through to the bottom."""

    name: str = "mutant:bottom-itself"

    def mount(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> None:
        _bind(bottoms[0], mnt)


@dataclass(frozen=True)
class PlainCopy(_Bound):
    """Shows a private copy of the bottom; the top stays empty."""

    name: str = "mutant:plain-copy"

    def mount(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> None:
        copy = mnt + ".copy"
        if not os.path.exists(copy):
            shutil.copytree(bottoms[0], copy, symlinks=True, copy_function=_copy)
        _bind(copy, mnt)


def _copy(source: str, target: str) -> str:
    if stat.S_ISREG(os.lstat(source).st_mode):
        return shutil.copy2(source, target)
    status = os.lstat(source)
    os.mknod(target, status.st_mode, status.st_rdev)
    return target


@dataclass(frozen=True)
class TopItself(_Bound):
    """Forgets the bottom."""

    name: str = "mutant:top-itself"

    def mount(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> None:
        _bind(top, mnt)


def _entries(root: str) -> Iterator[str]:
    for directory, subdirectories, files in os.walk(root):
        for name in subdirectories + files:
            yield os.path.join(directory, name)


@dataclass(frozen=True)
class _Overlay(OverlayfsTarget):
    """A real overlay, tampered with before each mount."""

    options: tuple[tuple[str, str], ...] = FULL

    @property
    def name(self) -> str:
        return f"mutant:{type(self).__name__}"

    def mount(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> None:
        self.tamper(bottoms[0], top)
        super().mount(bottoms, top, work, mnt)

    def tamper(self, bottom: str, top: str) -> None:
        """The fault."""


class Honest(_Overlay):
    """The same without a fault: what the others are compared with."""


class DropsWhiteouts(_Overlay):
    def tamper(self, bottom: str, top: str) -> None:
        for path in list(_entries(top)):
            status = os.lstat(path)
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                os.unlink(path)


class DropsOpaque(_Overlay):
    def tamper(self, bottom: str, top: str) -> None:
        for path in _entries(top):
            if "trusted.overlay.opaque" in os.listxattr(path, follow_symlinks=False):
                os.removexattr(path, "trusted.overlay.opaque")


class DropsFallthrus(_Overlay):
    def tamper(self, bottom: str, top: str) -> None:
        for path in list(_entries(top)):
            if "trusted.overlay.metacopy" in os.listxattr(path, follow_symlinks=False):
                os.unlink(path)


class TouchesBottom(_Overlay):
    def unmount(self, mnt: str) -> None:
        super().unmount(mnt)
        bottom = os.path.join(os.path.dirname(mnt).replace("-mounts", "-bottom"), "bottom")
        os.utime(bottom, ns=(1, 1))


class StaysMounted(_Overlay):
    def unmount(self, mnt: str) -> None:
        """Claims to have unmounted."""


class MountsOnce(_Overlay):
    """Works for the trial mount and never again."""

    def mount(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> None:
        if "001-mounts" not in mnt:
            raise OSError(5, "the daemon is gone")
        super().mount(bottoms, top, work, mnt)
