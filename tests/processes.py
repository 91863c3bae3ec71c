"""Processes that a command started: finding them, and waiting for their end."""

from __future__ import annotations

import os
import select
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

__all__ = ["PATIENCE", "children", "descendants", "orphans_reaped", "wait_gone"]

#: Seconds after which what a test waits for will not come on any machine: it only guards a
#: hang, and is a little less than what a test has in all (pyproject.toml), to say what hung.
PATIENCE: Final = 240


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
        assert select.select([fd], [], [], PATIENCE)[0], f"{_named(pid)} goes on"
    finally:
        os.close(fd)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _named(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        command = b""
    return f"process {pid} ({command.decode(errors='replace').strip()})"


@contextmanager
def orphans_reaped() -> Iterator[None]:
    """Wait for what the block's processes left behind, and for what those leave: some helpers
    outlive their parent for a moment, and this process adopts orphans (tests/conftest.py)."""
    before = children()
    try:
        yield
    finally:
        while left := children() - before:
            for pid in left:
                wait_gone(pid)
