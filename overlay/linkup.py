"""Copying up a bottom file with several names: into the index, and from there to the name.

In the order that a crash may interrupt anywhere: the copy enters the index whole, and
with that stands for all names at once; a name on the top comes next, the count last.  In
between the count may be one too high, never too low: a copy without names is removed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from overlay import syscalls
from overlay.linkindex import LinkIndex, links, set_links
from overlay.matching import times_kept, top_directory
from overlay.stack import Stack, Target
from overlay.view import Node

__all__ = ["forget_name", "link_up"]


def link_up(stack: Stack, target: Target, make: Callable[[bytes], None]) -> bool:
    """Bring a file with several names to the top; ``make`` makes its copy aside.

    False where there is no index for it: then the name is copied up for itself.
    """
    index, node = stack.index, target.existing
    if index is None:
        return False
    if stack.is_indexed(node):
        copy = node.places[0].path
        names = node.st.st_nlink
    else:
        handle = _handle(stack, index, node)
        if handle is None:
            return False
        copy = handle.hex().encode()
        names = node.st.st_nlink
        with stack.aside.making() as made:
            make(made)
            attribute = stack.family.attribute("origin")
            syscalls.setxattr(stack.aside.fd, attribute, handle, made)
            set_links(stack.aside.fd, made, stack.family, "U", names - 1)
            stack.aside.put(made, index.fd, copy, replace=False)
    with top_directory(stack, target.parent) as dirfd, times_kept(dirfd):
        os.link(copy, target.name, src_dir_fd=index.fd, dst_dir_fd=dirfd, follow_symlinks=False)
    _count(stack, index, copy, names)
    return True


def _handle(stack: Stack, index: LinkIndex, node: Node) -> bytes | None:
    with stack.at(node.places[0]) as (fd, name):
        return index.handle(node.places[0], fd, name or b"")


def _count(stack: Stack, index: LinkIndex, copy: bytes, names: int) -> None:
    """Write down how many names the union shows of a copy; without any it goes."""
    if names <= 0:
        os.unlink(copy, dir_fd=index.fd)
        return
    real = os.stat(copy, dir_fd=index.fd, follow_symlinks=False).st_nlink
    set_links(index.fd, copy, stack.family, "U", names - real)


def forget_name(stack: Stack, node: Node) -> None:
    """Count one name less of what ``node`` was, after that name is gone.

    A name on the top was a link of the copy and counts by itself; a name on the bottom,
    hidden now, does not.  Failing here loses nothing but a right link count.
    """
    index = stack.index
    if index is None or "nlink" not in node.marks.others:
        return  # nobody has counted
    with suppress(OSError):
        if stack.is_indexed(node):
            _count(stack, index, node.places[0].path, node.st.st_nlink - 1)
        else:
            _drop_last(stack, index, node)


def _drop_last(stack: Stack, index: LinkIndex, node: Node) -> None:
    """Remove the index's copy of what had its last name on the top."""
    for copy in os.listdir(index.fd):
        name = os.fsencode(copy)
        st = os.stat(name, dir_fd=index.fd, follow_symlinks=False)
        if os.path.samestat(st, node.st):
            if links(index.fd, name, stack.family, st.st_nlink, None) == 0:
                os.unlink(name, dir_fd=index.fd)
            return
