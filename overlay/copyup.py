"""File copyup (document L105–L106, L324–L360).

A copy is made aside with everything it has to have, and put in its place by one rename:
nobody ever sees half of it, and a failure at any step leaves the union as it was.
Whoever has the bottom's file open keeps it (L350–L354).  Permission is not asked here:
that comes first, in the caller (L361–L404).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from overlay import syscalls
from overlay.copydata import copy_data
from overlay.credentials import failure
from overlay.dressing import dress
from overlay.linkup import link_up
from overlay.marks import clear_mark
from overlay.matching import times_kept, top_directory
from overlay.stack import Directory, Stack, Target
from overlay.view import Node

__all__ = ["copy_up", "open_data", "raised"]


@contextmanager
def raised(stack: Stack, target: Target) -> Iterator[int]:
    """What is at ``target``, brought to the top: an O_PATH descriptor on it.

    The calls that refuse O_PATH take :func:`overlay.syscalls.fd_path` of it.
    """
    node = target.existing
    if not target.name:
        with top_directory(stack, target.parent) as fd:
            yield fd
        return
    if node.is_dir:
        path = target.parent.child(target.name)
        with top_directory(stack, Directory(node, path, None, target.parent)) as fd:
            yield fd
        return
    copy_up(stack, target)
    with stack.top.parent(target.parent.child(target.name)) as (dirfd, name):
        fd = syscalls.open_beneath(dirfd, name, os.O_PATH)
        try:
            yield fd
        finally:
            os.close(fd)


def copy_up(
    stack: Stack, target: Target, size: int | None = None, *, mode: int | None = None
) -> None:
    """Copy a file up (anything but a directory), unless it is on the top already.

    With ``size`` the copy is truncated to that many bytes, and only those it keeps are
    read (L120, L400–L401); ``mode`` are then its permissions.
    """
    node = target.existing
    on_top = target.on_top
    if on_top and node.marks.metacopy is None:
        return
    if on_top and (node.st.st_nlink > 1 or "nlink" in node.marks.others):
        # Another name of it would keep the stub: its data come to where it is.
        _fill(stack, target, node)
        return

    def make(made: bytes) -> None:
        if stat.S_ISREG(node.st.st_mode):
            _copy_file(stack, made, node, size, mode)
        else:
            _copy_special(stack, made, node)

    if stack.is_linked(node) and link_up(stack, target, make):
        if stack.is_indexed(node) and size is not None:
            _truncate(stack, target, size, mode)
        return
    with top_directory(stack, target.parent) as dirfd, stack.aside.making() as made:
        make(made)
        with times_kept(dirfd):
            stack.aside.put(made, dirfd, target.name, replace=on_top)


def _truncate(stack: Stack, target: Target, size: int, mode: int | None) -> None:
    """Truncate what was on the top already, under another name."""
    with stack.top.parent(target.parent.child(target.name)) as (dirfd, name):
        fd = syscalls.open_beneath(dirfd, name, os.O_PATH)
        try:
            os.truncate(syscalls.fd_path(fd), size)
            if mode is not None:
                os.chmod(syscalls.fd_path(fd), mode)
        finally:
            os.close(fd)


def _copy_file(stack: Stack, made: bytes, node: Node, size: int | None, mode: int | None) -> None:
    length = node.st.st_size
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    copy = os.open(made, flags, 0o600, dir_fd=stack.aside.fd)
    try:
        wanted = length if size is None else min(length, size)
        if wanted:
            source = open_data(stack, node)
            try:
                copy_data(source, copy, wanted)
            finally:
                os.close(source)
        os.ftruncate(copy, length)
        dress(stack, made, node)
        if size is not None and size != length:
            # Only now: the kernel sets the times and drops capabilities with it.
            os.ftruncate(copy, size)
        if mode is not None and mode != stat.S_IMODE(node.st.st_mode):
            os.fchmod(copy, mode)
        if stack.sync:
            # The rename must not reach the disk before the data do.
            os.fsync(copy)
    finally:
        os.close(copy)


def open_data(stack: Stack, node: Node) -> int:
    """A descriptor on a regular file's data; EIO if a fallthru's bottom file is gone."""
    if node.data is None:
        raise failure(errno.EIO)
    fd = stack.view.open_data(node.data)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise failure(errno.EIO)
    return fd


def _copy_special(stack: Stack, made: bytes, node: Node) -> None:
    if stat.S_ISLNK(node.st.st_mode):
        with stack.at(node.places[0]) as (fd, name):
            os.symlink(os.readlink(name or b"", dir_fd=fd), made, dir_fd=stack.aside.fd)
    else:
        kind = stat.S_IFMT(node.st.st_mode)
        os.mknod(made, kind | 0o600, node.st.st_rdev, dir_fd=stack.aside.fd)
    dress(stack, made, node)


def _fill(stack: Stack, target: Target, node: Node) -> None:
    """Bring a stub's data to it; the mark goes last, and until then they are not looked at."""
    with stack.top.parent(target.parent.child(target.name)) as (dirfd, name):
        copy = syscalls.open_beneath(dirfd, name, os.O_RDWR)
        try:
            source = open_data(stack, node)
            try:
                copy_data(source, copy, node.st.st_size)
            finally:
                os.close(source)
            os.ftruncate(copy, node.st.st_size)
            os.utime(copy, ns=(node.st.st_atime_ns, node.st.st_mtime_ns))
            if stack.sync:
                os.fsync(copy)
            clear_mark(copy, stack.family, "metacopy")
        finally:
            os.close(copy)
