"""What a commit would overwrite though the top never saw it.

The bottoms of a top are not to change (document L256).  Where one did, its newer state
must not be lost silently.  The kernel records neither the bottom's state nor the time of a
copyup, but the birth time of what is on the top tells: a file of the bottom whose status
changed after the top's entry was made is not the one that was copied up, whited out or
replaced.  The status time (ctime) of a file counts, which nobody can set.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from overlay import syscalls
from overlay.changes import Difference, Kind
from overlay.comparing import Aspect
from overlay.layer import VANISHED
from overlay.view import Node, View

__all__ = ["Conflict", "conflict"]


@dataclass(frozen=True, slots=True)
class Conflict:
    """``path`` of the union cannot be committed: ``newer``, on the bottom, would be lost."""

    path: bytes
    newer: bytes


def conflict(view: View, difference: Difference, *, resumed: bool) -> Conflict | None:
    """What committing ``difference`` would lose, if anything.

    ``resumed``: an earlier run was killed.  Its own removals changed the status of files
    that have several names, so that modification times have to do.
    """
    was = difference.was
    if was is None:
        return None
    path, change = difference.path, difference.change
    since = _born(view, path)
    now_is_dir = difference.now is not None and difference.now.is_dir
    if was.is_dir and now_is_dir and change.moved_from is None:
        # What is in it is told one by one; so this is about its attributes.
        st = was.st
        attributes = change.what & {Aspect.MODE, Aspect.OWNER, Aspect.XATTRS}
        # New entries set both times; only attributes set the one alone.
        changed = st.st_ctime_ns > since and st.st_ctime_ns != st.st_mtime_ns
        return Conflict(path, path) if attributes and changed and not resumed else None
    if change.kind is Kind.ADDED:
        return None
    for inner, node in _tree(view, path, was):
        if _changed(view, node, resumed=resumed) > since:
            return Conflict(path, inner)
    return None


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


def _changed(view: View, node: Node, *, resumed: bool) -> int:
    """When something of a bottom became what it is; a directory, when it was made."""
    if not node.is_dir:
        return node.st.st_mtime_ns if resumed else node.st.st_ctime_ns
    place = node.places[0]
    with view.layers[place.layer].directory(place.path) as fd:
        return syscalls.statx(fd, "", syscalls.AT_EMPTY_PATH).btime_ns or 0


def _born(view: View, path: bytes) -> int:
    """When the top's entry that speaks for ``path`` was made: itself, or the directory above.

    A file system without birth times gives the time of the last change, which is later:
    changes of the bottom before it go unseen.
    """
    top = view.layers[0]
    while path:
        try:
            with top.parent(path) as (fd, name):
                born = syscalls.statx(fd, name).btime_ns
                st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in VANISHED:
                raise
        else:
            return st.st_ctime_ns if born is None else born
        path = path.rpartition(b"/")[0]
    st = os.fstat(top.fd)
    assert stat.S_ISDIR(st.st_mode)
    born = syscalls.statx(top.fd, "", syscalls.AT_EMPTY_PATH).btime_ns
    return st.st_ctime_ns if born is None else born
