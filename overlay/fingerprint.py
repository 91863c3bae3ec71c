"""Comparing two trees that should be the same, entry by entry, down to the last attribute.

What may differ is what no copy can keep: inode and device numbers, ctime, atime, and the
size and link count of a directory.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from overlay import syscalls
from overlay.layer import Entry, Layer

__all__ = ["Outline", "first_difference", "outline"]

_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Outline:
    """What a tree is without its contents: SHA-256 of names and attributes.

    ``entries`` counts them with the root; ``newest`` is the latest mtime, in seconds.
    """

    digest: bytes
    entries: int
    newest: int


def outline(layer: Layer) -> Outline:
    """The outline of a tree, from one walk of it."""
    digest = hashlib.sha256()
    entries = newest = 0
    for entry in _all(layer):
        digest.update(repr(_attributes(layer, entry)).encode())
        newest = max(newest, entry.st.st_mtime_ns // 10**9)
        entries += 1
    return Outline(digest.digest(), entries, newest)


def first_difference(one: Layer, other: Layer) -> tuple[bytes, str] | None:
    """The first path at which two trees differ, and in what; None when they are the same."""
    for here, there in itertools.zip_longest(_all(one), _all(other)):
        if here is None or there is None or here.path != there.path:
            return min(each.path for each in (here, there) if each), "is in one of the two only"
        mine, its = _attributes(one, here), _attributes(other, there)
        if mine != its:
            return here.path, f"differs in its {', '.join(k for k in mine if mine[k] != its[k])}"
        if stat.S_ISREG(here.st.st_mode) and _contents(one, here) != _contents(other, there):
            return here.path, "differs in its contents"
    return None


def _all(layer: Layer) -> Iterator[Entry]:
    yield Entry(b"", layer.lstat())
    yield from layer.walk()


def _attributes(layer: Layer, entry: Entry) -> dict[str, Any]:
    st = entry.st
    found = {
        "path": entry.path,
        "type": stat.S_IFMT(st.st_mode),
        "mode": stat.S_IMODE(st.st_mode),
        "owner": (st.st_uid, st.st_gid),
        "mtime": st.st_mtime_ns,
        "xattrs": _xattrs(layer, entry.path),
    }
    if not stat.S_ISDIR(st.st_mode):
        found["size"] = st.st_size
        found["links"] = st.st_nlink
    if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
        found["device"] = st.st_rdev
    if stat.S_ISLNK(st.st_mode):
        with layer.parent(entry.path) as (fd, name):
            found["target"] = os.readlink(name, dir_fd=fd)
    return found


def _xattrs(layer: Layer, path: bytes) -> list[tuple[str, bytes]]:
    try:
        if not path:
            names = syscalls.listxattr(layer.fd)
            return sorted((name, syscalls.getxattr(layer.fd, name)) for name in names)
        with layer.parent(path) as (fd, last):
            names = syscalls.listxattr(fd, last)
            return sorted((name, syscalls.getxattr(fd, name, last)) for name in names)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise


def _contents(layer: Layer, entry: Entry) -> bytes:
    digest = hashlib.sha256()
    fd = layer.open_file(entry.path, os.O_RDONLY)
    try:
        while piece := os.read(fd, _PIECE):
            digest.update(piece)
    finally:
        os.close(fd)
    return digest.digest()
