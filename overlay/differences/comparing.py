"""Two things of one union, or of two: what each is, and in what they differ."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from overlay.layer import VANISHED
from overlay.marks import Marks
from overlay.view import Node, OpenDirectory, Place, View

__all__ = ["FILE_TYPES", "Aspect", "Comparer", "FileType", "file_type", "length"]

_BLOCK = 1 << 20


class Aspect(StrEnum):
    """In what something changed.  ``content`` is a symlink's target and a device's number, too."""

    CONTENT = "content"
    MODE = "mode"
    OWNER = "owner"
    TIMES = "times"
    XATTRS = "xattrs"


class FileType(StrEnum):
    """What something is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    CHAR_DEVICE = "chardev"
    BLOCK_DEVICE = "blockdev"
    FIFO = "fifo"
    SOCKET = "socket"


_MODE, _OWNER, _TIMES, _CONTENT = 1, 2, 4, 8
#: What some of these bits say: there are too many differences to make a set for each.
_ASPECTS: Final = tuple(
    frozenset(
        aspect
        for bit, aspect in (
            (_MODE, Aspect.MODE),
            (_OWNER, Aspect.OWNER),
            (_TIMES, Aspect.TIMES),
            (_CONTENT, Aspect.CONTENT),
        )
        if bits & bit
    )
    for bits in range(16)
)

#: What an inode's format bits say.
FILE_TYPES: Final = {
    stat.S_IFREG: FileType.FILE,
    stat.S_IFDIR: FileType.DIRECTORY,
    stat.S_IFLNK: FileType.SYMLINK,
    stat.S_IFCHR: FileType.CHAR_DEVICE,
    stat.S_IFBLK: FileType.BLOCK_DEVICE,
    stat.S_IFIFO: FileType.FIFO,
    stat.S_IFSOCK: FileType.SOCKET,
}


def file_type(node: Node) -> FileType:
    """What a node is."""
    return FILE_TYPES[stat.S_IFMT(node.st.st_mode)]


def length(node: Node) -> int:
    """Bytes of content, 0 for what has none."""
    return node.st.st_size if stat.S_ISREG(node.st.st_mode) else 0


class Comparer:
    """Compares what a view shows of its layers and of the lower ones among them.

    A file that was copied up counts as equal if size and modification time are, unless
    ``checksum``: copyup keeps both.
    """

    def __init__(self, view: View, *, checksum: bool) -> None:
        self.view = view
        self.checksum = checksum

    def compare(
        self, now: Node, was: Node, here: OpenDirectory, there: OpenDirectory
    ) -> frozenset[Aspect]:
        """In what two things of one type differ, found in these two directories."""
        what = self.compare_plain(now, was)
        try:
            if here.xattrs(now) != there.xattrs(was):
                return what | {Aspect.XATTRS}
        except OSError as error:
            # Removed since it was looked up: it will be a deletion in the next diff.
            if error.errno not in VANISHED:
                raise
        return what

    def compare_plain(self, now: Node, was: Node) -> frozenset[Aspect]:
        """In what two things of one type differ but for extended attributes."""
        st, old = now.st, was.st
        bits = 0
        if (st.st_mode ^ old.st_mode) & 0o7777:
            bits |= _MODE
        if st.st_uid != old.st_uid or st.st_gid != old.st_gid:
            bits |= _OWNER
        if st.st_mode & 0o170000 == stat.S_IFDIR:
            return _ASPECTS[bits]
        if st.st_mtime_ns != old.st_mtime_ns:
            bits |= _TIMES
        try:
            if self.content_differs(now, was):
                bits |= _CONTENT
        except OSError as error:
            # Removed since it was looked up: it will be a deletion in the next diff.
            if error.errno not in VANISHED:
                raise
        return _ASPECTS[bits]

    def content_differs(self, now: Node, was: Node) -> bool:
        kind = stat.S_IFMT(now.st.st_mode)
        if kind == stat.S_IFLNK:
            return self.target(now.places[0]) != self.target(was.places[0])
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            return now.st.st_rdev != was.st.st_rdev
        if kind != stat.S_IFREG:
            return False
        if now.st.st_size != was.st.st_size:
            return True
        if now.data is None or was.data is None or now.data == was.data:
            return now.data != was.data
        if not now.st.st_size:
            return False
        if self.is_copyup(now.marks) and now.st.st_mtime_ns == was.st.st_mtime_ns:
            return False
        return not self.same_bytes(now.data, was.data)

    def is_copyup(self, marks: Marks) -> bool:
        """Whether size and time are enough to tell that a file's content is the old one's.

        Copyup keeps the time, and marks the file.  What an archiver unpacked has any time
        it likes and no mark, and a stub that reads from elsewhere is no copyup of this.
        """
        return not self.checksum and marks.metacopy is None and "origin" in marks.others

    def untouched(self, st: os.stat_result, marks: Marks, old: os.stat_result) -> bool:
        """Whether a file has all that it had, as one has that was only opened to be written."""
        return (
            st.st_mtime_ns == old.st_mtime_ns
            and st.st_size == old.st_size
            and st.st_mode == old.st_mode
            and st.st_uid == old.st_uid
            and st.st_gid == old.st_gid
            and (not st.st_size or self.is_copyup(marks))
        )

    def target(self, place: Place) -> bytes:
        with self.view.layers[place.layer].parent(place.path) as (fd, name):
            return os.readlink(name, dir_fd=fd)

    def same_bytes(self, one: Place, other: Place) -> bool:
        with (
            open(self.view.open_data(one), "rb", buffering=0) as left,
            open(self.view.open_data(other), "rb", buffering=0) as right,
        ):
            offset = 0
            while True:
                mine = os.pread(left.fileno(), _BLOCK, offset)
                if mine != os.pread(right.fileno(), _BLOCK, offset):
                    return False
                if not mine:
                    return True
                offset += len(mine)

    def totals(self, node: Node) -> tuple[int, int]:
        """How many entries a tree has, its root included, and how many bytes of content."""
        count, size = 0, 0
        pending = [node]
        while pending:
            each = pending.pop()
            count, size = count + 1, size + length(each)
            if each.is_dir:
                with self.view.open(each) as directory:
                    pending.extend(_children(directory))
        return count, size


def _children(directory: OpenDirectory) -> Iterator[Node]:
    for name in directory.names():
        child = directory.lookup(name)
        if child is not None:
            yield child
