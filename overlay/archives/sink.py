"""Items written as a layer in a directory: with overlayfs's marks, or AUFS's names.

The directory is new and nobody else's, but what comes may be hostile: every parent is
opened beneath the root without following anything, so that no item is written through a
symlink that came before it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from overlay import syscalls
from overlay.archives.item import (
    OPAQUE_NAME,
    WHITEOUT_PREFIX,
    HostileLayer,
    Item,
    Limits,
    check_name,
)
from overlay.copydata import copy_data
from overlay.errors import Refused
from overlay.layer import open_beneath
from overlay.marks import (
    MarkFamily,
    Whiteout,
    escape_attribute,
    set_opaque,
    set_xattr_whiteouts,
    write_whiteout,
)
from overlay.staging import remove_tree
from overlay.text import printable

__all__ = ["AufsNames", "DirectorySink", "OverlayMarks", "Style"]

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK: Final = 1 << 20
#: What opening a parent fails with where something else than a directory is in the way.
_ASTRAY: Final = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EXDEV})


class Style(Protocol):
    """How a kind of layer says what is hidden, and how it stores attributes."""

    def whiteout(self, dirfd: int, name: bytes) -> None:
        """Make a whiteout, where nothing is."""

    def opaque(self, fd: int) -> None:
        """Make a directory opaque."""

    def stored(self, attribute: str) -> str:
        """How an attribute that the union shows is called in the layer."""

    def check(self, item: Item) -> None:
        """Refused for what cannot be stored."""


@dataclass(frozen=True, slots=True)
class OverlayMarks:
    """Overlayfs's marks, of one family; whiteouts in one of the two forms."""

    family: MarkFamily = MarkFamily.TRUSTED
    form: Whiteout = Whiteout.DEVICE

    def whiteout(self, dirfd: int, name: bytes) -> None:
        if self.form is Whiteout.DEVICE:
            write_whiteout(dirfd, name, self.family)
            return
        # Nobody sees the directory yet, so it need not be made aside.
        try:
            set_xattr_whiteouts(dirfd, self.family)
        except Refused:
            return  # it is opaque: nothing to hide
        os.close(os.open(name, _NEW, 0o600, dir_fd=dirfd))
        syscalls.setxattr(dirfd, self.family.attribute("whiteout"), b"y", name)

    def opaque(self, fd: int) -> None:
        set_opaque(fd, self.family)

    def stored(self, attribute: str) -> str:
        return escape_attribute(attribute, self.family)

    def check(self, item: Item) -> None:
        if stat.S_ISCHR(item.mode) and item.rdev == 0:
            raise HostileLayer(f"{printable(item.path)} is a device that would be a whiteout")


@dataclass(frozen=True, slots=True)
class AufsNames:
    """AUFS's names; attributes as they are."""

    def whiteout(self, dirfd: int, name: bytes) -> None:
        _touch(dirfd, WHITEOUT_PREFIX + name)

    def opaque(self, fd: int) -> None:
        with suppress(FileExistsError):
            _touch(fd, OPAQUE_NAME)

    def stored(self, attribute: str) -> str:
        return attribute

    def check(self, item: Item) -> None:
        check_name(item.path)


def _touch(dirfd: int, name: bytes) -> None:
    os.close(os.open(name, _NEW, 0o444, dir_fd=dirfd))


class DirectorySink:
    """Writes items below ``root``, an open directory that is new."""

    def __init__(self, root: int, style: Style, limits: Limits | None = None) -> None:
        self.root = root
        self.entries = 0
        self.bytes = 0
        self._style = style
        self._limits = limits or Limits()
        self._times: dict[bytes, int] = {}
        self._hidden: set[bytes] = set()
        self._parent = (b"", os.dup(root))

    def write(self, items: Iterable[Item]) -> None:
        """Write all items.  If it fails, as with HostileLayer, the directory is worth nothing."""
        try:
            for item in items:
                self._put(item)
            for path, mtime in self._times.items():
                fd = self._reach(path)
                os.utime(fd, ns=(mtime, mtime))
        finally:
            os.close(self._parent[1])

    def _put(self, item: Item) -> None:
        self.entries += 1
        self.bytes += 0 if item.link is not None else item.size
        if self.entries > self._limits.entries or self.bytes > self._limits.bytes:
            raise HostileLayer(
                f"the layer is too large: {self.entries} entries, {self.bytes} bytes",
                hint="raise the limits if it is meant",
            )
        if not item.path:
            if item.opaque:
                raise Refused(
                    "the root of the layer is opaque, which overlayfs cannot say",
                    hint="use it as the lowest bottom",
                )
            self._dress(self.root, item)
            self._times[b""] = item.mtime_ns
            return
        above, _, name = item.path.rpartition(b"/")
        fd = self._reach(above)
        if item.whiteout:
            self._hide(item.path, fd, name)
            return
        self._style.check(item)
        if item.path in self._hidden:
            # A whiteout speaks of what is below; with something here it is not needed.
            self._hidden.discard(item.path)
            item.opaque = item.is_dir
            _remove(fd, name)
        if item.is_dir:
            self._directory(item, fd, name)
            return
        _remove(fd, name)
        if item.link is not None:
            self._link(item, fd, name)
        else:
            self._make(item, fd, name)

    def _hide(self, path: bytes, dirfd: int, name: bytes) -> None:
        try:
            st = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
        except FileNotFoundError:
            self._style.whiteout(dirfd, name)
            self._hidden.add(path)
            return
        if stat.S_ISDIR(st.st_mode):
            fd = syscalls.open_beneath(dirfd, name, _DIRECTORY)
            try:
                self._style.opaque(fd)
            finally:
                os.close(fd)

    def _reach(self, path: bytes) -> int:
        """A directory; those that no item named are made.  It stays open until the next call."""
        if self._parent[0] != path:
            fd = self._open(path)
            os.close(self._parent[1])
            self._parent = (path, fd)
        return self._parent[1]

    def _open(self, path: bytes) -> int:
        try:
            return open_beneath(self.root, path, _DIRECTORY)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _astray(path, error) from None
        above, _, name = path.rpartition(b"/")
        fd = self._open(above)
        try:
            os.mkdir(name, 0o755, dir_fd=fd)
        finally:
            os.close(fd)
        return open_beneath(self.root, path, _DIRECTORY)

    def _directory(self, item: Item, dirfd: int, name: bytes) -> None:
        # A mark may come alone, for a directory that was there before or comes later.
        only_mark = item.opaque and not item.mode & 0o7777 and not item.mtime_ns
        try:
            os.mkdir(name, 0o755 if only_mark else 0o700, dir_fd=dirfd)
        except FileExistsError:
            st = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
            if not stat.S_ISDIR(st.st_mode):
                os.unlink(name, dir_fd=dirfd)
                os.mkdir(name, 0o700, dir_fd=dirfd)
        fd = syscalls.open_beneath(dirfd, name, _DIRECTORY)
        try:
            if not only_mark:
                self._dress(fd, item)
                self._times[item.path] = item.mtime_ns
            if item.opaque:
                self._style.opaque(fd)
        finally:
            os.close(fd)

    def _link(self, item: Item, dirfd: int, name: bytes) -> None:
        assert item.link is not None
        above, _, last = item.link.rpartition(b"/")
        try:
            source = open_beneath(self.root, above, _DIRECTORY)
        except OSError as error:
            raise _astray(item.link, error) from None
        try:
            os.link(last, name, src_dir_fd=source, dst_dir_fd=dirfd, follow_symlinks=False)
        except (FileNotFoundError, PermissionError) as error:
            # Not there, or a directory.
            raise _astray(item.link, error) from None
        finally:
            os.close(source)

    def _make(self, item: Item, dirfd: int, name: bytes) -> None:
        kind = stat.S_IFMT(item.mode)
        if kind == stat.S_IFREG:
            fd = os.open(name, _NEW, 0o600, dir_fd=dirfd)
            try:
                _fill(fd, item)
                self._dress(fd, item)
            finally:
                os.close(fd)
            return
        if kind == stat.S_IFLNK:
            os.symlink(item.target, name, dir_fd=dirfd)
        else:
            os.mknod(name, kind | 0o600, item.rdev, dir_fd=dirfd)
        fd = syscalls.open_beneath(dirfd, name, os.O_PATH)
        try:
            self._dress(fd, item)
        finally:
            os.close(fd)

    def _dress(self, fd: int, item: Item) -> None:
        path = syscalls.fd_path(fd)
        os.chown(path, item.uid, item.gid)
        if not stat.S_ISLNK(item.mode):
            os.chmod(path, stat.S_IMODE(item.mode))
        for attribute, value in item.xattrs.items():
            os.setxattr(path, self._style.stored(attribute), value)
        if not item.is_dir:
            os.utime(path, ns=(item.mtime_ns, item.mtime_ns))


def _fill(fd: int, item: Item) -> None:
    if item.content is None or not item.size:
        return
    with item.content() as content:
        if isinstance(content, int):
            copy_data(content, fd, item.size)
            os.ftruncate(fd, item.size)
            return
        left = item.size
        with open(fd, "wb", buffering=0, closefd=False) as file:
            while left:
                data = content.read(min(left, _CHUNK))
                if not data:
                    raise HostileLayer("the archive ends in the middle of a file")
                file.write(data)
                left -= len(data)


def _remove(dirfd: int, name: bytes) -> None:
    """Of two entries of one name the later one counts."""
    try:
        os.unlink(name, dir_fd=dirfd)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        remove_tree(dirfd, name)


def _astray(path: bytes, error: OSError) -> HostileLayer | OSError:
    if error.errno in _ASTRAY or error.errno in (errno.ENOENT, errno.EPERM):
        return HostileLayer(
            f"the archive leads out of itself, or to nothing: {printable(path[:200])}",
            errno=error.errno or 0,
        )
    return error
