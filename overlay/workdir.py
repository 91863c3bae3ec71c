"""The top's work directory: where it is, making it, and what is remembered on it.

The kernel makes files there before it puts them in place, and keeps the index of hard
links there, so it belongs to its top for good.  It is the one place of a top that the
union does not show, and so holds what fallthru has to remember about the top.
"""

from __future__ import annotations

import errno
import os

from overlay import syscalls
from overlay.errors import Refused, UsageError
from overlay.text import printable

__all__ = ["beside", "check", "make", "recall", "remember", "take_back"]

#: ``trusted.`` needs privilege in the initial user namespace, to write and to see.
_ATTRIBUTE = "fallthru.stubs"


def beside(top: str) -> str:
    """Where the work directory goes when none is named: ``NAME.work`` beside the top."""
    return top.rstrip("/") + ".work"


def make(path: str) -> bool:
    """Make the work directory, private to its owner; whether it was missing."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return False
    except OSError as error:
        raise UsageError(
            f"the work directory {printable(path)} cannot be made",
            hint="name one on the top's file system with --work",
            errno=error.errno or 0,
        ) from None
    return True


def take_back(path: str) -> None:
    """Remove a work directory just made; what the kernel put in it meanwhile is empty."""
    for name in ("work/incompat", "work", "index", ""):
        try:
            os.rmdir(os.path.join(path, name))
        except OSError:
            continue  # not there, or in use after all: never force


def check(path: str, work: os.stat_result, top: os.stat_result) -> None:
    """Refuse a work directory on another file system, or one of somebody else.

    The kernel renames from it to the top, and its owner decides what ends up there.
    """
    if work.st_dev != top.st_dev:
        raise UsageError(
            f"the work directory {printable(path)} is not on the top's file system",
            hint="if the top is the root of its file system, use a directory in it as the top, "
            "so that the work directory can be beside it",
        )
    if work.st_uid not in (os.geteuid(), top.st_uid):
        raise Refused(
            f"the work directory {printable(path)} belongs to uid {work.st_uid}",
            hint="remove it, or name another with --work",
        )


def recall(work_fd: int, family: str) -> bytes | None:
    """What was remembered about file fallthrus on the top: ``no``, ``maybe``, or None."""
    try:
        return syscalls.getxattr(work_fd, f"{family}.{_ATTRIBUTE}")
    except OSError as error:
        # Nothing known, or no such attributes here at all, which is found out elsewhere.
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def remember(work_fd: int, family: str, stubs: bytes) -> None:
    """Remember ``no`` after a top was found without stubs, ``maybe`` before it may get any."""
    syscalls.setxattr(work_fd, f"{family}.{_ATTRIBUTE}", stubs)
