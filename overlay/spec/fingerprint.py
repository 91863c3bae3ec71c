"""A layer's whole state, by a walk that shares no code with the drivers it judges.

The bottom is never changed (L229–L235, L448): every clause compares the bottom before
its mount with the bottom after.  Names, types, modes, owners, sizes, device numbers,
link counts, modification times, extended attributes and content are compared; access
times are not (whether reading may touch them is a clause of its own).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass

__all__ = ["Entry", "differences", "fingerprint"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a layer."""

    mode: int
    owner: tuple[int, int]
    links: int
    size: int
    device: int
    mtime_ns: int
    xattrs: tuple[tuple[str, bytes], ...]
    content: bytes


def fingerprint(root: str) -> dict[str, Entry]:
    """Every entry below ``root`` and itself (``.``), by relative path."""
    found = {".": _entry(root)}
    pending = [""]
    while pending:
        directory = pending.pop()
        for name in os.listdir(os.path.join(root, directory)):
            relative = os.path.join(directory, name)
            path = os.path.join(root, relative)
            found[relative] = _entry(path)
            if stat.S_ISDIR(found[relative].mode):
                pending.append(relative)
    return found


def _entry(path: str) -> Entry:
    status = os.lstat(path)
    content = b""
    if stat.S_ISREG(status.st_mode):
        # O_NOATIME: looking must not itself change what the access-time clauses look at.
        fd = os.open(path, os.O_RDONLY | os.O_NOATIME | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            content = _digest(fd)
        finally:
            os.close(fd)
    elif stat.S_ISLNK(status.st_mode):
        content = os.fsencode(os.readlink(path))
    directory = stat.S_ISDIR(status.st_mode)
    names = _xattr_names(path)
    return Entry(
        mode=status.st_mode,
        owner=(status.st_uid, status.st_gid),
        links=status.st_nlink,
        # What a directory's size means is up to its file system.
        size=0 if directory else status.st_size,
        device=status.st_rdev,
        mtime_ns=status.st_mtime_ns,
        xattrs=tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names),
        content=content,
    )


def _digest(fd: int) -> bytes:
    # Not by a file object, which makes three system calls more: guests are slow at them.
    digest = hashlib.sha256()
    while piece := os.read(fd, 1 << 20):
        digest.update(piece)
    return digest.digest()


def _xattr_names(path: str) -> list[str]:
    try:
        return sorted(os.listxattr(path, follow_symlinks=False))
    except OSError as error:
        # A squashfs made without xattrs says so for each file, instead of "none".
        if error.errno == errno.ENOTSUP:
            return []
        raise


def differences(before: dict[str, Entry], after: dict[str, Entry]) -> list[str]:
    """What changed, one phrase per entry, in the order of the names."""
    phrases = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is None:
            phrases.append(f"{name} appeared")
        elif new is None:
            phrases.append(f"{name} vanished")
        elif old != new:
            changed = [
                field for field in Entry.__slots__ if getattr(old, field) != getattr(new, field)
            ]
            phrases.append(f"{name}: {', '.join(changed)} changed")
    return phrases
