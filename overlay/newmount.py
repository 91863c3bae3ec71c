"""A file system that is mounted where nobody sees it: held by a descriptor, gone with it."""

from __future__ import annotations

import os

from overlay import syscalls
from overlay.lighttyping import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["new_mount", "put_at"]


def new_mount(
    fstype: str,
    source: str | None = None,
    options: Iterable[tuple[str, str]] = (),
    attributes: int = 0,
) -> int:
    """A detached mount of ``fstype`` on ``source``, by default its name: an O_PATH descriptor.

    An option with an empty value is a flag; ``attributes`` are MOUNT_ATTR_* bits.  OSError
    with the kernel's own words; of ENODEV where it does not know ``fstype``.
    """
    fs = syscalls.fsopen(fstype)
    try:
        syscalls.fsconfig_string(fs, "source", fstype if source is None else source)
        for key, value in options:
            if value:
                syscalls.fsconfig_string(fs, key, value)
            else:
                syscalls.fsconfig_flag(fs, key)
        syscalls.fsconfig_create(fs)
        return syscalls.fsmount(fs, attributes)
    finally:
        os.close(fs)


def put_at(tree: int, where: str | os.PathLike[str]) -> None:
    """Give a detached mount its place, and close its descriptor, also where that fails."""
    try:
        syscalls.move_mount(tree, "", syscalls.AT_FDCWD, where, syscalls.MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)
