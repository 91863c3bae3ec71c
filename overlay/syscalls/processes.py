"""Namespaces, and what a process asks of the kernel for itself."""

from __future__ import annotations

import ctypes

from overlay.lighttyping import TYPE_CHECKING
from overlay.syscalls.libc import check, libc

if TYPE_CHECKING:
    from typing import Final

__all__ = [
    "CLONE_NEWCGROUP",
    "CLONE_NEWIPC",
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWUSER",
    "CLONE_NEWUTS",
    "PR_SET_CHILD_SUBREAPER",
    "PR_SET_DUMPABLE",
    "PR_SET_PDEATHSIG",
    "prctl",
    "setns",
    "unshare",
]

# Namespaces (include/uapi/linux/sched.h).
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_CHILD_SUBREAPER: Final = 36


def unshare(flags: int) -> None:
    """Leave the given namespaces for new ones."""
    check(libc.unshare(ctypes.c_int(flags)))


def setns(fd: int, nstype: int) -> None:
    """Enter the namespace that ``fd`` refers to."""
    check(libc.setns(ctypes.c_int(fd), ctypes.c_int(nstype)))


def prctl(option: int, value: int) -> None:
    """One of prctl(2)'s calls that take a single number."""
    check(libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3))
