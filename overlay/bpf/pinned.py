"""What outlives the process that made it: maps and links in the BPF file system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

from overlay import syscalls

__all__ = ["BPF_FS_MAGIC", "PinnedMap", "pin"]

#: statfs(2) f_type.
BPF_FS_MAGIC = 0xCAFE4A11

# include/uapi/linux/bpf.h
_MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT = 1, 2, 3, 4
_OBJ_PIN, _OBJ_GET = 6, 7
_NO_EXIST = 1


def pin(fd: int, path: str) -> None:
    """Keep a map, a program or a link alive for as long as ``path`` exists, on a bpf mount."""
    syscalls.bpf(_OBJ_PIN, "QI", os.fsencode(path) + b"\0", fd)


class PinnedMap:
    """A map that was pinned; keys and values are bytes as the kernel holds them."""

    def __init__(self, path: str, *, key_size: int, value_size: int) -> None:
        self._key_size, self._value_size = key_size, value_size
        self._fd = syscalls.bpf(_OBJ_GET, "QII", os.fsencode(path) + b"\0", 0, 0)

    def __getitem__(self, key: bytes) -> bytes:
        value = bytearray(self._value_size)
        try:
            syscalls.bpf(_MAP_LOOKUP, "IxxxxQQQ", self._fd, key, value, 0)
        except FileNotFoundError:
            raise KeyError(key) from None
        return bytes(value)

    def setdefault(self, key: bytes, value: bytes) -> None:
        """Put ``value`` there, unless there is one; OSError E2BIG where the map is full."""
        with suppress(FileExistsError):
            syscalls.bpf(_MAP_UPDATE, "IxxxxQQQ", self._fd, key, value, _NO_EXIST)

    def __delitem__(self, key: bytes) -> None:
        try:
            syscalls.bpf(_MAP_DELETE, "IxxxxQQQ", self._fd, key, 0, 0)
        except FileNotFoundError:
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[bytes]:
        """All keys; those that come and go meanwhile may be missed."""
        at: int | bytes = 0
        while True:
            following = bytearray(self._key_size)
            try:
                syscalls.bpf(_MAP_NEXT, "IxxxxQQQ", self._fd, at, following, 0)
            except FileNotFoundError:
                return
            at = bytes(following)
            yield at

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)
