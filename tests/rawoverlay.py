"""Overlay mounts for tests, straight from the kernel and with any options."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from overlay import syscalls

__all__ = ["overlay"]


@contextmanager
def overlay(
    mount_point: Path,
    bottoms: Sequence[Path],
    top: Path,
    work: Path,
    options: dict[str, str],
) -> Iterator[Path]:
    """An overlay at ``mount_point``; an option with an empty value is a flag.

    It knows nothing of profiles, so that tests of the format do not depend on them.
    """
    fs = syscalls.fsopen("overlay")
    try:
        syscalls.fsconfig_string(fs, "lowerdir", ":".join(map(str, bottoms)))
        syscalls.fsconfig_string(fs, "upperdir", top)
        syscalls.fsconfig_string(fs, "workdir", work)
        for key, value in options.items():
            if value:
                syscalls.fsconfig_string(fs, key, value)
            else:
                syscalls.fsconfig_flag(fs, key)
        syscalls.fsconfig_create(fs)
        tree = syscalls.fsmount(fs)
    finally:
        os.close(fs)
    try:
        syscalls.move_mount(
            tree, "", syscalls.AT_FDCWD, mount_point, syscalls.MOVE_MOUNT_F_EMPTY_PATH
        )
    finally:
        os.close(tree)
    try:
        yield mount_point
    finally:
        syscalls.umount2(mount_point)
