"""Files that a command writes for its user: whole, or as they were."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from overlay.errors import OperationFailed, UsageError
from overlay.text import printable

__all__ = ["check_target", "sync_directory", "write_atomically"]


def check_target(path: str) -> None:
    """Refuse a file that could not be written, before the work and not after it."""
    directory = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(directory):
        raise UsageError(
            f"no such directory: {printable(directory)}", hint="make it, or name another file"
        )
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise UsageError(f"{printable(path)} is not a regular file", hint="name another file")


def write_atomically(path: str, content: str | Iterable[str]) -> None:
    """Write ``content`` so that ``path`` has all of it or is as it was, also after a crash.

    Raises :class:`OperationFailed`; nothing is left behind then.
    """
    target = os.path.realpath(path)
    directory = os.path.dirname(target)
    aside = os.path.join(directory, f".fallthru-{os.getpid()}")
    try:
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _failed(path, error) from error
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.writelines([content] if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, target)
        sync_directory(directory)
    except OSError as error:
        raise _failed(path, error) from error
    finally:
        if os.path.lexists(aside):
            os.unlink(aside)


def sync_directory(directory: str) -> None:
    """Have the names in ``directory`` on disk."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failed(path: str, error: OSError) -> OperationFailed:
    return OperationFailed(
        f"cannot write {printable(path)}",
        hint="name a file where you may write, on a file system with room",
        errno=error.errno or 0,
    )
