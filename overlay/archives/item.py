"""What a layer says, in no format: entries, whiteouts and opaque directories, one by one.

Sources yield items, sinks take them; so each format is read and written once
(:mod:`overlay.archives.source`, :mod:`overlay.archives.sink`, :mod:`overlay.archives.tarread`,
:mod:`overlay.archives.tarwrite`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from overlay.errors import Refused
from overlay.text import printable

__all__ = [
    "OPAQUE_NAME",
    "WHITEOUT_PREFIX",
    "Content",
    "HostileLayer",
    "Item",
    "Limits",
    "check_name",
    "check_path",
    "of_stat",
    "opened_by",
]

#: How OCI layers and AUFS write a whiteout of NAME, and that a directory is opaque.
WHITEOUT_PREFIX = b".wh."
OPAQUE_NAME = b".wh..wh..opq"


class HostileLayer(Refused):
    """An archive or directory that no honest program would have made; nothing was kept."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may grow to: entries, bytes of content, bytes of one path."""

    entries: int = 10_000_000
    bytes: int = 1 << 40
    path: int = 64 << 10


#: Opens a file's data: a descriptor, or a stream that is read once.
Content = Callable[[], AbstractContextManager[int | BinaryIO]]


@dataclass(slots=True)
class Item:
    """One statement about ``path`` (from the root, no leading slash).

    ``whiteout``: it is hidden, and nothing else counts.  ``opaque``: a directory that hides
    what is below.  ``link``: it is another name of that path, which came before.  Otherwise
    ``mode`` has the type, and ``xattrs`` are those that the union shows.
    """

    path: bytes
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    rdev: int = 0
    target: bytes = b""
    xattrs: dict[str, bytes] = field(default_factory=dict)
    whiteout: bool = False
    opaque: bool = False
    link: bytes | None = None
    content: Content | None = None

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)


def of_stat(path: bytes, st: os.stat_result) -> Item:
    """An item with the attributes of a stat."""
    return Item(
        path,
        mode=st.st_mode,
        uid=st.st_uid,
        gid=st.st_gid,
        mtime_ns=st.st_mtime_ns,
        size=st.st_size if stat.S_ISREG(st.st_mode) else 0,
        rdev=st.st_rdev if stat.S_IFMT(st.st_mode) in (stat.S_IFCHR, stat.S_IFBLK) else 0,
    )


def opened_by(open_file: Callable[[], int]) -> Content:
    """Content that a function opens, as a descriptor."""

    @contextmanager
    def opened() -> Iterator[int]:
        fd = open_file()
        try:
            yield fd
        finally:
            os.close(fd)

    return opened


def check_name(path: bytes) -> None:
    """Refused for a name that would be read as a whiteout."""
    if path.rpartition(b"/")[2].startswith(WHITEOUT_PREFIX):
        raise Refused(
            f"{printable(path)} would be read as a whiteout",
            hint="rename it, or export with --format overlay",
        )


def check_path(path: bytes, limits: Limits) -> bytes:
    """A path from an archive without its dots and slashes; HostileLayer if it leads out."""
    shown = printable(path[:200])
    if path.startswith(b"/"):
        raise HostileLayer(f"an absolute name in the archive: {shown}")
    if len(path) > limits.path:
        raise HostileLayer(f"a name of {len(path)} bytes in the archive")
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    if b".." in names or b"\0" in path:
        raise HostileLayer(f"a name in the archive leads out of it: {shown}")
    for name in names:
        if len(name) > 255:
            raise HostileLayer(f"a name of {len(name)} bytes in the archive: {shown}")
    return b"/".join(names)
