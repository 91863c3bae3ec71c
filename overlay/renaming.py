"""rename: a file is copied up to its old name, then moved; a whiteout stays (L510–L524).

A directory that the bottoms know is not renamed: EXDEV (L130, L512, L636).  Whether one
that is on the top alone may be, the document leaves no doubt (never); overlayfs renames
it.  ``move_directories`` chooses.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from overlay import syscalls
from overlay.copyup import copy_up
from overlay.credentials import WRITE, Credentials, failure
from overlay.dressing import dress
from overlay.entries import is_empty, lower_has, may_create, may_delete
from overlay.layer import exists
from overlay.linkup import forget_name
from overlay.lookup import Walker
from overlay.marks import Whiteout, set_opaque
from overlay.matching import top_directory
from overlay.stack import Directory, Stack, Target
from overlay.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from overlay.view import Node

__all__ = ["rename"]

_FLAGS: Final = RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT


def rename(
    stack: Stack,
    walker: Walker,
    who: Credentials,
    old: bytes,
    new: bytes,
    flags: int,
    *,
    move_directories: bool,
) -> None:
    """renameat2(2) within the union, without RENAME_WHITEOUT (EINVAL, as in overlayfs)."""
    other = flags & (RENAME_NOREPLACE | RENAME_WHITEOUT)
    if flags & ~_FLAGS or (flags & RENAME_EXCHANGE and other):
        raise failure(errno.EINVAL)
    source = walker.parent(old, who)
    target = walker.parent(new, who)
    if not source.name:
        raise failure(errno.EBUSY)
    if not target.name:
        raise failure(errno.EEXIST if flags & RENAME_NOREPLACE else errno.EBUSY)
    source = walker.look(source)
    if source.node is None:
        raise failure(errno.ENOENT)
    target = walker.look(target)
    exchange = bool(flags & RENAME_EXCHANGE)
    _check_names(source, source.node, target, flags)
    if _same_file(stack, source, source.node, target):
        return
    _check_permissions(stack, who, source, target, exchange=exchange)
    if flags & RENAME_WHITEOUT:
        raise failure(errno.EINVAL)
    for each in (source, target) if exchange else (source,):
        if each.existing.is_dir and not _moves(each, move_directories):
            raise failure(errno.EXDEV)
    replaced_dir = target.node is not None and target.node.is_dir and not exchange
    if replaced_dir and not is_empty(stack, target):
        raise failure(errno.ENOTEMPTY)
    _bring_up(stack, source)
    if exchange:
        _bring_up(stack, target)
        _exchange(stack, source, target)
    else:
        _move(stack, source, target)
        if target.node is not None:
            forget_name(stack, target.node)


def _check_names(source: Target, node: Node, target: Target, flags: int) -> None:
    """What do_renameat2() asks of the two names, in its order."""
    if flags & RENAME_NOREPLACE and target.node is not None:
        raise failure(errno.EEXIST)
    if flags & RENAME_EXCHANGE:
        if target.node is None:
            raise failure(errno.ENOENT)
        if target.slash and not target.node.is_dir:
            raise failure(errno.ENOTDIR)
    if not node.is_dir:
        to_slash = target.slash and not flags & RENAME_EXCHANGE
        if source.slash or to_slash:
            raise failure(errno.ENOTDIR)
    old, new = source.parent.child(source.name), target.parent.child(target.name)
    if new.startswith(old + b"/"):
        raise failure(errno.EINVAL)
    if old.startswith(new + b"/"):
        raise failure(errno.EINVAL if flags & RENAME_EXCHANGE else errno.ENOTEMPTY)


def _same_file(stack: Stack, source: Target, node: Node, target: Target) -> bool:
    """Whether both are one file, and so nothing happens (vfs_rename())."""
    if target.node is None:
        return False
    if node.places == target.node.places:
        return True
    # Without an index two names of one bottom file are two files (L630).
    comparable = stack.index is not None or (source.on_top and target.on_top)
    return comparable and os.path.samestat(node.st, target.node.st)


def _check_permissions(
    stack: Stack, who: Credentials, source: Target, target: Target, *, exchange: bool
) -> None:
    """The checks of vfs_rename(), in its order."""
    is_dir = source.existing.is_dir
    may_delete(stack, who, source, is_dir=is_dir)
    if target.node is None:
        may_create(stack, who, target.parent)
    else:
        may_delete(stack, who, target, is_dir=target.node.is_dir if exchange else is_dir)
    if source.parent.path != target.parent.path:
        # A directory that moves has its ".." written.
        if is_dir:
            stack.require(who, source.existing, WRITE)
        if exchange and target.node is not None and target.node.is_dir:
            stack.require(who, target.node, WRITE)


def _moves(target: Target, move_directories: bool) -> bool:
    """Whether a directory may be renamed: at most one that nothing lies below."""
    return move_directories and target.on_top and len(target.existing.places) == 1


def _bring_up(stack: Stack, target: Target) -> None:
    if not target.existing.is_dir:
        copy_up(stack, target)


def _hide_below(stack: Stack, target: Target, new_parent: Directory) -> None:
    """Make a directory opaque that comes to a place where it would merge with a bottom's."""
    if target.existing.is_dir and new_parent.lower and not target.existing.marks.opaque:
        with stack.top.directory(target.parent.child(target.name)) as fd:
            set_opaque(fd, stack.family)


def _exchange(stack: Stack, source: Target, target: Target) -> None:
    _hide_below(stack, source, target.parent)
    _hide_below(stack, target, source.parent)
    with (
        top_directory(stack, source.parent) as from_fd,
        top_directory(stack, target.parent) as to_fd,
    ):
        syscalls.renameat2(from_fd, source.name, to_fd, target.name, RENAME_EXCHANGE)


def _move(stack: Stack, source: Target, target: Target) -> None:
    _hide_below(stack, source, target.parent)
    leaves_whiteout = lower_has(stack, source)
    with (
        top_directory(stack, source.parent) as from_fd,
        top_directory(stack, target.parent) as to_fd,
    ):
        if source.existing.is_dir and exists(to_fd, target.name):
            if target.node is None:
                # A directory does not replace a whiteout: they change places.
                syscalls.renameat2(from_fd, source.name, to_fd, target.name, RENAME_EXCHANGE)
                if not leaves_whiteout:
                    os.unlink(source.name, dir_fd=from_fd)
                return
            _clear(stack, target, to_fd)
        if not leaves_whiteout:
            syscalls.renameat2(from_fd, source.name, to_fd, target.name)
        elif not _move_leaving_whiteout(stack, from_fd, source.name, to_fd, target.name):
            _move_in_two_steps(stack, source, from_fd, target.name, to_fd)


def _clear(stack: Stack, target: Target, to_fd: int) -> None:
    """Make a directory that shows nothing empty in truth, so that a rename replaces it."""
    with stack.aside.making() as made:
        os.mkdir(made, 0o700, dir_fd=stack.aside.fd)
        dress(stack, made, target.existing)
        set_opaque(stack.aside.fd, stack.family, made)
        stack.aside.put(made, to_fd, target.name, replace=True)


def _move_leaving_whiteout(
    stack: Stack, from_fd: int, name: bytes, to_fd: int, new_name: bytes
) -> bool:
    """One rename that leaves a whiteout; False where the file system has no such."""
    if stack.form is not Whiteout.DEVICE:
        return False
    try:
        syscalls.renameat2(from_fd, name, to_fd, new_name, RENAME_WHITEOUT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def _move_in_two_steps(
    stack: Stack, source: Target, from_fd: int, new_name: bytes, to_fd: int
) -> None:
    """Where one step is not to be had (ext2): a crash between the two leaves both names."""
    if source.existing.is_dir:
        syscalls.renameat2(from_fd, source.name, to_fd, new_name)
        stack.whiteout(from_fd, source.name, replace=False)
        return
    with stack.aside.making() as made:
        os.link(
            source.name,
            made,
            src_dir_fd=from_fd,
            dst_dir_fd=stack.aside.fd,
            follow_symlinks=False,
        )
        stack.aside.put(made, to_fd, new_name, replace=True)
    stack.whiteout(from_fd, source.name, replace=True)
