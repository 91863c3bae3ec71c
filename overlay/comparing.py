"""Two things of one union, or of two: what each is, and in what they differ."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from enum import StrEnum

from overlay.layer import VANISHED
from overlay.view import Node, OpenDirectory, Place, View

__all__ = ["Aspect", "Comparer", "FileType", "file_type", "length"]

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


_TYPES = {
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
    return _TYPES[stat.S_IFMT(node.st.st_mode)]


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
    ) -> set[Aspect]:
        """In what two things of one type differ, found in these two directories."""
        what = self.compare_plain(now, was)
        try:
            if here.xattrs(now) != there.xattrs(was):
                what.add(Aspect.XATTRS)
        except OSError as error:
            # Removed since it was looked up: it will be a deletion in the next diff.
            if error.errno not in VANISHED:
                raise
        return what

    def compare_plain(self, now: Node, was: Node) -> set[Aspect]:
        """In what two things of one type differ but for extended attributes."""
        st, old = now.st, was.st
        what = set()
        if (st.st_mode ^ old.st_mode) & 0o7777:
            what.add(Aspect.MODE)
        if st.st_uid != old.st_uid or st.st_gid != old.st_gid:
            what.add(Aspect.OWNER)
        if st.st_mode & 0o170000 == stat.S_IFDIR:
            return what
        if st.st_mtime_ns != old.st_mtime_ns:
            what.add(Aspect.TIMES)
        try:
            if self.content_differs(now, was):
                what.add(Aspect.CONTENT)
        except OSError as error:
            # Removed since it was looked up: it will be a deletion in the next diff.
            if error.errno not in VANISHED:
                raise
        return what

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
        # Copyup keeps the time, and marks the file.  What an archiver unpacked has any time
        # it likes and no mark, and a stub that reads from elsewhere is no copyup of this.
        copied_up = "origin" in now.marks.others and now.marks.metacopy is None
        if copied_up and now.st.st_mtime_ns == was.st.st_mtime_ns and not self.checksum:
            return False
        return not self.same_bytes(now.data, was.data)

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
