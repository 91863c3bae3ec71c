"""What a process gives back of its memory."""

from __future__ import annotations

import ctypes

from overlay.lighttyping import TYPE_CHECKING
from overlay.syscalls.libc import check, libc

if TYPE_CHECKING:
    from typing import Final

__all__ = ["MADV_DONTNEED", "M_ARENA_MAX", "M_MMAP_THRESHOLD", "madvise", "malloc_trim", "mallopt"]

MADV_DONTNEED: Final = 4
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8


def madvise(start: int, length: int, advice: int) -> None:
    """Say how the pages from ``start`` on will be used.  They must be mapped by the caller."""
    check(libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_int(advice)))


def mallopt(parameter: int, value: int) -> None:
    """Set one of the heap's parameters (M_*), where the C library has them (glibc)."""
    option = getattr(libc, "mallopt", None)
    if option is not None:
        option(ctypes.c_int(parameter), ctypes.c_int(value))


def malloc_trim() -> None:
    """Return the heap's free pages to the kernel, where the C library can (glibc)."""
    trim = getattr(libc, "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
