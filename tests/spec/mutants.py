"""Targets with one planted fault each: what the clauses, and fuzzing, must not let pass."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from overlay import syscalls
from overlay.spec.calls import Calls, MountedCalls
from overlay.spec.targets import CommandTarget, OverlayfsTarget

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


# ------------------------------------------------------------- faults of the copyup itself


class _Tampering(MountedCalls):
    """Calls on a mount where root's copyups of a file go wrong."""

    def __init__(self, mnt: str, top: str, spoil: Callable[[str], None]) -> None:
        super().__init__(mnt)
        self._mnt, self._top, self._spoil = mnt, top, spoil

    def spoiling(self, call: Callable[..., Any], path: Any, *rest: Any, **options: Any) -> Any:
        on_top = os.path.join(self._top, path)
        before = os.path.lexists(on_top)
        existed = os.path.isfile(os.path.join(self._mnt, path))
        result = call(path, *rest, **options)
        if existed and not before and os.path.isfile(on_top) and os.geteuid() == 0:
            self._spoil(os.path.join(self._mnt, path))
        return result

    def open(self, path: Any, flags: int, mode: int = 0o666) -> int:
        return int(self.spoiling(super().open, path, flags, mode))

    def truncate(self, path: Any, size: int) -> None:
        self.spoiling(super().truncate, path, size)

    def chown(self, path: Any, uid: int, gid: int, *, follow: bool = True) -> None:
        self.spoiling(super().chown, path, uid, gid, follow=follow)


@dataclass(frozen=True)
class _Spoiler(_Overlay):
    """A mount whose copyup has a fault.  Its top is what lies beside ``mnt`` by its name."""

    def calls(self, mnt: str) -> Calls:
        top = os.path.join(os.path.dirname(mnt).replace("-mounts", "-top"), "top")
        return self.faulty(mnt, top)

    def faulty(self, mnt: str, top: str) -> Calls:
        return _Tampering(mnt, top, self.spoil)

    def spoil(self, path: str) -> None:
        """The fault."""


class ForgetsMode(_Spoiler):
    def spoil(self, path: str) -> None:
        os.chmod(path, 0o640)


class LosesXattr(_Spoiler):
    def spoil(self, path: str) -> None:
        for name in os.listxattr(path):
            if name in ("user.x", "trusted.x"):
                os.removexattr(path, name)


class TruncatesWrongly(_Spoiler):
    """Copies the file up for truncate(), and leaves it as long as it was."""

    def faulty(self, mnt: str, top: str) -> Calls:
        class Calls(_Tampering):
            def truncate(self, path: Any, size: int) -> None:
                here = os.path.join(mnt, path)
                if os.path.isfile(here) and not os.path.lexists(os.path.join(top, path)):
                    size = max(size, os.stat(here).st_size)
                super().truncate(path, size)

        return Calls(mnt, top, self.spoil)


#: What a mount helper does to bottom ($1) and top ($2) before it mounts an overlay.
HELPERS = {
    "honest": "",
    "drops-whiteouts": 'find "$2" -type c -delete',
    "drops-opaque": 'find "$2" -type d -exec setfattr -x trusted.overlay.opaque {} + 2>/dev/null',
    # Brings the bottom's files up to date with the top's.
    "writes-to-bottom": 'cd "$2"; find . -type f | while read -r file; do\n'
    '  [ -f "$1/$file" ] && cat "$file" >"$1/$file"\ndone',
}


def helper(fault: str) -> CommandTarget:
    """A mount command with one of the faults above."""
    mount = 'exec mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4"'
    text = f"{HELPERS[fault]}\n{mount}"
    words = ("sh", "-c", text, "sh", "{bottom}", "{top}", "{work}", "{mnt}")
    return CommandTarget(words, f"mutant:{fault}")
