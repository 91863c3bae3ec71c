"""New directories and files that appear complete and on the disk, or not at all.

They are made in a directory beside their place, ``.fallthru-new-NAME``, which is locked while
a run is at work.  What a killed one left there is removed by the next that makes NAME.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from overlay import syscalls
from overlay.errors import Refused, UsageError
from overlay.layer import open_beneath
from overlay.staging import remove_tree
from overlay.text import printable

__all__ = ["beside", "lock", "new_tree"]

_PREFIX: Final = b".fallthru-new-"
_MADE: Final = b"tree"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY


@contextmanager
def beside(path: str) -> Iterator[tuple[int, int]]:
    """The directory that ``path`` will be in, and one in it that nobody else uses.

    UsageError where there is no such directory; Refused while another run makes ``path``.
    """
    where, name = os.path.split(os.path.abspath(os.fsencode(path)))
    mine = _PREFIX + name[:200]
    try:
        parent = os.open(where, _DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"no directory at {printable(where)}", errno=error.errno or 0) from None
    try:
        with suppress(FileNotFoundError):
            left = open_beneath(parent, mine, _DIRECTORY)
            try:
                lock(left, path)
                remove_tree(parent, mine)  # left by a killed run
            finally:
                os.close(left)
        try:
            os.mkdir(mine, 0o700, dir_fd=parent)
        except PermissionError as error:
            raise UsageError(
                f"nothing can be made in {printable(where)}", errno=error.errno or 0
            ) from None
        fd = open_beneath(parent, mine, _DIRECTORY)
        try:
            lock(fd, path)
            # Neither list nor group of the directory above may rub off on what is made here.
            with suppress(OSError):
                os.removexattr(fd, "system.posix_acl_default")
            os.fchown(fd, os.geteuid(), os.getegid())
            os.fchmod(fd, 0o700)
            yield parent, fd
        finally:
            os.close(fd)
            with suppress(FileNotFoundError):
                remove_tree(parent, mine)
    finally:
        os.close(parent)


def lock(fd: int, path: str) -> None:
    """Have an open directory for oneself; Refused while another run, of ``path``, has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Refused(
            f"another run is making {printable(path)}",
            hint="wait until it is done",
            errno=error.errno or 0,
        ) from None


@contextmanager
def new_tree(path: str) -> Iterator[tuple[int, bytes]]:
    """Where to make the directory ``path``: an open directory and a name in it.

    What is made there gets its own name when the body succeeds, and is removed when it
    fails.  Refused if something is there already that is no empty directory.
    """
    name = os.path.basename(os.path.abspath(path))
    with beside(path) as (parent, fd):
        if os.path.lexists(path) and not _is_empty(path):
            raise _taken(path)
        yield fd, _MADE
        syscalls.syncfs(fd)
        try:
            os.rename(_MADE, name, src_dir_fd=fd, dst_dir_fd=parent)
        except OSError as error:
            if error.errno in _IN_THE_WAY:
                raise _taken(path) from None
            raise
        os.fsync(parent)


#: How a rename refuses to replace anything but an empty directory.
_IN_THE_WAY = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EBUSY})


def _is_empty(path: str) -> bool:
    try:
        return not os.path.islink(path) and not os.listdir(path)
    except OSError:
        return False


def _taken(path: str) -> Refused:
    return Refused(f"{printable(path)} exists already", hint="name a new directory")
