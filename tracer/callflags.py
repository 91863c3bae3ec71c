"""Flags of the system calls that open and rename, in their usual names."""

from __future__ import annotations

import os

from tracer.sysnames import numbers_of

__all__ = ["flags_of"]

_OPENS = frozenset(numbers_of("open", "openat", "openat2", "creat"))
_RENAMES = frozenset(numbers_of("renameat2"))

_ACCESS = {os.O_RDONLY: "O_RDONLY", os.O_WRONLY: "O_WRONLY", os.O_RDWR: "O_RDWR", 3: "O_ACCMODE"}
#: O_SYNC holds O_DSYNC and O_TMPFILE holds O_DIRECTORY: the larger come first.
_OPEN_FLAGS = {
    getattr(os, name): name
    for name in (
        *("O_TMPFILE", "O_SYNC", "O_APPEND", "O_CLOEXEC", "O_CREAT", "O_DIRECT", "O_DIRECTORY"),
        *("O_DSYNC", "O_EXCL", "O_NOATIME", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK", "O_PATH"),
        "O_TRUNC",
    )
}
#: The kernel's own O_LARGEFILE, which every 64-bit program sets without asking.
_LARGEFILE = 0o100000
_RENAME_FLAGS = {1: "RENAME_NOREPLACE", 2: "RENAME_EXCHANGE", 4: "RENAME_WHITEOUT"}


def flags_of(code: int) -> str | None:
    """``O_WRONLY|O_TRUNC`` for a call with these flags; None for one that has none we know.

    ``code`` is the number of the call, with the flags above its 32 bits.
    """
    number, flags = code & 0xFFFFFFFF, code >> 32
    if number in _OPENS:
        return "|".join([_ACCESS[flags & 3], *_names(flags & ~3 & ~_LARGEFILE, _OPEN_FLAGS)])
    if number in _RENAMES and flags:
        return "|".join(_names(flags, _RENAME_FLAGS))
    return None


def _names(flags: int, known: dict[int, str]) -> list[str]:
    found = []
    for bits, name in known.items():
        if flags & bits == bits:
            found.append(name)
            flags &= ~bits
    return [*found, *([f"{flags:#x}"] if flags else [])]
