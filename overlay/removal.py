"""Removing what may be large from a directory that nobody looks into, by all processors.

Before a directory goes, those in it are moved up beside it.  So it goes at once, each of
them is work of its own, and depth costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Final

from overlay.helpers import cores, work_off
from overlay.layer import open_beneath
from overlay.marks import temporary_name

__all__ = ["remove_all", "strip"]

#: Below this a fork costs more than it saves.
_ALONE: Final = 2_000
#: What a process removes before it tells what it left, and how many directories it is given.
_BUDGET: Final = 2_000
_GIVEN: Final = 16


def remove_all(stage: int, names: Iterable[bytes]) -> None:
    """Remove directories of ``stage`` with all that is in them."""
    pending = _remove(stage, list(names), _ALONE)
    if not pending:
        return

    def begin() -> Callable[[list[bytes]], list[bytes]]:
        return lambda given: _remove(stage, given, _BUDGET)

    def take() -> list[bytes] | None:
        # The last ones first, so that not all directories of a tree come to lie here.
        taken = pending[-_GIVEN:]
        del pending[-_GIVEN:]
        return taken or None

    def account(_given: list[bytes], left: list[bytes]) -> None:
        pending.extend(left)

    work_off(begin, cores(), take, account)


def _remove(stage: int, names: list[bytes], budget: int) -> list[bytes]:
    """Remove directories until ``budget`` entries are gone; those that are left."""
    pending = names
    while pending and budget > 0:
        name = pending.pop()
        moved, gone = strip(stage, name)
        os.rmdir(name, dir_fd=stage)
        pending += moved
        budget -= gone + 1
    return pending


def strip(stage: int, name: bytes) -> tuple[list[bytes], int]:
    """Empty a directory of ``stage``: its directories, moved up there, and what else it had."""
    moved, gone = [], 0
    fd = open_beneath(stage, name, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(fd) as found:
            # The type is in the directory itself: no stat.
            entries = [(each.name, each.is_dir(follow_symlinks=False)) for each in found]
        for entry, is_dir in entries:
            if not is_dir:
                os.unlink(entry, dir_fd=fd)
                gone += 1
            elif (up := _move_up(fd, entry, stage)) is not None:
                moved.append(up)
    finally:
        os.close(fd)
    return moved, gone


def _move_up(fd: int, name: str, stage: int) -> bytes | None:
    """Move a directory to the stage; what it is called there, None if it is gone instead."""
    up = temporary_name()
    try:
        os.rename(name, up, src_dir_fd=fd, dst_dir_fd=stage)
    except PermissionError:
        # What an ordinary user may not write he cannot move, and if it is empty need not.
        os.rmdir(name, dir_fd=fd)
        return None
    return up
