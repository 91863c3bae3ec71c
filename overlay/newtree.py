"""A new directory that appears complete and on the disk, or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from overlay import syscalls
from overlay.errors import Refused, UsageError
from overlay.marks import temporary_name
from overlay.staging import remove_tree
from overlay.text import printable

__all__ = ["new_tree"]


@contextmanager
def new_tree(path: str) -> Iterator[tuple[int, bytes]]:
    """Where to make the directory ``path``: an open directory and a name in it.

    What is made there gets its own name when the body succeeds, and is removed when it
    fails.  Refused if something is there already that is no empty directory.
    """
    above, name = os.path.split(os.path.abspath(path))
    try:
        fd = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"no directory at {printable(above)}", errno=error.errno or 0) from None
    try:
        if os.path.lexists(path) and not _is_empty(path):
            raise _taken(path)
        made = temporary_name()
        try:
            yield fd, made
            syscalls.syncfs(fd)
            os.rename(made, name, src_dir_fd=fd, dst_dir_fd=fd)
        except BaseException as error:
            with suppress(OSError):
                remove_tree(fd, made)
            if isinstance(error, OSError) and error.errno in _IN_THE_WAY:
                raise _taken(path) from None
            raise
        os.fsync(fd)
    finally:
        os.close(fd)


#: How a rename refuses to replace anything but an empty directory.
_IN_THE_WAY = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EBUSY})


def _is_empty(path: str) -> bool:
    try:
        return not os.path.islink(path) and not os.listdir(path)
    except OSError:
        return False


def _taken(path: str) -> Refused:
    return Refused(f"{printable(path)} exists already", hint="name a new directory")
