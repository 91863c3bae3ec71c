"""open and truncate: every combination of flags, and when they copy up.

An open that can alter the file copies it up, after all permission checks (document L120,
L332–L333, L361–L404); O_APPEND, O_DIRECT and O_PATH make no altering out of O_RDONLY (L341).
The checks come in the order of do_open() and may_open() in the kernel's fs/namei.c.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from overlay import syscalls
from overlay.copyup import copy_up, open_data, raised
from overlay.credentials import EXECUTE, READ, WRITE, Credentials, failure
from overlay.entries import Entries, dress_new, may_create
from overlay.lookup import Walker
from overlay.stack import Stack, Target
from overlay.view import Node

__all__ = ["Opener"]

_WANT: Final = {os.O_RDONLY: READ, os.O_WRONLY: WRITE, os.O_RDWR: READ | WRITE}
#: All that O_PATH leaves of the flags (open(2)).
_PATH_FLAGS: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: What only the engine's own lookup has to know.
_LOOKUP_FLAGS: Final = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


class Opener:
    """The open calls of one union, for one caller."""

    def __init__(self, stack: Stack, walker: Walker, entries: Entries, who: Credentials) -> None:
        self._stack = stack
        self._walker = walker
        self._entries = entries
        self._who = who

    def open(self, path: bytes, flags: int, mode: int) -> int:
        """A descriptor on the real file; see :meth:`overlay.union.Union.open`."""
        flags = _checked(flags)
        excl = flags & os.O_CREAT and flags & os.O_EXCL
        follow = not (flags & os.O_NOFOLLOW or excl)
        creates = bool(flags & os.O_CREAT)
        target = self._walker.walk(path, self._who, follow=follow, creates=creates)
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            return self._tmpfile(target, flags, mode)
        if target.node is None:
            return self._create(target, flags, mode)
        return self._open_existing(target, target.node, flags)

    def _create(self, target: Target, flags: int, mode: int) -> int:
        if not flags & os.O_CREAT:
            raise failure(errno.ENOENT)
        may_create(self._stack, self._who, target.parent)
        opened = []

        def make(dirfd: int, name: bytes) -> None:
            exclusive = flags & ~os.O_NOATIME | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            opened.append(os.open(name, exclusive, 0o600, dir_fd=dirfd))

        try:
            self._entries.create(target, stat.S_IFREG | mode & 0o7777, make)
        except BaseException:
            for fd in opened:
                os.close(fd)
            raise
        return opened[0]

    def _tmpfile(self, target: Target, flags: int, mode: int) -> int:
        node = target.existing
        if not node.is_dir:
            raise failure(errno.ENOTDIR)
        self._stack.require(self._who, node, WRITE | EXECUTE)
        with raised(self._stack, target) as top_fd:
            fd = os.open(syscalls.fd_path(top_fd), flags & ~os.O_NOFOLLOW, 0o600)
            try:
                birth = self._entries.birth(top_fd, stat.S_IFREG | mode & 0o7777)
                dress_new(fd, birth)
            except BaseException:
                os.close(fd)
                raise
            return fd

    def _open_existing(self, target: Target, node: Node, flags: int) -> int:
        self._check_lookup(target, node, flags)
        if flags & os.O_PATH:
            return self._open_real(node, flags)
        want = _WANT[flags & os.O_ACCMODE] | (WRITE if flags & os.O_TRUNC else 0)
        self._may_open(node, want, flags)
        if node.is_dir:
            return self._open_directory(target, flags)
        if not stat.S_ISREG(node.st.st_mode):
            return self._open_real(node, flags & ~os.O_TRUNC)
        if want & WRITE:
            return self._open_for_writing(target, node, flags)
        return self._open_for_reading(node, flags)

    def _check_lookup(self, target: Target, node: Node, flags: int) -> None:
        """What the flags ask of the thing found (do_open())."""
        if flags & os.O_CREAT:
            if flags & os.O_EXCL:
                raise failure(errno.EEXIST)
            if node.is_dir:
                raise failure(errno.EISDIR)
            self._who.require_sticky_open(target.parent.node.st, node.st)
        if (target.slash or flags & os.O_DIRECTORY) and not node.is_dir:
            raise failure(errno.ENOTDIR)

    def _may_open(self, node: Node, want: int, flags: int) -> None:
        """Whether it may be opened so (may_open())."""
        kind = stat.S_IFMT(node.st.st_mode)
        if kind == stat.S_IFLNK:
            raise failure(errno.ELOOP)
        if kind == stat.S_IFDIR and want & WRITE:
            raise failure(errno.EISDIR)
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            # As on a mount with nodev: a layer's device nodes are data, not devices.
            raise failure(errno.EACCES)
        self._stack.require(self._who, node, want)
        self._stack.require_openable(node, want, flags)
        if flags & os.O_NOATIME:
            self._who.require_owner(node.st)

    def _open_for_writing(self, target: Target, node: Node, flags: int) -> int:
        stack = self._stack
        truncates = bool(flags & os.O_TRUNC)
        mode = self._who.mode_after_write(node.st) if truncates else None
        copy_up(stack, target, 0 if truncates else None, mode=mode)
        with stack.top.parent(target.parent.child(target.name)) as (dirfd, name):
            fd = syscalls.open_beneath(dirfd, name, flags & ~_LOOKUP_FLAGS)
        if mode is not None and mode != stat.S_IMODE(node.st.st_mode):
            os.fchmod(fd, mode)
        return fd

    def _open_for_reading(self, node: Node, flags: int) -> int:
        if node.data is None:
            raise failure(errno.EIO)
        if node.data.layer > 0:
            # A bottom is never altered, its access times neither (L237, L433).
            os.close(open_data(self._stack, node))
            layer = self._stack.view.layers[node.data.layer]
            return layer.open_file(node.data.path, flags & ~_LOOKUP_FLAGS)
        return self._open_real(node, flags)

    def _open_directory(self, target: Target, flags: int) -> int:
        """The top's directory, where there is or can be one; else the uppermost bottom's."""
        flags &= ~_LOOKUP_FLAGS
        try:
            with raised(self._stack, target) as fd:
                return os.open(b".", flags | os.O_CLOEXEC, dir_fd=fd)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
                raise
        return self._open_real(target.existing, flags)

    def _open_real(self, node: Node, flags: int) -> int:
        place = node.places[0]
        return self._stack.view.layers[place.layer].open_file(place.path, flags & ~_LOOKUP_FLAGS)

    def truncate(self, path: bytes, size: int) -> None:
        """truncate(2): only what the file keeps is copied up (L120, L400–L401)."""
        if size < 0:
            raise failure(errno.EINVAL)
        stack, who = self._stack, self._who
        target = self._walker.walk(path, who)
        node = target.existing
        if node.is_dir:
            raise failure(errno.EISDIR)
        if not stat.S_ISREG(node.st.st_mode):
            raise failure(errno.EINVAL)
        stack.require(who, node, WRITE)
        stack.require_openable(node, WRITE, os.O_TRUNC)
        mode = who.mode_after_write(node.st)
        if not target.on_top or (node.marks.metacopy is not None and node.st.st_nlink == 1):
            copy_up(stack, target, size, mode=mode)
            return
        with raised(stack, target) as fd:
            os.truncate(syscalls.fd_path(fd), size)
            if mode != stat.S_IMODE(node.st.st_mode):
                os.chmod(syscalls.fd_path(fd), mode)


def _checked(flags: int) -> int:
    """The flags as the kernel takes them (build_open_flags()); EINVAL for nonsense."""
    if flags & os.O_PATH:
        return flags & _PATH_FLAGS
    if flags & os.O_ACCMODE not in _WANT:
        raise failure(errno.EINVAL)
    is_tmpfile = flags & os.O_TMPFILE == os.O_TMPFILE
    if is_tmpfile and (flags & os.O_CREAT or flags & os.O_ACCMODE == os.O_RDONLY):
        raise failure(errno.EINVAL)
    # Since 6.4; before, such an open could make a file that is no directory.
    if flags & os.O_CREAT and flags & os.O_DIRECTORY:
        raise failure(errno.EINVAL)
    return flags
