"""Every error fallthru reports: a small hierarchy whose classes carry the exit code.

The exit codes are the command's contract (``docs/exit-codes.md``).  Errors are
raised where the cause is known and caught once, in :mod:`overlay.cli`.
"""

from __future__ import annotations

import errno
import os

from overlay.lighttyping import TYPE_CHECKING
from overlay.text import file_of

if TYPE_CHECKING:
    from typing import ClassVar, Final

__all__ = [
    "EXIT_ANSWER_IS_NO",
    "EXIT_OK",
    "EnvironmentLacks",
    "FallthruError",
    "MountPointBusy",
    "NoPrivilege",
    "OperationFailed",
    "Refused",
    "TopInUse",
    "UnreadableTop",
    "UsageError",
    "cannot_read",
    "of_disk",
]

EXIT_OK = 0
#: The command worked and its answer is "no": differences, failed clauses, damage found.
EXIT_ANSWER_IS_NO = 1


class FallthruError(Exception):
    """Base of all reported errors: a message, what to do about it, and an errno.

    ``hint`` is one sentence that says what to do.  ``errno`` is the kernel's
    error number where a system call was behind the error, else 0.
    """

    exit_code: ClassVar[int] = 5

    def __init__(self, message: str, *, hint: str | None = None, errno: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.errno = errno

    def __str__(self) -> str:
        if self.errno and os.strerror(self.errno) not in self.message:
            return f"{self.message}: {os.strerror(self.errno)}"
        return self.message


class UsageError(FallthruError):
    """The request itself is wrong: a missing directory, overlapping layers, a bad option."""

    exit_code = 2


class EnvironmentLacks(FallthruError):
    """The machine lacks something: a kernel feature, xattrs, a package."""

    exit_code = 3


class NoPrivilege(EnvironmentLacks):
    """The caller may not do this; the hint says which privilege is missing."""


class Refused(FallthruError):
    """Done as asked, this could lose or corrupt data."""

    exit_code = 4


class TopInUse(Refused):
    """The top already serves another overlay (document L437–L438: mounted exactly once).

    ``work`` is the work directory of that overlay, None where it cannot be seen.
    """

    work: str | None = None


class MountPointBusy(Refused):
    """Something is already mounted there, or the mount to remove is in use."""


class UnreadableTop(Refused):
    """The top holds marks that the chosen profile cannot read (file fallthrus)."""


class OperationFailed(FallthruError):
    """An operation that should have worked did not."""

    exit_code = 5


#: What a disk answers that is full, restricted, read-only or broken, wherever it is asked.
_OF_DISK: Final = {
    errno.ENOSPC: "make room there, and run it again",
    errno.EDQUOT: "have the quota raised or make room, and run it again",
    errno.EROFS: "have it mounted read-write again, and run it again",
    errno.EIO: "the kernel's log says more: dmesg",
}


def cannot_read(error: OSError) -> OperationFailed:
    """What to report where layers could not be looked at."""
    where = file_of(error) or "a layer"
    return OperationFailed(f"cannot read {where}", errno=error.errno or 0)


def of_disk(error: OSError) -> OperationFailed | None:
    """What to report where the cause is a disk and not the request; None for other causes."""
    if error.errno not in _OF_DISK:
        return None
    file = file_of(error)
    where = "" if file is None else f" ({file})"
    return OperationFailed(
        f"{os.strerror(error.errno)}{where}", hint=_OF_DISK[error.errno], errno=error.errno
    )
