"""The system calls that checks make in a union, whoever answers them.

:class:`Calls` is what the engine offers (:class:`overlay.union.Union` has it by its shape);
:class:`MountedCalls` makes the same calls on a mount with ``os``.  So one check judges both.
Paths are relative to the union's root.  Descriptors are real ones in both cases: what is
done with them (``os.pread``, ``os.ftruncate``, ``mmap``) needs no interface.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from stat import S_IFDIR, S_IFLNK, S_IFREG
from typing import Protocol

from overlay import inodeflags, syscalls
from overlay.credentials import Credentials
from overlay.dircopyup import DirEntry

__all__ = ["Calls", "Credentials", "DirEntry", "MountedCalls", "Path", "as_user", "read"]

Path = str | bytes | os.PathLike[str]


class Calls(Protocol):
    """File system calls by the names of the system calls; OSError as they fail."""

    def stat(self, path: Path, *, follow: bool = True) -> os.stat_result: ...
    def lstat(self, path: Path) -> os.stat_result: ...
    def access(self, path: Path, mode: int) -> None: ...
    def readlink(self, path: Path) -> bytes: ...
    def readdir(self, path: Path) -> list[DirEntry]: ...
    def statvfs(self) -> os.statvfs_result: ...
    def open(self, path: Path, flags: int, mode: int = 0o666) -> int: ...
    def truncate(self, path: Path, size: int) -> None: ...
    def mkdir(self, path: Path, mode: int = 0o777) -> None: ...
    def mknod(self, path: Path, mode: int = ..., device: int = 0) -> None: ...
    def symlink(self, to: Path, path: Path) -> None: ...
    def link(self, old: Path, new: Path, *, follow: bool = False) -> None: ...
    def unlink(self, path: Path) -> None: ...
    def rmdir(self, path: Path) -> None: ...
    def rename(self, old: Path, new: Path, flags: int = 0) -> None: ...
    def chmod(self, path: Path, mode: int, *, follow: bool = True) -> None: ...
    def chown(self, path: Path, uid: int, gid: int, *, follow: bool = True) -> None: ...
    def utime(
        self, path: Path, ns: tuple[int, int] | None = None, *, follow: bool = True
    ) -> None: ...
    def getxattr(self, path: Path, attribute: str, *, follow: bool = True) -> bytes: ...
    def listxattr(self, path: Path, *, follow: bool = True) -> list[str]: ...
    def setxattr(
        self, path: Path, attribute: str, value: bytes, flags: int = 0, *, follow: bool = True
    ) -> None: ...
    def removexattr(self, path: Path, attribute: str, *, follow: bool = True) -> None: ...
    def get_flags(self, path: Path) -> int: ...
    def set_flags(self, path: Path, flags: int) -> None: ...
    def acting_as(self, who: Credentials) -> AbstractContextManager[None]:
        """Let the calls in a with block be an ordinary user's."""


class MountedCalls:
    """The calls on a union that is mounted at ``root``."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._here: int | None = None  # the root, open while somebody else acts

    def _at(self, path: Path) -> bytes:
        return os.path.join(os.fsencode(self._root), os.fsencode(path))

    def stat(self, path: Path, *, follow: bool = True) -> os.stat_result:
        return os.stat(self._at(path), follow_symlinks=follow)

    def lstat(self, path: Path) -> os.stat_result:
        return os.lstat(self._at(path))

    def access(self, path: Path, mode: int) -> None:
        if not os.access(self._at(path), mode, effective_ids=True):
            os.stat(self._at(path))  # os.access() does not tell why: ENOENT and its like, else
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fsdecode(path))

    def readlink(self, path: Path) -> bytes:
        return os.readlink(self._at(path))

    def readdir(self, path: Path) -> list[DirEntry]:
        """In the order of the file system; a type is 0 where the listing does not tell it."""
        with os.scandir(self._at(path)) as entries:
            return [DirEntry(entry.name, entry.inode(), _listed_type(entry)) for entry in entries]

    def statvfs(self) -> os.statvfs_result:
        return os.statvfs(self._root)

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        return os.open(self._at(path), flags | os.O_CLOEXEC, mode)

    def truncate(self, path: Path, size: int) -> None:
        os.truncate(self._at(path), size)

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        os.mkdir(self._at(path), mode)

    def mknod(self, path: Path, mode: int = S_IFREG | 0o600, device: int = 0) -> None:
        os.mknod(self._at(path), mode, device)

    def symlink(self, to: Path, path: Path) -> None:
        os.symlink(os.fsencode(to), self._at(path))

    def link(self, old: Path, new: Path, *, follow: bool = False) -> None:
        # Without a descriptor os.link() calls link(2), which never follows.
        here = os.open(self._root, os.O_PATH) if self._here is None else self._here
        names = (self._at(old), self._at(new))
        try:
            os.link(*names, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=follow)
        finally:
            if self._here is None:
                os.close(here)

    def unlink(self, path: Path) -> None:
        os.unlink(self._at(path))

    def rmdir(self, path: Path) -> None:
        os.rmdir(self._at(path))

    def rename(self, old: Path, new: Path, flags: int = 0) -> None:
        here = syscalls.AT_FDCWD
        syscalls.renameat2(here, self._at(old), here, self._at(new), flags)

    def chmod(self, path: Path, mode: int, *, follow: bool = True) -> None:
        os.chmod(self._at(path), mode, follow_symlinks=follow)

    def chown(self, path: Path, uid: int, gid: int, *, follow: bool = True) -> None:
        os.chown(self._at(path), uid, gid, follow_symlinks=follow)

    def utime(self, path: Path, ns: tuple[int, int] | None = None, *, follow: bool = True) -> None:
        if ns is None:
            os.utime(self._at(path), follow_symlinks=follow)
        else:
            os.utime(self._at(path), ns=ns, follow_symlinks=follow)

    def getxattr(self, path: Path, attribute: str, *, follow: bool = True) -> bytes:
        return os.getxattr(self._at(path), attribute, follow_symlinks=follow)

    def listxattr(self, path: Path, *, follow: bool = True) -> list[str]:
        return os.listxattr(self._at(path), follow_symlinks=follow)

    def setxattr(
        self, path: Path, attribute: str, value: bytes, flags: int = 0, *, follow: bool = True
    ) -> None:
        os.setxattr(self._at(path), attribute, value, flags, follow_symlinks=follow)

    def removexattr(self, path: Path, attribute: str, *, follow: bool = True) -> None:
        os.removexattr(self._at(path), attribute, follow_symlinks=follow)

    def get_flags(self, path: Path) -> int:
        with self._opened(path) as fd:
            return inodeflags.get_flags(fd)

    def set_flags(self, path: Path, flags: int) -> None:
        with self._opened(path) as fd:
            inodeflags.set_inode_flags(fd, flags)

    @contextmanager
    def _opened(self, path: Path) -> Iterator[int]:
        fd = self.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def acting_as(self, who: Credentials) -> Iterator[None]:
        """By the effective ids; capabilities go with them."""
        root = self._root
        before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # From inside: the user need not be able to walk to the mount point.
        here = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fchdir(here)
        self._root, self._here = "", here
        try:
            with as_user(who):
                yield
        finally:
            os.fchdir(before)
            os.close(before)
            os.close(here)
            self._root, self._here = root, None


@contextmanager
def as_user(who: Credentials) -> Iterator[None]:
    """Let this process, which is root's, have somebody's effective ids."""
    groups = os.getgroups()
    os.setgroups(sorted(who.groups))
    os.setegid(who.gid)
    os.seteuid(who.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def read(calls: Calls, path: Path) -> bytes:
    """The whole content of a file."""
    with open(calls.open(path, os.O_RDONLY), "rb") as file:
        return file.read()


def _listed_type(entry: os.DirEntry[bytes]) -> int:
    if entry.is_symlink():
        return S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return S_IFDIR
    return S_IFREG if entry.is_file(follow_symlinks=False) else 0
