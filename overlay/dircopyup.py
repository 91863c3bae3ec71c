"""Directory copyup: on its first readdir() a directory gets fallthrus and is opaque then
(document L108–L111, L126, L533–L537).

The order matters, for a crash may come between any two steps: each entry is given what it
needs to stay the same under an opaque directory, then the directory is marked, then the
whiteouts go that nothing is left for.  Every state on the way shows the same tree.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from overlay import workdir
from overlay.inodes import shown
from overlay.layer import scan
from overlay.marks import (
    is_whiteout_device,
    read_marks,
    set_opaque,
    set_redirect,
    visible_xattrs,
    write_fallthru,
)
from overlay.matching import times_kept, top_directory
from overlay.stack import Directory, Stack
from overlay.view import Node

__all__ = ["DirEntry", "copy_directory_up", "entries"]


@dataclass(frozen=True, slots=True)
class DirEntry:
    """One entry as readdir() tells it: its name, inode number and type (an S_IF* value)."""

    name: bytes
    ino: int
    type: int


def entries(stack: Stack, directory: Directory) -> list[DirEntry]:
    """The visible entries of a directory in byte order, without the dots."""
    found = []
    with stack.view.open(directory.node) as opened:
        for name in sorted(opened.names()):
            node = opened.lookup(name)
            if node is not None:
                st = shown(stack, node)
                found.append(DirEntry(name, st.st_ino, stat.S_IFMT(st.st_mode)))
    return found


def copy_directory_up(stack: Stack, directory: Directory) -> bool:
    """Make a merged directory opaque, with a fallthru for all that only the bottoms have.

    False where there is nothing to do, or where it cannot be expressed: the root stays
    merged; a fallthru says where its file is in the union of the bottoms, so there has to
    be a way to it; and two names of one bottom file would become two files (L630).
    """
    lower = directory.lower
    # The kernel always merges the layers' roots, whatever mark is on the top's.
    if not lower or directory.below is None or directory.above is None:
        return False
    there = stack.view.find(stack.view.root(1), directory.below)
    if there is None or there.places != lower:
        return False
    with stack.view.open(directory.node) as opened:
        looked_up = ((name, opened.lookup(name)) for name in sorted(opened.names()))
        found = [(name, node) for name, node in looked_up if node is not None]
    if any(stack.is_linked(node) for _, node in found):
        return False
    with top_directory(stack, directory) as fd, times_kept(fd):
        # Mounts have to know that this top cannot be read by every profile.
        workdir.remember(stack.work_fd, stack.family, b"maybe")
        for name, node in found:
            _keep(stack, fd, directory, name, node)
        _replace_xattr_whiteouts(stack, fd)
        # Passed over in an opaque directory; it tells one that was copied up from one that
        # was made new, and where its fallthrus lead.
        set_redirect(fd, stack.family, b"/" + directory.below)
        set_opaque(fd, stack.family)
        for name, st in list(scan(fd)):
            if is_whiteout_device(st):
                os.unlink(name, dir_fd=fd)
    return True


def _keep(stack: Stack, fd: int, directory: Directory, name: bytes, node: Node) -> None:
    """See to it that an entry will be the same when its directory is opaque."""
    below = b"/" + directory.below + b"/" if directory.below else b"/"
    if node.places[0].layer > 0:
        target: bytes | None = None
        with stack.at(node.places[0]) as (bottom_fd, bottom_name):
            xattrs = visible_xattrs(bottom_fd, bottom_name, stack.family)
            if stat.S_ISLNK(node.st.st_mode):
                target = os.readlink(bottom_name or b"", dir_fd=bottom_fd)
        write_fallthru(
            fd,
            name,
            node.st,
            below + name,
            stack.family,
            work_fd=stack.aside.fd,
            target=target,
            xattrs=xattrs,
        )
        return
    redirect = node.marks.redirect
    merged = any(place.layer > 0 for place in node.places) or node.marks.metacopy is not None
    if merged and not (redirect or b"").startswith(b"/"):
        # It found its other part by its name in this directory, which will not be looked at.
        set_redirect(fd, stack.family, below + (redirect or name), name)


def _replace_xattr_whiteouts(stack: Stack, fd: int) -> None:
    """Whiteouts as devices: an opaque directory would show the other form."""
    if not read_marks(fd, None, os.fstat(fd), stack.family).xattr_whiteouts:
        return
    for name, st in list(scan(fd)):
        if read_marks(fd, name, st, stack.family).whiteout and not is_whiteout_device(st):
            with stack.aside.making() as made:
                try:
                    os.mknod(made, stat.S_IFCHR, 0, dir_fd=stack.aside.fd)
                except OSError as error:
                    if error.errno == errno.EPERM:
                        raise OSError(errno.EOPNOTSUPP, "no whiteout devices here") from None
                    raise
                stack.aside.put(made, fd, name, replace=True)
