"""Extended attributes by descriptor, which the calls themselves refuse for O_PATH."""

from __future__ import annotations

import os

__all__ = [
    "fd_path",
    "getxattr",
    "listxattr",
    "removexattr",
    "setxattr",
]


def fd_path(fd: int, name: bytes | None = None) -> bytes:
    """A path that means exactly what ``fd`` is open on, or the entry ``name`` in it.

    The xattr calls refuse O_PATH descriptors (EBADF) and have no *at() form before
    6.13; through the magic link they take both, and cannot be led elsewhere: the
    last component is never followed by the ``l`` calls below.
    """
    base = b"/proc/self/fd/%d" % fd
    return base if name is None else base + b"/" + name


def getxattr(fd: int, attribute: str, name: bytes | None = None) -> bytes:
    """One extended attribute of ``fd``, or of its entry ``name``; ENODATA if it has none."""
    return os.getxattr(fd_path(fd, name), attribute, follow_symlinks=name is None)


def setxattr(fd: int, attribute: str, value: bytes, name: bytes | None = None) -> None:
    """Set one extended attribute of ``fd``, or of its entry ``name``."""
    os.setxattr(fd_path(fd, name), attribute, value, follow_symlinks=name is None)


def removexattr(fd: int, attribute: str, name: bytes | None = None) -> None:
    """Remove one extended attribute; ENODATA if there is none."""
    os.removexattr(fd_path(fd, name), attribute, follow_symlinks=name is None)


def listxattr(fd: int, name: bytes | None = None) -> list[str]:
    """The names of all extended attributes the caller may see."""
    return os.listxattr(fd_path(fd, name), follow_symlinks=name is None)
