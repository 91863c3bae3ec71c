"""Making and removing entries: what the directory-changing system calls do to a top.

Something new is created on the top (document L118, L123), over a whiteout in one step;
a directory that takes a whiteout's place is opaque (L97, L125).  What is removed leaves a
whiteout where the bottoms have that name (L90–L93), and nothing where they have not.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from overlay import acl, syscalls
from overlay.copyup import copy_up
from overlay.credentials import EXECUTE, READ, WRITE, Capability, Credentials, failure, protection
from overlay.inodeflags import APPEND, IMMUTABLE, inherit_flags
from overlay.layer import exists
from overlay.linkup import forget_name
from overlay.lookup import Walker
from overlay.marks import set_opaque, temporary_name
from overlay.matching import top_directory
from overlay.stack import Directory, Stack, Target, read_acl

__all__ = ["Entries", "Maker", "is_empty", "lower_has", "may_create", "may_delete"]

#: Makes something under a temporary name; it is then dressed and put in its place.
Maker = Callable[[int, bytes], None]

_PATH_MAX: Final = 4096
_NODE_TYPES: Final = (stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)


@dataclass(frozen=True, slots=True)
class _Birth:
    """What something new gets from its maker and from the directory it is made in."""

    mode: int
    uid: int
    gid: int
    access: bytes | None
    default: bytes | None


def may_create(stack: Stack, who: Credentials, parent: Directory) -> None:
    """EACCES unless ``who`` may make entries in ``parent``."""
    stack.require(who, parent.node, WRITE | EXECUTE)


def may_delete(stack: Stack, who: Credentials, target: Target, *, is_dir: bool) -> None:
    """The checks before an entry goes, in the kernel's order (fs/namei.c, may_delete())."""
    node = target.node
    if node is None:
        raise failure(errno.ENOENT)
    stack.require(who, target.parent.node, WRITE | EXECUTE)
    stack.require_settable(target.parent.node, APPEND)
    who.require_not_sticky(target.parent.node.st, node.st)
    stack.require_settable(node)
    if is_dir and not node.is_dir:
        raise failure(errno.ENOTDIR)
    if not is_dir and node.is_dir:
        raise failure(errno.EISDIR)


def lower_has(stack: Stack, target: Target) -> bool:
    """Whether the bottoms have the name, so that its removal needs a whiteout."""
    return stack.below(target.parent, target.name) is not None


def is_empty(stack: Stack, target: Target) -> bool:
    """Whether a directory shows no entry; whiteouts in it do not count."""
    with stack.view.open(target.existing) as directory:
        return all(directory.lookup(name) is None for name in directory.names())


class Entries:
    """The operations on entries of one union, for one caller."""

    def __init__(self, stack: Stack, walker: Walker, who: Credentials) -> None:
        self._stack = stack
        self._walker = walker
        self._who = who

    def _entry(self, path: bytes) -> Target:
        return self._walker.look(self._walker.parent(path, self._who))

    def new_target(self, path: bytes, *, is_dir: bool = False) -> Target:
        """Where something new shall be (filename_create()): EEXIST if there is something."""
        target = self._entry(path)
        if target.node is not None:
            raise failure(errno.EEXIST)
        if target.slash and not is_dir:
            raise failure(errno.ENOENT)
        return target

    def mknod(self, path: bytes, mode: int, device: int) -> None:
        kind = stat.S_IFMT(mode) or stat.S_IFREG
        if kind == stat.S_IFDIR:
            raise failure(errno.EPERM)
        if kind not in _NODE_TYPES:
            raise failure(errno.EINVAL)
        target = self.new_target(path)
        may_create(self._stack, self._who, target.parent)
        is_device = kind in (stat.S_IFCHR, stat.S_IFBLK)
        is_whiteout = kind == stat.S_IFCHR and device == 0
        # Whoever looks at the top would take it for a whiteout (ovl_mknod()).
        if is_whiteout or (is_device and not self._who.can(Capability.MKNOD)):
            raise failure(errno.EPERM)

        def make(dirfd: int, name: bytes) -> None:
            os.mknod(name, kind | 0o600, device if is_device else 0, dir_fd=dirfd)

        self.create(target, kind | stat.S_IMODE(mode), make)

    def mkdir(self, path: bytes, mode: int) -> None:
        target = self.new_target(path, is_dir=True)
        may_create(self._stack, self._who, target.parent)

        def make(dirfd: int, name: bytes) -> None:
            os.mkdir(name, 0o700, dir_fd=dirfd)

        self.create(target, stat.S_IFDIR | mode & 0o1777, make)

    def symlink(self, to: bytes, path: bytes) -> None:
        if not to:
            raise failure(errno.ENOENT)
        if len(to) >= _PATH_MAX:
            raise failure(errno.ENAMETOOLONG)
        target = self.new_target(path)
        may_create(self._stack, self._who, target.parent)

        def make(dirfd: int, name: bytes) -> None:
            os.symlink(to, name, dir_fd=dirfd)

        self.create(target, stat.S_IFLNK | 0o777, make)

    def link(self, old: bytes, new: bytes, *, follow: bool) -> None:
        """A second name: the file is copied up first (L127)."""
        stack = self._stack
        source = self._walker.walk(old, self._who, follow=follow)
        node = source.existing
        target = self.new_target(new)
        self._protect_hardlinks(source)
        may_create(stack, self._who, target.parent)
        stack.require_settable(node)
        if node.is_dir:
            raise failure(errno.EPERM)
        copy_up(stack, source)
        with (
            top_directory(stack, target.parent) as dirfd,
            stack.top.parent(source.parent.child(source.name)) as (from_fd, name),
        ):
            if not exists(dirfd, target.name):
                _link(from_fd, name, dirfd, target.name)
                return
            with stack.aside.making() as made:
                _link(from_fd, name, stack.aside.fd, made)
                stack.aside.put(made, dirfd, target.name, replace=True)

    def _protect_hardlinks(self, source: Target) -> None:
        """EPERM for links to what the caller could not write (may_linkat())."""
        node, st = source.existing, source.existing.st
        if self._who.owns(st) or not protection("protected_hardlinks"):
            return
        set_ids = st.st_mode & stat.S_ISUID or st.st_mode & 0o2010 == 0o2010
        unsafe = not stat.S_ISREG(st.st_mode) or set_ids
        if unsafe or not self._stack.permitted(self._who, node, READ | WRITE):
            raise failure(errno.EPERM)
        self._stack.require_settable(node, IMMUTABLE)

    def unlink(self, path: bytes) -> None:
        stack = self._stack
        target = self._entry(path)
        if not target.name:
            raise failure(errno.EISDIR)
        if target.slash and target.node is not None:
            raise failure(errno.EISDIR if target.node.is_dir else errno.ENOTDIR)
        may_delete(stack, self._who, target, is_dir=False)
        self._remove(target)

    def rmdir(self, path: bytes) -> None:
        stack = self._stack
        target = self._entry(path)
        if not target.name:
            dots = {b".": errno.EINVAL, b"..": errno.ENOTEMPTY}
            raise failure(dots.get(target.last, errno.EBUSY))
        may_delete(stack, self._who, target, is_dir=True)
        if not is_empty(stack, target):
            raise failure(errno.ENOTEMPTY)
        self._remove(target)

    def _remove(self, target: Target) -> None:
        stack, name = self._stack, target.name
        hidden = lower_has(stack, target)
        with top_directory(stack, target.parent) as dirfd:
            if hidden:
                stack.whiteout(dirfd, name, replace=target.on_top)
            elif not target.existing.is_dir:
                os.unlink(name, dir_fd=dirfd)
            else:
                remove_directory(stack, dirfd, name)
        forget_name(stack, target.existing)

    # ------------------------------------------------------------------ creating

    def create(self, target: Target, mode: int, make: Maker) -> None:
        """Make something (``mode`` with its type) aside, and put it in its place."""
        stack = self._stack
        is_dir = stat.S_ISDIR(mode)
        with top_directory(stack, target.parent) as dirfd, stack.aside.making() as made:
            make(stack.aside.fd, made)
            self._dress(made, dirfd, mode)
            self._put(made, dirfd, target.name, is_dir=is_dir)

    def _put(self, made: bytes, dirfd: int, name: bytes, *, is_dir: bool) -> None:
        """Put something new in its place, which is free or has a whiteout."""
        stack = self._stack
        replaces = exists(dirfd, name)
        if replaces and is_dir:
            set_opaque(stack.aside.fd, stack.family, made)
        stack.aside.put(made, dirfd, name, replace=replaces)

    def birth(self, dirfd: int, mode: int) -> _Birth:
        """Mode, owner and lists of something new (inode_init_owner(), posix_acl_create())."""
        who, parent = self._who, os.fstat(dirfd)
        kind, bits = stat.S_IFMT(mode), stat.S_IMODE(mode)
        gid = who.gid
        if parent.st_mode & stat.S_ISGID:
            gid = parent.st_gid
            if kind == stat.S_IFDIR:
                bits |= stat.S_ISGID
            elif bits & 0o2010 == 0o2010 and not who.in_group(gid):
                bits &= ~stat.S_ISGID
        inherited = None if kind == stat.S_IFLNK else read_acl(dirfd, None, acl.DEFAULT)
        if inherited is None:
            bits &= ~who.umask
            return _Birth(kind | bits, who.uid, gid, None, None)
        access, bits = acl.inherit(inherited, bits)
        return _Birth(
            kind | bits,
            who.uid,
            gid,
            None if access is None else acl.encode(access),
            acl.encode(inherited) if kind == stat.S_IFDIR else None,
        )

    def _dress(self, made: bytes, dirfd: int, mode: int) -> None:
        """Give something new what it would have if it had been made in ``dirfd``."""
        fd = syscalls.open_beneath(self._stack.aside.fd, made, os.O_PATH)
        try:
            dress_new(fd, self.birth(dirfd, mode))
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                inherit_flags(dirfd, fd, is_dir=stat.S_ISDIR(mode))
        finally:
            os.close(fd)


def dress_new(fd: int, birth: _Birth) -> None:
    """Give something just made, by any descriptor on it, what :meth:`Entries.birth` says."""
    path, now = syscalls.fd_path(fd), os.fstat(fd)
    if (now.st_uid, now.st_gid) != (birth.uid, birth.gid):
        os.chown(path, birth.uid, birth.gid)
    if stat.S_ISLNK(birth.mode):
        return
    os.chmod(path, stat.S_IMODE(birth.mode))
    for attribute, value in ((acl.ACCESS, birth.access), (acl.DEFAULT, birth.default)):
        if value is not None:
            os.setxattr(path, attribute, value)


def _link(from_fd: int, name: bytes, to_fd: int, new_name: bytes) -> None:
    os.link(name, new_name, src_dir_fd=from_fd, dst_dir_fd=to_fd, follow_symlinks=False)


def remove_directory(stack: Stack, dirfd: int, name: bytes) -> None:
    """Remove a directory of the top that shows nothing; whiteouts in it go with it."""
    try:
        os.rmdir(name, dir_fd=dirfd)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        away = temporary_name()
        syscalls.renameat2(dirfd, name, stack.aside.fd, away)
        stack.aside.drop(away)
