"""Faults before the n-th system call that changes something, to see what is left behind."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest import mock

from overlay import syscalls

__all__ = ["CRASHED", "crash_before", "faulty", "never"]

#: The exit status of a process that ended at its fault.
CRASHED: Final = 42

_OS: Final = (
    *("mkdir", "mknod", "symlink", "link", "unlink", "rmdir", "rename", "chmod", "fchmod"),
    *("chown", "utime", "setxattr", "removexattr", "truncate", "ftruncate", "pwrite"),
    *("copy_file_range", "fsync"),
)


@contextmanager
def faulty(
    fault: Callable[[int], None], calls: list[str] | None = None
) -> Iterator[Callable[[], int]]:
    """Call ``fault(number)`` before each changing system call; yields how many there were.

    Their names are added to ``calls``.
    """
    count = 0

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if calls is not None:
                calls.append(call.__name__)
            fault(count)
            return call(*args, **kwargs)

        return wrapper

    opened = os.open

    def open_watched(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_CREAT:
            return int(watched(opened)(path, flags, *args, **kwargs))
        return opened(path, flags, *args, **kwargs)

    with ExitStack() as patches:
        for name in _OS:
            patches.enter_context(mock.patch.object(os, name, watched(getattr(os, name))))
        patches.enter_context(mock.patch.object(os, "open", open_watched))
        others = ((syscalls, "renameat2"), (syscalls, "syncfs"), (fcntl, "ioctl"))
        for module, name in others:
            patches.enter_context(mock.patch.object(module, name, watched(getattr(module, name))))
        yield lambda: count


def never(number: int) -> None:
    """No fault: for counting."""


def crash_before(
    number: int, action: Callable[[], object], with_it: Callable[[], None] | None = None
) -> bool:
    """Run ``action`` in a child that ends, as if killed, before call ``number``.

    Whether it came so far.  ``with_it`` is done at its end.
    """

    def fault(each: int) -> None:
        if each == number:
            if with_it is not None:
                with_it()
            os._exit(CRASHED)

    child = os.fork()
    if child == 0:
        status = 1
        try:
            with faulty(fault):
                action()
            status = 0
        finally:
            os._exit(status)
    _, result = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(result)
    assert code in (0, CRASHED), f"the child failed with {code}"
    return code == CRASHED
