"""What outlives the process that made it: maps and links in the BPF file system."""

from __future__ import annotations

import os
from contextlib import suppress

from overlay import syscalls
from overlay.bpf.loading import Map
from overlay.closing import Closing

__all__ = ["BPF_FS_MAGIC", "PinnedMap", "pin"]

#: statfs(2) f_type.
BPF_FS_MAGIC = 0xCAFE4A11

# include/uapi/linux/bpf.h
_MAP_UPDATE, _OBJ_PIN, _OBJ_GET = 2, 6, 7
_NO_EXIST = 1


def pin(fd: int, path: str) -> None:
    """Keep a map, a program or a link alive for as long as ``path`` exists, on a bpf mount."""
    syscalls.bpf(_OBJ_PIN, "QI", os.fsencode(path) + b"\0", fd)


class PinnedMap(Map, Closing):
    """A map that was pinned, by its path."""

    def __init__(self, path: str, *, key_size: int, value_size: int) -> None:
        self.key_size, self.value_size = key_size, value_size
        self.fd = syscalls.bpf(_OBJ_GET, "QII", os.fsencode(path) + b"\0", 0, 0)

    def setdefault(self, key: bytes, value: bytes) -> None:
        """Put ``value`` there, unless there is one; OSError E2BIG where the map is full."""
        with suppress(FileExistsError):
            syscalls.bpf(_MAP_UPDATE, "IQQQ", self.fd, key, value, _NO_EXIST)
