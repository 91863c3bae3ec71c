"""What a shared index was made of: a record of every directory of every bottom.

Each record has the directory's inode number and ctime and a digest of what lstat tells of
its entries, ctimes included.  Names cannot come or go without the directory's ctime, so
comparing those finds every change of names; a change of a file alone (its content,
attributes) moves only the file's own ctime, for which everything has to be compared.

The file is one line of JSON, then the records, whose SHA-256 is the fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from overlay import syscalls
from overlay.errors import Refused
from overlay.layer import VANISHED, open_beneath, scan
from overlay.text import printable

__all__ = ["Record", "SharedIndex", "StaleIndex", "decode", "encode", "look_over", "survey"]

_FORMAT: Final = "fallthru shared index 1"
_RECORD: Final = struct.Struct("<QqI16sH")
_ENTRY: Final = struct.Struct("<QIIIQQQqq")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
_LONGEST: Final = 4000


class StaleIndex(Refused):
    """The bottoms are not, or no longer, what the shared index was made of."""


@dataclass(frozen=True, slots=True)
class Record:
    """A directory of a bottom: inode number, ctime in ns, entries and their digest."""

    ino: int
    ctime_ns: int
    entries: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class SharedIndex:
    """Per bottom, uppermost first, its directories by path from its root."""

    bottoms: tuple[dict[bytes, Record], ...]

    @property
    def directories(self) -> int:
        return sum(len(records) for records in self.bottoms)

    @property
    def entries(self) -> int:
        return sum(each.entries for records in self.bottoms for each in records.values())

    @property
    def fingerprint(self) -> str:
        """Tells one state of the bottoms from another, as hexadecimal digits."""
        return hashlib.sha256(_body(self)).hexdigest()


# --------------------------------------------------------------------------- the file


def encode(index: SharedIndex, paths: Sequence[str]) -> bytes:
    """The file's content; ``paths`` of the bottoms are for people to read."""
    body = _body(index)
    head = {
        "format": _FORMAT,
        "fingerprint": hashlib.sha256(body).hexdigest(),
        "bottoms": [
            {"path": printable(path), "directories": len(records)}
            for path, records in zip(paths, index.bottoms, strict=True)
        ],
    }
    return json.dumps(head).encode() + b"\n" + body


def _body(index: SharedIndex) -> bytes:
    parts = []
    for records in index.bottoms:
        for path, each in sorted(records.items()):
            head = _RECORD.pack(each.ino, each.ctime_ns, each.entries, each.digest, len(path))
            parts += [head, path]
    return b"".join(parts)


def decode(content: bytes) -> SharedIndex:
    """The index of a file's content; ValueError for anything that :func:`encode` did not make."""
    line, _, body = content.partition(b"\n")
    head = json.loads(line)
    if not isinstance(head, dict) or head.get("format") != _FORMAT:
        raise ValueError("not a shared index")
    if hashlib.sha256(body).hexdigest() != head["fingerprint"]:
        raise ValueError("the shared index is damaged")
    at, bottoms = 0, []
    for bottom in head["bottoms"]:
        records: dict[bytes, Record] = {}
        for _ in range(bottom["directories"]):
            ino, ctime, entries, digest, length = _RECORD.unpack_from(body, at)
            at += _RECORD.size
            records[body[at : at + length]] = Record(ino, ctime, entries, digest)
            at += length
        bottoms.append(records)
    return SharedIndex(tuple(bottoms))


# ------------------------------------------------------------------------ the bottoms


def survey(roots: Sequence[int]) -> SharedIndex:
    """The state of the bottoms now; ``roots`` are descriptors of their roots."""
    return SharedIndex(tuple(_survey(root) for root in roots))


def _survey(root: int) -> dict[bytes, Record]:
    found: dict[bytes, Record] = {}
    pending = [b""]
    while pending:
        path = pending.pop()
        fd = open_beneath(root, path, _DIRECTORY)
        try:
            st = os.fstat(fd)
            entries = sorted(scan(fd), key=lambda entry: entry[0])
        finally:
            os.close(fd)
        digest = hashlib.sha256()
        for name, each in entries:
            digest.update(b"%d:" % len(name) + name + _facts(each))
            if stat.S_ISDIR(each.st_mode):
                pending.append(path + b"/" + name if path else name)
        found[path] = Record(st.st_ino, st.st_ctime_ns, len(entries), digest.digest()[:16])
    return found


def _facts(st: os.stat_result) -> bytes:
    if stat.S_ISDIR(st.st_mode):
        return _ENTRY.pack(st.st_ino, st.st_mode, 0, 0, 0, 0, 0, 0, 0)  # it has its own record
    return _ENTRY.pack(
        st.st_ino,
        st.st_mode,
        st.st_uid,
        st.st_gid,
        st.st_size,
        st.st_rdev,
        st.st_nlink,
        st.st_mtime_ns,
        st.st_ctime_ns,
    )


def look_over(index: SharedIndex, roots: Sequence[int], paths: Sequence[str]) -> None:
    """Refuse bottoms whose directories differ from the index; some µs a directory.

    ``roots`` may be O_PATH; ``paths`` are for the message.  Raises StaleIndex.
    """
    if len(roots) != len(index.bottoms):
        raise StaleIndex(
            f"the shared index was made of {len(index.bottoms)} bottoms, and {len(roots)} are given"
        )
    for root, path, records in zip(roots, paths, index.bottoms, strict=True):
        # Without what is mounted in it, as overlayfs sees it.
        private = _private(root)
        try:
            for directory, record in records.items():
                if _state(private, directory) != (record.ino, record.ctime_ns):
                    where = os.path.join(os.fsencode(path), directory)
                    raise StaleIndex(
                        f"{printable(where)} is not as it was when the shared index was made",
                        hint="fallthru prime --shared --update -o META with the same bottoms",
                    )
        finally:
            os.close(private)


def _private(root: int) -> int:
    flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH
    try:
        return syscalls.open_tree(root, "", flags)
    except OSError:
        return os.dup(root)  # a mount that may not be copied


def _state(root: int, path: bytes) -> tuple[int, int] | None:
    try:
        if len(path) > _LONGEST:
            fd = open_beneath(root, path, os.O_PATH | os.O_DIRECTORY)
            try:
                st = os.fstat(fd)
            finally:
                os.close(fd)
        else:
            # A directory on the way that is none any more has changed itself.
            st = os.stat(path or b".", dir_fd=root, follow_symlinks=False)
    except OSError as error:
        if error.errno not in VANISHED:
            raise
        return None
    return st.st_ino, st.st_ctime_ns
