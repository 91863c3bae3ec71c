"""What a top changes in the union: the difference to the bottoms alone.

Both sides are what the union would show (:mod:`overlay.view`), so a whiteout is a
deletion, a fallthru is no change, and a file that was copied up and not altered is
none either.  Nothing is written, and the top may be mounted meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from overlay.layer import VANISHED, Layer
from overlay.marks import MarkFamily, is_fallthru
from overlay.view import Node, OpenDirectory, Place, View

__all__ = ["Aspect", "Change", "FileType", "Kind", "diff"]

_BLOCK = 1 << 20


class Kind(StrEnum):
    """What became of a path."""

    ADDED = "added"
    CHANGED = "changed"
    DELETED = "deleted"
    REPLACED = "replaced"


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


@dataclass(frozen=True, slots=True)
class Change:
    """One difference, at ``path`` (from the root, no leading slash).

    ``size`` and ``old_size`` are bytes of content, 0 for what has none.  ``what`` is
    empty unless both sides are of one type.  ``metadata_only`` says that the top holds
    no data for the file: it still reads from the bottom.  ``moved_from`` is where a
    renamed directory (or a file renamed without its data) was; the changes below such a
    directory are those against the old place.  ``gone`` and ``gone_bytes`` count what
    went with a deleted or replaced directory, itself included: those entries are not
    listed one by one.
    """

    path: bytes
    kind: Kind
    ftype: FileType | None = None
    size: int = 0
    old_ftype: FileType | None = None
    old_size: int = 0
    what: frozenset[Aspect] = frozenset()
    metadata_only: bool = False
    moved_from: bytes | None = None
    gone: int = 0
    gone_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Pair:
    """A directory to compare: what is shown at ``path``, and what was shown at ``origin``."""

    path: bytes
    now: Node
    origin: bytes
    was: Node | None


def diff(
    top: Layer,
    bottoms: Sequence[Layer],
    family: MarkFamily,
    *,
    data_bottoms: Sequence[Layer] = (),
    checksum: bool = False,
) -> Iterator[Change]:
    """The changes of ``top`` against the union of ``bottoms``, in byte order of the paths.

    A file that was copied up counts as equal if size and modification time are, unless
    ``checksum``: copyup keeps both.  The times of a directory are not compared: whatever
    happens in it changes them.  The root itself is not compared.  Raises HostileMark, and
    OSError with a file name for what can't be read.
    """
    return _Diff(View([top, *bottoms], family, data_bottoms), checksum).run()


class _Diff:
    def __init__(self, view: View, checksum: bool) -> None:
        self.view = view
        self.checksum = checksum
        self.now_root = view.root(0)
        self.was_root = view.root(1)

    def run(self) -> Iterator[Change]:
        pending: list[_Pair | Change] = [_Pair(b"", self.now_root, b"", self.was_root)]
        while pending:
            item = pending.pop()
            if isinstance(item, Change):
                yield item
            else:
                # What is in a directory sorts as if the name ended in a slash.
                found = sorted(self.directory(item), key=_order, reverse=True)
                pending.extend(found)

    def directory(self, pair: _Pair) -> Iterator[_Pair | Change]:
        now, was = pair.now, pair.was
        if was is not None and now.places == was.places:
            return
        before = pair.path + b"/" if pair.path else b""
        before_old = pair.origin + b"/" if pair.origin else b""
        with self.view.open(now) as here, self.view.open(was) as there:
            if was is not None and now.places[0].layer == 0 and now.places[1:] == was.places:
                # Merged: only what the top holds can differ.
                names = set(here.names_in(now.places[0]))
            else:
                names = here.names() | there.names()
            for name in names:
                yield from self.entry(before + name, before_old + name, (name, here, there))

    def entry(
        self, path: bytes, old_path: bytes, sides: tuple[bytes, OpenDirectory, OpenDirectory]
    ) -> Iterator[_Pair | Change]:
        """One name of two open directories; what is found of it, in any order."""
        name, here, there = sides
        now, was = here.lookup(name), there.lookup(name)
        if now is None:
            if was is not None:
                gone, gone_bytes = self.totals(was)
                yield Change(
                    path,
                    Kind.DELETED,
                    old_ftype=_type(was),
                    old_size=_size(was),
                    gone=gone,
                    gone_bytes=gone_bytes,
                )
            return
        moved_from, source = self.moved(now, old_path, was)
        if was is None or _type(now) != _type(was):
            yield self.new(path, now, was, moved_from)
            if now.is_dir:
                yield _Pair(path, now, moved_from or path, source)
        elif not now.is_dir:
            what = self.compare(now, was, here, there)
            if what:
                yield self.change(path, Kind.CHANGED, now, was, what)
        elif moved_from is not None:
            yield self.new(path, now, was, moved_from)
            yield _Pair(path, now, moved_from, source)
        elif now.places != was.places:
            kind = Kind.REPLACED if self.replaces(now, was) else Kind.CHANGED
            what = self.compare(now, was, here, there)
            if what or kind is Kind.REPLACED:
                yield self.change(path, kind, now, was, what)
            yield _Pair(path, now, old_path, was)

    def new(self, path: bytes, now: Node, was: Node | None, moved_from: bytes | None) -> Change:
        gone, gone_bytes = (0, 0) if was is None else self.totals(was)
        return Change(
            path,
            Kind.ADDED if was is None else Kind.REPLACED,
            ftype=_type(now),
            size=_size(now),
            old_ftype=None if was is None else _type(was),
            old_size=0 if was is None else _size(was),
            metadata_only=now.marks.metacopy is not None,
            moved_from=moved_from,
            gone=gone,
            gone_bytes=gone_bytes,
        )

    @staticmethod
    def change(path: bytes, kind: Kind, now: Node, was: Node, what: set[Aspect]) -> Change:
        return Change(
            path,
            kind,
            ftype=_type(now),
            size=_size(now),
            old_ftype=_type(was),
            old_size=_size(was),
            what=frozenset(what),
            metadata_only=now.marks.metacopy is not None,
        )

    def moved(
        self, now: Node, old_path: bytes, was: Node | None
    ) -> tuple[bytes | None, Node | None]:
        """Where a redirect says that something was, if it is true, and what was there."""
        redirect = now.marks.redirect
        if redirect is None or now.places[0].layer != 0:
            return None, None
        if now.is_dir and (was is None or now.places[1:] != was.places):
            below = now.places[1:]
        elif now.data is not None and (was is None or now.data != was.data):
            below = (now.data,)
        else:
            return None, None  # it reads from its own name: a fallthru
        parent = old_path.rpartition(b"/")[0]
        path = redirect[1:] if redirect.startswith(b"/") else os.path.join(parent, redirect)
        source = self.view.find(self.was_root, path)
        if source is None or not below:
            return None, None
        same = source.places == below if now.is_dir else (source.data,) == below
        return (path, source) if same else (None, None)

    def replaces(self, now: Node, was: Node) -> bool:
        """Whether a directory is another one that took the old one's place.

        It is opaque then, as after a directory copyup; but nothing in it falls through.
        """
        if not now.marks.opaque:
            return False
        redirect = now.marks.redirect
        if redirect is not None and redirect.startswith(b"/"):
            # Overlayfs passes over a redirect here: directory copyup left it to say of what.
            source = self.view.find(self.was_root, redirect[1:])
            if source is not None and source.places == was.places:
                return False
        with self.view.open(was) as there, self.view.open(now) as here:
            old_names = there.names()
            for name in here.names() & old_names:
                child, old = here.lookup(name), there.lookup(name)
                if child is not None and old is not None:
                    same = is_fallthru(child.marks, child.st, parent_opaque=True, bottom=old.st)
                    if same:
                        return False
            return any(there.lookup(name) is not None for name in old_names)

    def compare(
        self, now: Node, was: Node, here: OpenDirectory, there: OpenDirectory
    ) -> set[Aspect]:
        """In what two things of one type differ, found in these two directories."""
        what = set()
        if stat.S_IMODE(now.st.st_mode) != stat.S_IMODE(was.st.st_mode):
            what.add(Aspect.MODE)
        if (now.st.st_uid, now.st.st_gid) != (was.st.st_uid, was.st.st_gid):
            what.add(Aspect.OWNER)
        if not now.is_dir and now.st.st_mtime_ns != was.st.st_mtime_ns:
            what.add(Aspect.TIMES)
        try:
            if here.xattrs(now) != there.xattrs(was):
                what.add(Aspect.XATTRS)
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
            count, size = count + 1, size + _size(each)
            if each.is_dir:
                with self.view.open(each) as directory:
                    pending.extend(_children(directory))
        return count, size


def _children(directory: OpenDirectory) -> Iterator[Node]:
    for name in directory.names():
        child = directory.lookup(name)
        if child is not None:
            yield child


def _order(item: _Pair | Change) -> bytes:
    return item.path + b"/" if isinstance(item, _Pair) else item.path


def _type(node: Node) -> FileType:
    return _TYPES[stat.S_IFMT(node.st.st_mode)]


def _size(node: Node) -> int:
    return node.st.st_size if stat.S_ISREG(node.st.st_mode) else 0
