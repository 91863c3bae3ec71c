"""What fallthru must remember until the next boot: in /run/fallthru, locked, never half-written.

Which overlays live is the kernel's to know (mountinfo).  Here is only what it does not
know: what was switched on for an overlay's sake, so that it can be switched off again
after the overlay went by a plain umount(8) or in a crash.  /run ends with the boot, as
all mounts do.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from overlay.errors import OperationFailed

__all__ = ["DIRECTORY", "State", "exists", "locked", "peek"]

DIRECTORY: Final = "/run/fallthru"
_FILE: Final = "bottoms.json"
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def exists() -> bool:
    """Whether there is anything to remember; one system call, for the way of every unmount."""
    return os.path.exists(f"{DIRECTORY}/{_FILE}")


def peek() -> dict[str, Any]:
    """What is remembered, as JSON, without the lock; empty when there is nothing."""
    try:
        fd = os.open(DIRECTORY, _OPEN)
    except OSError:
        return {}
    try:
        return State(fd).load()
    finally:
        os.close(fd)


class State:
    """The directory while it is locked; ``fd`` is open on it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def load(self) -> dict[str, Any]:
        """The remembered JSON object; empty when there is none, or it is of another boot."""
        try:
            with open(os.open(_FILE, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self.fd), "rb") as file:
                found = json.loads(file.read())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise OperationFailed(
                f"{DIRECTORY}/{_FILE} cannot be read: {error}",
                hint="remove it; devices that it kept read-only need blockdev --setrw",
            ) from None
        # A container's /run may outlive the machine's boot.
        return found if isinstance(found, dict) and found.get("boot") == _boot() else {}

    def store(self, value: dict[str, Any]) -> None:
        """Replace what is remembered, at once; an empty object removes the file."""
        if not value:
            with suppress(FileNotFoundError):
                os.unlink(_FILE, dir_fd=self.fd)
            return
        aside = f".{_FILE}.new"  # one writer at a time: the lock is held
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with open(os.open(aside, flags, 0o644, dir_fd=self.fd), "wb") as file:
            file.write(json.dumps({**value, "boot": _boot()}).encode())
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, _FILE, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        os.fsync(self.fd)


@contextmanager
def locked() -> Iterator[State | None]:
    """The state, nobody else's meanwhile; None for a caller who may not keep any.

    That is anybody but the machine's root, who cannot switch on what would be remembered.
    The lock ends with the process that holds it.
    """
    fd = _open()
    if fd is None:
        yield None
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield State(fd)
    finally:
        os.close(fd)


def _open() -> int | None:
    try:
        with suppress(FileExistsError):
            os.mkdir(DIRECTORY, 0o755)
        fd = os.open(DIRECTORY, _OPEN)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR):
            return None
        raise OperationFailed(f"{DIRECTORY} cannot be opened", errno=error.errno or 0) from None
    if os.fstat(fd).st_uid == 0 and os.geteuid() == 0 and os.access(".", os.W_OK, dir_fd=fd):
        return fd
    os.close(fd)
    return None


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
