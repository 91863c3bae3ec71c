"""Packing an initramfs: a "newc" cpio archive, written by hand.

Several archives one after another are one initramfs, which is how a run adds its own
files to what is cached.  Format: Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping

__all__ = ["pack"]


def pack(files: Mapping[str, bytes]) -> bytes:
    """An archive of executable ``files`` (path without leading slash: content)."""
    directories = {
        "/".join(parts[:depth])
        for parts in (path.split("/") for path in files)
        for depth in range(1, len(parts))
    }
    entries = [(path, stat.S_IFDIR | 0o755, b"") for path in sorted(directories)]
    entries += [(path, stat.S_IFREG | 0o755, content) for path, content in files.items()]
    records = [
        _record(number, path, mode, content)
        for number, (path, mode, content) in enumerate(entries, start=1)
    ]
    archive = b"".join([*records, _record(0, "TRAILER!!!", 0, b"")])
    return archive + b"\0" * (-len(archive) % 512)


def _record(number: int, path: str, mode: int, content: bytes) -> bytes:
    name = path.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device and special device, name's size, sum
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return _padded(header) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
