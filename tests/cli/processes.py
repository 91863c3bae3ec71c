"""Processes that a command started: finding them, and waiting for their end."""

from __future__ import annotations

import os
import select
from contextlib import suppress
from pathlib import Path

__all__ = ["descendants", "wait_gone"]


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``."""
    found: list[int] = []
    pending = [pid]
    while pending:
        at = pending.pop()
        children = Path(f"/proc/{at}/task/{at}/children").read_text().split()
        pending += map(int, children)
        found += map(int, children)
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
