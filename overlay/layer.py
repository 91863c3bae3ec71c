"""One directory tree by descriptor: a layer, opened, looked into and walked.

Layers are hostile: everything is opened beneath the root without following anything,
and neither depth nor the length of a path has a limit here, though the kernel takes
at most PATH_MAX bytes at once.  What a file system can do is asked in
:mod:`overlay.probes`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from typing import Final, Self

from overlay import images, syscalls
from overlay.closing import Closing
from overlay.errors import OperationFailed, UsageError
from overlay.markvalues import MarkFamily
from overlay.probes import LayerCapabilities, capabilities, top_shortcomings
from overlay.text import printable

__all__ = [
    "VANISHED",
    "Entry",
    "Layer",
    "LayerCapabilities",
    "capabilities",
    "directory_beneath",
    "entries_beneath",
    "exists",
    "first_fallthru_stub",
    "open_beneath",
    "top_shortcomings",
]

#: What a lookup fails with when somebody else changed the tree meanwhile.
VANISHED: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ELOOP})

_PIECE: Final = 4000  # PATH_MAX is 4096 with its NUL
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a layer: ``path`` from the root without a leading slash, and its lstat."""

    path: bytes
    st: os.stat_result

    @property
    def name(self) -> bytes:
        return self.path.rpartition(b"/")[2]


class Layer(Closing):
    """A layer's directory tree.  Paths are bytes from its root; ``b""`` is the root itself.

    ``path`` is what it was opened as, for messages.  Close it, or use it in ``with``.
    """

    def __init__(self, fd: int, path: str) -> None:
        """Take over ``fd``, a readable descriptor of the root directory."""
        self.fd = fd
        self.path = path
        self._parent = b""
        self._parent_fd = -1

    @classmethod
    def open(cls, path: str, *, private: bool = False) -> Self:
        """Open a layer by its path, which may be a symlink: what is named here is trusted.

        An image or block device is opened too, and so is its name in mountinfo.

        ``private`` looks at it as an overlay does: without what is mounted below it.
        That takes privilege; without, mounts are seen.
        """
        try:
            fd = _open_private(path) if private else os.open(path, _DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            image = images.reopen(path)
            if image is not None:
                return cls(image, path)
            shown, number = printable(path), error.errno or 0
            if number in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise UsageError(f"no directory at {shown}", errno=number) from None
            raise OperationFailed(f"cannot open the layer {shown}", errno=number) from None
        return cls(fd, path)

    def close(self) -> None:
        """Close the root's descriptor, and the one that :meth:`open_sibling` keeps."""
        for fd in (self.fd, self._parent_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self._parent_fd = -1

    def open_file(self, path: bytes, flags: int) -> int:
        """A descriptor on ``path``; it belongs to the caller."""
        return open_beneath(self.fd, path, flags)

    def open_dir(self, path: bytes = b"") -> int:
        """A readable descriptor on the directory ``path``; it belongs to the caller."""
        return open_beneath(self.fd, path, _DIRECTORY)

    def open_sibling(self, path: bytes, flags: int = _DIRECTORY) -> int:
        """:meth:`open_file` for walks that come to everything in one directory in a row.

        From the second on they are found from their parent, which is kept open: that takes
        half as long as the whole path.  It stays the same directory, whatever is moved to
        its place.  ``path`` must have been found in the layer, so that no name is ``..``.
        """
        above, _, name = path.rpartition(b"/")
        if not above:
            return self.open_file(path, flags)
        if above != self._parent:
            if self._parent_fd >= 0:
                os.close(self._parent_fd)
            self._parent, self._parent_fd = above, -1
            return self.open_file(path, flags)
        if self._parent_fd < 0:
            self._parent_fd = self.open_dir(above)
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._parent_fd)

    def directory(self, path: bytes = b"") -> AbstractContextManager[int]:
        """:meth:`open_dir`, closed at the end."""
        return directory_beneath(self.fd, path)

    @contextmanager
    def parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """The directory that holds ``path``, as (descriptor, last name)."""
        above, _, name = path.rpartition(b"/")
        with self.directory(above) as fd:
            yield fd, name

    def lstat(self, path: bytes = b"") -> os.stat_result:
        """The attributes of ``path`` itself."""
        if not path:
            return os.fstat(self.fd)
        with self.parent(path) as (fd, name):
            return os.stat(name, dir_fd=fd, follow_symlinks=False)

    def walk(self, start: bytes = b"") -> Iterator[Entry]:
        """Everything below ``start``, in the byte order of the paths, however deep.

        Entries that vanish meanwhile are left out.  At most one descriptor is open, and
        never while the caller has the turn.
        """
        pending = [_Visit(start, None)]
        while pending:
            visit = pending.pop()
            if visit.st is not None:
                yield Entry(visit.path, visit.st)
                continue
            # A directory's contents sort as if its name ended in a slash, which may be
            # after the next names: ``a``, ``a-b``, ``a/c``.
            found = [
                (child.name + slash, _Visit(child.path, None if slash else child.st))
                for child in self.entries(visit.path)
                for slash in ((b"", b"/") if stat.S_ISDIR(child.st.st_mode) else (b"",))
            ]
            found.sort(key=lambda item: item[0], reverse=True)
            pending.extend(item for _, item in found)

    def entries(self, path: bytes) -> list[Entry]:
        """What is in the directory ``path``, unsorted; nothing if it vanished."""
        try:
            fd = self.open_dir(path)
        except OSError as error:
            if error.errno in VANISHED:
                return []
            raise
        try:
            before = path + b"/" if path else b""
            return [Entry(before + name, st) for name, st in scan(fd)]
        finally:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class _Visit:
    """Work of a walk: an entry to report, or (without ``st``) a directory to look into."""

    path: bytes
    st: os.stat_result | None


def scan(fd: int) -> Iterator[tuple[bytes, os.stat_result]]:
    """Names and lstats in an open directory; what vanishes meanwhile is left out."""
    with os.scandir(fd) as found:
        for entry in found:
            try:
                yield os.fsencode(entry.name), entry.stat(follow_symlinks=False)
            except OSError as error:
                if error.errno not in VANISHED:
                    raise


def exists(dirfd: int, name: bytes) -> bool:
    """Whether a directory has an entry, be it a whiteout."""
    try:
        os.stat(name, dir_fd=dirfd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def open_beneath(root: int, path: bytes, flags: int) -> int:
    """:func:`syscalls.open_beneath` for paths of any length; ``b""`` opens the root anew."""
    if not path:
        return syscalls.open_beneath(root, b".", flags)
    at = root
    try:
        while len(path) > _PIECE:
            # A name has at most 255 bytes, so there is a slash in every piece.
            cut = path.rindex(b"/", 0, _PIECE)
            following = syscalls.open_beneath(at, path[:cut], os.O_PATH | os.O_DIRECTORY)
            if at != root:
                os.close(at)
            at, path = following, path[cut + 1 :]
        return syscalls.open_beneath(at, path, flags)
    finally:
        if at != root:
            os.close(at)


@contextmanager
def directory_beneath(root: int, path: bytes) -> Iterator[int]:
    """A readable descriptor of the directory ``path`` below ``root``, closed at the end."""
    fd = open_beneath(root, path, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _open_private(path: str) -> int:
    """The directory as in a mount of its own, which has no other mounts below it."""
    try:
        tree = syscalls.open_tree(syscalls.AT_FDCWD, path, syscalls.OPEN_TREE_CLONE)
    except OSError as error:
        # No privilege, or a mount that may not be copied (unbindable, locked).
        if error.errno not in (errno.EPERM, errno.EINVAL, errno.ENOSYS):
            raise
        return os.open(path, _DIRECTORY | os.O_CLOEXEC)
    try:
        return os.open(".", _DIRECTORY | os.O_CLOEXEC, dir_fd=tree)
    finally:
        # The copy lives as long as a descriptor is open in it.
        os.close(tree)


def first_fallthru_stub(top_fd: int, family: str) -> bytes | None:
    """The first thing found in a top that only a mount with fallthrus can read, or None.

    That is a file without data of its own (metacopy) or a directory that reads from
    elsewhere (redirect).  ``top_fd`` may be O_PATH.  The path has no leading slash.
    """
    marks = MarkFamily(family)
    metacopy, redirect = marks.attribute("metacopy"), marks.attribute("redirect")
    with closing(entries_beneath(top_fd)) as found:
        for fd, path, entry in found:
            is_dir = entry.is_dir(follow_symlinks=False)
            if not is_dir and not entry.is_file(follow_symlinks=False):
                continue
            here = syscalls.fd_path(fd, os.fsencode(entry.name))
            if _has(here, redirect if is_dir else metacopy):
                return path
    return None


def entries_beneath(root: int) -> Generator[tuple[int, bytes, os.DirEntry[str]]]:
    """Everything below ``root``: the open directory it is in, its path, and its entry there.

    The type is in the directory itself, so that nothing is asked for a stat.  In any order,
    but directories before what is in them.
    """
    pending = [b""]
    while pending:
        path = pending.pop()
        try:
            fd = open_beneath(root, path, _DIRECTORY)
        except OSError as error:
            if error.errno in VANISHED:
                continue
            raise
        before = path + b"/" if path else b""
        try:
            with os.scandir(fd) as found:
                for entry in found:
                    inner = before + os.fsencode(entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(inner)
                    yield fd, inner, entry
        finally:
            os.close(fd)


def _has(path: bytes, attribute: str) -> bool:
    try:
        os.getxattr(path, attribute, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.EACCES, *VANISHED):
            return False
        raise
    return True
