"""chmod, chown, utimes, extended attributes and access lists: metadata, with copyup.

All of them copy a bottom's file up first (document L122, L327–L337, L358), after the
permission checks, and a directory by making its matching one.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from overlay import acl, syscalls
from overlay.copyup import raised
from overlay.credentials import READ, WRITE, Capability, Credentials, failure
from overlay.inodeflags import APPEND, IMMUTABLE, get_flags, open_for_flags, set_flags
from overlay.lookup import Walker
from overlay.marks import visible_xattrs
from overlay.stack import Stack, Target
from overlay.view import Node

__all__ = ["Attributes"]

_NAME_MAX: Final = 255
_ACLS: Final = (acl.ACCESS, acl.DEFAULT)
_CAPABILITY: Final = "security.capability"
#: Name spaces in which the permission bits do not matter.
_OTHER_RULES: Final = ("trusted.", "security.", "system.")
#: Sizes and revisions of struct vfs_cap_data (include/uapi/linux/capability.h).
_CAPABILITY_FORMS: Final = ((20, 0x02000000), (24, 0x03000000))


class Attributes:
    """The operations on attributes in one union, for one caller."""

    def __init__(self, stack: Stack, walker: Walker, who: Credentials) -> None:
        self._stack = stack
        self._walker = walker
        self._who = who

    def _target(self, path: bytes, *, follow: bool) -> tuple[Target, Node]:
        target = self._walker.walk(path, self._who, follow=follow)
        return target, target.existing

    def chmod(self, path: bytes, mode: int, *, follow: bool) -> None:
        target, node = self._target(path, follow=follow)
        if stat.S_ISLNK(node.st.st_mode):
            raise failure(errno.EOPNOTSUPP)
        self._stack.require_settable(node)
        self._who.require_owner(node.st)
        mode &= 0o7777
        if not self._who.in_group(node.st.st_gid):
            mode &= ~stat.S_ISGID
        with raised(self._stack, target) as fd:
            os.chmod(syscalls.fd_path(fd), mode)

    def chown(self, path: bytes, uid: int, gid: int, *, follow: bool) -> None:
        target, node = self._target(path, follow=follow)
        if (uid, gid) != (-1, -1):
            self._stack.require_settable(node)
        self._who.require_chown(node.st, uid, gid)
        if not node.is_dir and self._who.loses_set_ids(node.st):
            self._who.require_owner(node.st)  # it is a chmod as well then
        with raised(self._stack, target) as fd:
            os.chown(syscalls.fd_path(fd), uid, gid)
            # Without S_IXGRP the kernel lets us keep the bit, which the caller may not.
            after = os.fstat(fd).st_mode
            loses = not node.is_dir and not self._who.in_group(node.st.st_gid)
            if loses and after & stat.S_ISGID:
                os.chmod(syscalls.fd_path(fd), stat.S_IMODE(after) & ~stat.S_ISGID)

    def utime(self, path: bytes, ns: tuple[int, int] | None, *, follow: bool) -> None:
        target, node = self._target(path, follow=follow)
        self._stack.require_settable(node, IMMUTABLE | (0 if ns is None else APPEND))
        if not self._who.owns(node.st):
            if ns is not None:
                raise failure(errno.EPERM)
            self._stack.require(self._who, node, WRITE)
        with raised(self._stack, target) as fd:
            if ns is None:
                os.utime(syscalls.fd_path(fd))
            else:
                os.utime(syscalls.fd_path(fd), ns=ns)

    # ---------------------------------------------------------------- inode flags

    def get_flags(self, path: bytes) -> int:
        _, node = self._target(path, follow=True)
        self._require_flags(node)
        place = node.places[0] if node.is_dir else node.data or node.places[0]
        layer = self._stack.view.layers[place.layer]
        fd = layer.open_file(place.path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return get_flags(fd) & ~(IMMUTABLE | APPEND) | self._stack.protection(node)
        finally:
            os.close(fd)

    def set_flags(self, path: bytes, flags: int) -> None:
        target, node = self._target(path, follow=True)
        self._require_flags(node)
        self._who.require_owner(node.st)
        changed = (flags ^ self._stack.protection(node)) & (IMMUTABLE | APPEND)
        if changed and not self._who.can(Capability.LINUX_IMMUTABLE):
            raise failure(errno.EPERM)
        with raised(self._stack, target) as fd:
            file = open_for_flags(fd)
            try:
                set_flags(file, flags, self._stack.family)
            finally:
                os.close(file)

    def _require_flags(self, node: Node) -> None:
        """The ioctl takes a readable descriptor on a file or directory."""
        self._stack.require(self._who, node, READ)
        if not (node.is_dir or stat.S_ISREG(node.st.st_mode)):
            raise failure(errno.ENXIO if stat.S_ISSOCK(node.st.st_mode) else errno.ENOTTY)

    # ------------------------------------------------------- extended attributes

    def getxattr(self, path: bytes, attribute: str, *, follow: bool) -> bytes:
        self._check_name(attribute)
        _, node = self._target(path, follow=follow)
        self._may_read(node, attribute)
        return self._value(node, attribute)

    def listxattr(self, path: bytes, *, follow: bool) -> list[str]:
        _, node = self._target(path, follow=follow)
        with self._stack.at(node.places[0]) as (fd, name):
            found = visible_xattrs(fd, name, self._stack.family)
        if not self._who.can(Capability.SYS_ADMIN):
            return [each for each in found if not each.startswith("trusted.")]
        return list(found)

    def setxattr(
        self, path: bytes, attribute: str, value: bytes, flags: int, *, follow: bool
    ) -> None:
        self._check_name(attribute)
        target, node = self._target(path, follow=follow)
        if attribute in _ACLS:
            acl.parse(value)
            self._may_set_acl(node, attribute)
        else:
            if attribute == _CAPABILITY and value:
                self._check_capability(value)
            self._may_write(node, attribute)
        if flags:
            self._check_presence(node, attribute, flags)
        with raised(self._stack, target) as fd:
            os.setxattr(syscalls.fd_path(fd), self._stack.stored(attribute), value)
            if attribute == acl.ACCESS:
                self._drop_foreign_sgid(fd)

    def removexattr(self, path: bytes, attribute: str, *, follow: bool) -> None:
        self._check_name(attribute)
        target, node = self._target(path, follow=follow)
        if attribute in _ACLS:
            self._may_set_acl(node, attribute, removes=True)
            absent = self._stack.access_list(node, attribute) is None
            if absent and not (attribute == acl.ACCESS and self._has_foreign_sgid(node.st)):
                return  # no reason to fail, on any file system, and none to copy up
        else:
            self._may_write(node, attribute)
            if attribute == _CAPABILITY and not self._who.can(Capability.SETFCAP):
                raise failure(errno.EPERM)
            self._value(node, attribute)  # nothing is copied up to fail then
        with raised(self._stack, target) as fd:
            os.removexattr(syscalls.fd_path(fd), self._stack.stored(attribute))
            if attribute == acl.ACCESS:
                self._drop_foreign_sgid(fd)

    def _value(self, node: Node, attribute: str) -> bytes:
        with self._stack.at(node.places[0]) as (fd, name):
            return syscalls.getxattr(fd, self._stack.stored(attribute), name)

    @staticmethod
    def _check_name(attribute: str) -> None:
        """ERANGE for names that setxattr(2) does not take."""
        if not 0 < len(os.fsencode(attribute)) <= _NAME_MAX:
            raise failure(errno.ERANGE)

    def _check_presence(self, node: Node, attribute: str, flags: int) -> None:
        try:
            self._value(node, attribute)
        except OSError as error:
            if error.errno == errno.ENODATA and not flags & os.XATTR_REPLACE:
                return
            raise
        if flags & os.XATTR_CREATE:
            raise failure(errno.EEXIST)

    def _may_read(self, node: Node, attribute: str) -> None:
        """Who may read which name space (fs/xattr.c, xattr_permission())."""
        if attribute.startswith("trusted.") and not self._who.can(Capability.SYS_ADMIN):
            raise failure(errno.ENODATA)
        if attribute.startswith("user."):
            if stat.S_IFMT(node.st.st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
                raise failure(errno.ENODATA)
            self._stack.require(self._who, node, READ)
        elif not attribute.startswith(_OTHER_RULES):
            self._stack.require(self._who, node, READ)

    def _may_write(self, node: Node, attribute: str) -> None:
        who, st = self._who, node.st
        self._stack.require_settable(node)
        if attribute.startswith("trusted."):
            if not who.can(Capability.SYS_ADMIN):
                raise failure(errno.EPERM)
        elif attribute.startswith("user."):
            if stat.S_IFMT(st.st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
                raise failure(errno.EPERM)
            if node.is_dir and st.st_mode & stat.S_ISVTX:
                who.require_owner(st)
            self._stack.require(who, node, WRITE)
        elif attribute.startswith("security."):
            self._require_security(attribute)
        elif not attribute.startswith(_OTHER_RULES):
            self._stack.require(who, node, WRITE)

    def _require_security(self, attribute: str) -> None:
        """EPERM without privilege; of file capabilities the value decides, see below."""
        if attribute != _CAPABILITY and not self._who.can(Capability.SYS_ADMIN):
            raise failure(errno.EPERM)

    def _check_capability(self, value: bytes) -> None:
        """What cap_convert_nscap() asks; it does not look at an empty value."""
        revision = int.from_bytes(value[:4], "little") & 0xFF000000
        if (len(value), revision) not in _CAPABILITY_FORMS:
            raise failure(errno.EINVAL)
        if not self._who.can(Capability.SETFCAP):
            raise failure(errno.EPERM)

    def _may_set_acl(self, node: Node, attribute: str, *, removes: bool = False) -> None:
        """The checks of vfs_set_acl() in fs/posix_acl.c."""
        self._stack.require_settable(node)
        if stat.S_ISLNK(node.st.st_mode):
            raise failure(errno.EOPNOTSUPP)
        if attribute == acl.DEFAULT and not node.is_dir:
            if removes:
                return  # nothing to remove, whoever asks
            raise failure(errno.EACCES)
        self._who.require_owner(node.st)

    def _has_foreign_sgid(self, st: os.stat_result) -> bool:
        return bool(st.st_mode & stat.S_ISGID) and not self._who.in_group(st.st_gid)

    def _drop_foreign_sgid(self, fd: int) -> None:
        """A list changed by somebody outside the group takes the set-group-ID bit."""
        st = os.fstat(fd)
        if self._has_foreign_sgid(st):
            os.chmod(syscalls.fd_path(fd), stat.S_IMODE(st.st_mode) & ~stat.S_ISGID)
