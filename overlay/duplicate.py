"""Making what a view shows anew, elsewhere: with everything that it has.

Owner, mode, attributes, access lists, capabilities, inode flags, holes, hard links within
one tree, and times to the nanosecond.  A copy is a layer's: attributes are stored as the
layers store them, without the marks of an overlay.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from overlay import syscalls
from overlay.copydata import copy_data
from overlay.errors import OperationFailed
from overlay.inodeflags import copy_unprotecting_flags, mark_protected, protect, protected
from overlay.layer import VANISHED, exists, open_beneath
from overlay.markvalues import NO_XATTR, is_private
from overlay.text import printable
from overlay.view import Node, Place, View

__all__ = ["Duplicator", "Tree", "set_times"]

_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PRESENT: Final = os.O_RDONLY | os.O_DIRECTORY


class Duplicator:
    """Copies of what ``view`` shows; ``on_top``, what protects an inode becomes a mark.

    ``top_rests``: nothing is moved in the uppermost layer meanwhile.
    """

    def __init__(self, view: View, *, on_top: bool = False, top_rests: bool = False) -> None:
        self.view = view
        self.family = view.family
        self.on_top = on_top
        self._top_rests = top_rests

    def make(self, node: Node, dirfd: int, name: bytes) -> int:
        """A copy of ``node`` as the new entry ``name``; of a directory, an empty one.

        A directory's times are its maker's to set, once its content is there.  Returns the
        flags to :func:`overlay.inodeflags.protect` it with then: they forbid a rename.
        """
        kind = stat.S_IFMT(node.st.st_mode)
        if kind == stat.S_IFREG:
            return self._file(node, dirfd, name)
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=dirfd)
        elif kind == stat.S_IFLNK:
            os.symlink(self.target(node), name, dir_fd=dirfd)
        else:
            os.mknod(name, kind | 0o600, node.st.st_rdev, dir_fd=dirfd)
        fd = syscalls.open_beneath(dirfd, name, os.O_RDONLY if node.is_dir else os.O_PATH)
        try:
            self.dress(node, fd)
            if not node.is_dir:
                return 0
            place = node.places[0]
            with self.view.layers[place.layer].directory(place.path) as source:
                return copy_unprotecting_flags(source, fd) | self._protected(node)
        finally:
            os.close(fd)

    def _file(self, node: Node, dirfd: int, name: bytes) -> int:
        copy = os.open(name, _NEW, 0o600, dir_fd=dirfd)
        try:
            flags = self.fill(node, copy)
            self.dress(node, copy, path_only=False)
        finally:
            os.close(copy)
        return flags

    def fill(self, node: Node, copy: int) -> int:
        """Give an open file the content of ``node``, holes as holes, and the inode flags.

        Returns those that protect it, which are not set.
        """
        if node.data is None:
            raise OperationFailed(
                f"the data of {printable(node.places[0].path)} is gone from the bottoms",
                hint="fallthru check tells which fallthrus are broken",
            )
        source = self._open_data(node.data)
        try:
            if node.st.st_size:
                copy_data(source, copy, node.st.st_size)
                os.ftruncate(copy, node.st.st_size)
            return copy_unprotecting_flags(source, copy) | self._protected(node)
        finally:
            os.close(source)

    def _open_data(self, place: Place) -> int:
        if self._top_rests and place.layer == 0:
            return self.view.layers[0].open_sibling(place.path, os.O_RDONLY | os.O_NONBLOCK)
        return self.view.open_data(place)

    def _protected(self, node: Node) -> int:
        """IMMUTABLE and APPEND where an overlay keeps them, as a mark."""
        if "protattr" not in node.marks.others:
            return 0
        place = node.places[0]
        with self.view.layers[place.layer].parent(place.path) as (fd, name):
            return protected(fd, name, self.family)

    def target(self, node: Node) -> bytes:
        """A symlink's target."""
        place = node.places[0]
        with self.view.layers[place.layer].parent(place.path) as (fd, name):
            return os.readlink(name, dir_fd=fd)

    def xattrs(self, node: Node) -> dict[str, bytes]:
        """The attributes of a node as its layer stores them, without the marks."""
        if node.marks.bare:
            return {}
        place = node.places[0]
        layer = self.view.layers[place.layer]
        if not place.path:
            return stored_xattrs(layer.fd, None, self.view)
        with layer.parent(place.path) as (fd, name):
            return stored_xattrs(fd, name, self.view)

    def dress(self, node: Node, fd: int, *, replace: bool = False, path_only: bool = True) -> None:
        """Give something open its owner, mode, attributes and, last, its times.

        ``fd`` may be O_PATH unless ``path_only`` is False.  ``replace`` removes attributes
        that the node does not have, for what is not new.
        """
        st = node.st
        path = syscalls.fd_path(fd) if path_only else fd
        # chown drops set-id bits and capabilities, so it comes before both.
        os.chown(path, st.st_uid, st.st_gid)
        if not stat.S_ISLNK(st.st_mode):
            os.chmod(path, stat.S_IMODE(st.st_mode))
        wanted = self.xattrs(node)
        if replace:
            for attribute in stored_xattrs(fd, None, self.view).keys() - wanted.keys():
                os.removexattr(path, attribute)
        for attribute, value in wanted.items():
            os.setxattr(path, attribute, value)
        if not node.is_dir:
            os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))

    def tree(self, node: Node, dirfd: int, name: bytes, *, like: Node | None = None) -> int:
        """A copy of a directory and all that is in it; how many entries were made.

        ``like`` is what the copy itself is to resemble, if not ``node``.  What vanishes
        meanwhile is left out.
        """
        flags = self.make(like or node, dirfd, name)
        root = syscalls.open_beneath(dirfd, name, _PRESENT)
        try:
            return 1 + Tree(self, root).fill(node, flags, (like or node).st)
        finally:
            os.close(root)


def _joined(below: bytes | None, onwards: bytes | None) -> bytes | None:
    """Where a lookup goes on, from the roots of the layers further down."""
    if onwards is None or onwards.startswith(b"/"):
        return None if onwards is None else onwards[1:]
    if below is None:
        return None
    return below + b"/" + onwards if below else onwards


class Tree:
    """One tree being copied into ``root``."""

    def __init__(self, duplicator: Duplicator, root: int) -> None:
        self.duplicator = duplicator
        self._view = duplicator.view
        self._root = root
        self.linked: dict[tuple[int, int], bytes] = {}
        self._shielded: list[tuple[bytes, int]] = []

    def fill(self, node: Node, flags: int, st: os.stat_result) -> int:
        count = 0
        pending: list[tuple[bytes, Node, bytes | None]] = [(b"", node, b"")]
        self._shielded.append((b"", flags))
        while pending:
            path, each, below = pending.pop()
            fd = open_beneath(self._root, path, _PRESENT)
            try:
                with self._view.open(each) as directory:
                    for name in directory.names():
                        inner = path + b"/" + name if path else name
                        child, onwards = directory.search(name)
                        onwards = _joined(below, onwards)
                        try:
                            made = self.entry(child, fd, inner, below, onwards)
                        except OSError as error:
                            if error.errno not in VANISHED or exists(fd, name):
                                raise
                            continue  # removed since it was looked up
                        count += made
                        if child is not None and child.is_dir:
                            pending.append((inner, child, onwards))
                set_times(fd, each.st if path else st)
            finally:
                os.close(fd)
        # Nothing can be linked to what is immutable, and nothing made in it.
        for path, shield in reversed(self._shielded):
            if shield:
                fd = open_beneath(self._root, path, os.O_RDONLY)
                try:
                    if self.duplicator.on_top:
                        mark_protected(fd, shield, self.duplicator.family)
                    else:
                        protect(fd, shield)
                finally:
                    os.close(fd)
        return count

    def entry(
        self, child: Node | None, fd: int, path: bytes, below: bytes | None, onwards: bytes | None
    ) -> bool:
        """Make what a lookup found; whether there was something to make.

        ``below`` is where layers further down have the directory ``fd``, ``onwards`` where
        they have this; None where they are not asked.
        """
        if child is None:
            return False
        name = path.rpartition(b"/")[2]
        key = (child.st.st_dev, child.st.st_ino)
        linked = not child.is_dir and child.st.st_nlink > 1
        if linked and key in self.linked:
            self.link(self.linked[key], fd, name)
            return True
        flags = self.duplicator.make(child, fd, name)
        if flags:
            self._shielded.append((path, flags))
        if linked:
            self.linked[key] = path
        return True

    def link(self, first: bytes, fd: int, name: bytes) -> None:
        above, _, last = first.rpartition(b"/")
        other = open_beneath(self._root, above, _PRESENT)
        try:
            os.link(last, name, src_dir_fd=other, dst_dir_fd=fd, follow_symlinks=False)
        finally:
            os.close(other)


def set_times(fd: int, st: os.stat_result) -> None:
    """Access and modification time of something open (O_PATH will do), to the nanosecond."""
    os.utime(syscalls.fd_path(fd), ns=(st.st_atime_ns, st.st_mtime_ns))


def stored_xattrs(fd: int, name: bytes | None, view: View) -> dict[str, bytes]:
    """The extended attributes of an entry as they are stored, without an overlay's marks."""
    found: dict[str, bytes] = {}
    try:
        names = syscalls.listxattr(fd, name)
    except OSError as error:
        if error.errno in NO_XATTR:
            return found
        raise
    for attribute in names:
        if not is_private(attribute, view.family):
            found[attribute] = syscalls.getxattr(fd, attribute, name)
    return found
