"""Processes that a command started: finding them, and waiting for their end."""

from __future__ import annotations

import os
import select
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

__all__ = ["children", "descendants", "wait_gone"]


def children(pid: int | None = None) -> set[int]:
    """Live or unreaped children of a process (this one) and its threads; none of an ended one."""
    pid = pid or os.getpid()
    found: set[int] = set()
    # Threads and the process itself may end between two looks; whose child that makes of
    # theirs is seen at the next one.
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(FileNotFoundError, ProcessLookupError):
                listed = Path(f"/proc/{pid}/task/{task}/children").read_text()
                found.update(map(int, listed.split()))
    return found


def descendants(pid: int, *, without: Collection[int] = ()) -> list[int]:
    """All processes below ``pid``; those in ``without`` and what is below them left out."""
    found: list[int] = []
    pending = [pid]
    while pending:
        below = children(pending.pop()).difference(without)
        found += below
        pending += below
    return found


def wait_gone(pid: int) -> None:
    """Wait for a process to end, and reap it where it was left to this one."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], 30)[0]
    finally:
        os.close(fd)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)
