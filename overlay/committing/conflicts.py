"""What a commit would overwrite though the top never saw it.

The bottoms of a top are not to change (document L256).  Where one did, its newer state
must not be lost silently.  The kernel records neither the bottom's state nor the time of a
copyup, but the birth time of what is on the top tells: a file of the bottom whose status
changed after the top's entry was made is not the one that was copied up, whited out or
replaced.  The status time (ctime) of a file counts, which nobody can set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from overlay import syscalls
from overlay.differences.comparing import Aspect
from overlay.differences.difference import Difference
from overlay.layer import VANISHED
from overlay.view import Node, View

__all__ = ["Conflict", "Conflicts"]


@dataclass(frozen=True, slots=True)
class Conflict:
    """``path`` of the union cannot be committed: ``newer``, on the bottom, would be lost."""

    path: bytes
    newer: bytes


class Conflicts:
    """Looks for conflicts; close it, or use it in ``with``.

    ``resumed``: an earlier run was killed.  Its own removals changed the status of files
    that have several names, so that modification times have to do.
    """

    def __init__(self, view: View, *, resumed: bool) -> None:
        self._view = view
        self._resumed = resumed
        # Neighbours are asked about one after the other.
        self._kept: tuple[bytes, int] | None = None

    def close(self) -> None:
        if self._kept is not None:
            os.close(self._kept[1])
            self._kept = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def find(self, difference: Difference) -> Conflict | None:
        """What committing ``difference`` would lose, if anything."""
        was = difference.was
        if was is None:
            return None
        path, change = difference.path, difference.change
        since = self._born(path)
        now_is_dir = difference.now is not None and difference.now.is_dir
        if was.is_dir and now_is_dir and change.moved_from is None:
            # What is in it is told one by one; so this is about its attributes.
            st = was.st
            attributes = change.what & {Aspect.MODE, Aspect.OWNER, Aspect.XATTRS}
            # New entries set both times; only attributes set the one alone.
            changed = st.st_ctime_ns > since and st.st_ctime_ns != st.st_mtime_ns
            return Conflict(path, path) if attributes and changed and not self._resumed else None
        if not was.is_dir:
            return Conflict(path, path) if self._changed(was) > since else None
        for inner, node in _tree(self._view, path, was):
            if self._changed(node) > since:
                return Conflict(path, inner)
        return None

    def _changed(self, node: Node) -> int:
        """When something of a bottom became what it is; a directory, when it was made."""
        if not node.is_dir:
            return node.st.st_mtime_ns if self._resumed else node.st.st_ctime_ns
        place = node.places[0]
        with self._view.layers[place.layer].directory(place.path) as fd:
            return syscalls.statx(fd, "", syscalls.AT_EMPTY_PATH).btime_ns or 0

    def _born(self, path: bytes) -> int:
        """When the top's entry that speaks for ``path`` was made: itself, or the directory above.

        A file system without birth times gives the time of the last change, which is later:
        changes of the bottom before it go unseen.
        """
        while path:
            above, _, name = path.rpartition(b"/")
            try:
                return _birth(self._directory(above), name)
            except OSError as error:
                if error.errno not in VANISHED:
                    raise
            path = above
        return _birth(self._view.layers[0].fd, b"")

    def _directory(self, path: bytes) -> int:
        if self._kept is None or self._kept[0] != path:
            fd = self._view.layers[0].open_dir(path)
            self.close()
            self._kept = (path, fd)
        return self._kept[1]


def _birth(fd: int, name: bytes) -> int:
    flags = syscalls.AT_SYMLINK_NOFOLLOW if name else syscalls.AT_EMPTY_PATH
    born = syscalls.statx(fd, name, flags).btime_ns
    if born is not None:
        return born
    st = os.stat(name, dir_fd=fd, follow_symlinks=False) if name else os.fstat(fd)
    return st.st_ctime_ns


def _tree(view: View, path: bytes, node: Node) -> Iterator[tuple[bytes, Node]]:
    pending = [(path, node)]
    while pending:
        at, each = pending.pop()
        yield at, each
        if each.is_dir:
            with view.open(each) as directory:
                for name in directory.names():
                    child = directory.lookup(name)
                    if child is not None:
                        pending.append((at + b"/" + name, child))
