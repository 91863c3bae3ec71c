"""The mounts of a new root, put together out of sight, and the step into it.

Everything happens in a mount namespace of its own.  The new root is attached over the old
one, then pivot_root(), "the recommended way to get to a root file system with a writable
overlay" (L247), makes it the root, and the old one goes.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from overlay import syscalls
from overlay.lighttyping import TYPE_CHECKING
from overlay.newmount import new_mount

if TYPE_CHECKING:
    from typing import Final

__all__ = [
    "attach",
    "clone",
    "make_place",
    "make_read_only",
    "own_mounts",
    "step_into",
    "step_over",
    "tmpfs",
]

_IN_ROOT: Final = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS


def own_mounts() -> None:
    """Let nothing that is mounted here be seen outside, or the other way round."""
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)


def tmpfs(size: int | None = None, mode: int = 0o755, attributes: int = 0) -> int:
    """A detached tmpfs; without ``size`` (bytes) it may take half of the memory."""
    options = {"mode": f"{mode:o}"}
    if size is not None:
        options["size"] = str(size)
    return new_mount("tmpfs", None, options.items(), attributes)


def clone(path: str, *, recursive: bool, read_only: bool = False) -> int:
    """A detached copy of the mount at ``path``, or of the part of it below ``path``."""
    flags = syscalls.OPEN_TREE_CLONE | (syscalls.AT_RECURSIVE if recursive else 0)
    tree = syscalls.open_tree(syscalls.AT_FDCWD, path, flags)
    if read_only:
        try:
            make_read_only(tree)
        except OSError:
            os.close(tree)
            raise
    return tree


def make_read_only(tree: int) -> None:
    """Let nothing be written through a mount; what is mounted in it is another matter."""
    syscalls.mount_setattr(tree, "", syscalls.AT_EMPTY_PATH, attr_set=syscalls.MOUNT_ATTR_RDONLY)


def attach(root: int, path: str, tree: int) -> None:
    """Give a detached mount its place in the new root; no link leads out of it."""
    at = syscalls.openat2(root, path.lstrip("/") or ".", os.O_PATH, resolve=_IN_ROOT)
    try:
        flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH
        syscalls.move_mount(tree, "", at, "", flags)
    finally:
        os.close(at)


def make_place(root: int, path: str, *, directory: bool) -> None:
    """Make a mount point in the new root, and the directories above it, where it is missing."""
    *above, name = path.strip("/").split("/")
    at = syscalls.openat2(root, ".", os.O_PATH | os.O_DIRECTORY, resolve=_IN_ROOT)
    try:
        for depth, each in enumerate(above, 1):
            # From the root again: a link on the way is meant from there.
            below = _open_or_make(root, at, "/".join(above[:depth]), each)
            os.close(at)
            at = below
        with suppress(FileExistsError):
            if directory:
                os.mkdir(name, 0o755, dir_fd=at)
            else:
                os.mknod(name, stat.S_IFREG | 0o644, dir_fd=at)
    finally:
        os.close(at)


def _open_or_make(root: int, above: int, path: str, name: str) -> int:
    flags = os.O_PATH | os.O_DIRECTORY
    try:
        return syscalls.openat2(root, path, flags, resolve=_IN_ROOT)
    except FileNotFoundError:
        os.mkdir(name, 0o755, dir_fd=above)
        return syscalls.openat2(root, path, flags, resolve=_IN_ROOT)


def step_over(tree: int) -> None:
    """Put a detached mount over the root: paths still lead to what it covers."""
    syscalls.move_mount(tree, "", syscalls.AT_FDCWD, "/", syscalls.MOVE_MOUNT_F_EMPTY_PATH)


def step_into(root: int) -> None:
    """Make the mount ``root``, which covers the old root, the root of this mount namespace."""
    os.fchdir(root)
    # With both arguments the same, the old root ends up over the new one, and goes at once.
    syscalls.pivot_root(".", ".")
    syscalls.umount2(".", syscalls.MNT_DETACH)
    os.chdir("/")
