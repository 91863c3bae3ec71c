"""How every call is made: libc by ctypes, and errno as OSError."""

from __future__ import annotations

import ctypes
import os

from overlay.lighttyping import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

__all__ = ["Path", "call", "check", "libc", "word"]

Path = str | bytes | os.PathLike[str]

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def check(result: int, path: Path | None = None) -> int:
    """``result``, or where it is negative the OSError that errno names, about ``path``."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), None if path is None else os.fsdecode(path))
    return result


def call(number: int, *args: Any, path: Path | None = None) -> int:
    """A system call that libc has no function for, by its number."""
    return check(libc.syscall(ctypes.c_long(number), *args), path)


def word(value: int) -> ctypes.c_long:
    """A number as :func:`call` takes it: variadic arguments need a full register's width.

    The kernel truncates.
    """
    return ctypes.c_long(value)
