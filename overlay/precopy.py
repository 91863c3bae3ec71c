"""Copying known files up ahead of time, several at once, by the kernel itself.

Opening a file for writing through the overlay copies it up (document L332), so whoever
needs it later does not wait.  Nothing is written; a top that is not mounted is mounted for
the time, where nobody sees it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice

from overlay import syscalls
from overlay.errors import Refused
from overlay.layer import VANISHED, open_beneath
from overlay.text import human_bytes

__all__ = ["Precopied", "listed", "precopy"]

#: More requests than this at a time gain nothing, and the list may be long.
_QUEUE = 256
#: Why a file cannot be opened for writing, which is said of it and is no failure.
_REASONS = frozenset(
    {errno.ETXTBSY, errno.EACCES, errno.EPERM, errno.ENXIO, errno.ELOOP, errno.EISDIR, *VANISHED}
)


@dataclass(slots=True)
class Precopied:
    """What was done: files that are on the top now, bytes copied, and paths left with why."""

    files: int = 0
    copied: int = 0
    left: list[tuple[bytes, str]] = field(default_factory=list)


def precopy(
    mount_fd: int,
    paths: Iterable[bytes],
    *,
    jobs: int,
    progress: Callable[[int], None] | None = None,
) -> Precopied:
    """Copy the regular files among ``paths`` (from the union's root) up.

    ``mount_fd`` is a descriptor of the overlay's root.  Symlinks are not followed.  Refused
    when the top's file system has no room for them all, before anything is copied.
    """
    done = Precopied()
    wanted = list(_files(mount_fd, paths, done))
    system = os.fstatvfs(mount_fd)
    free, needed = system.f_bavail * system.f_frsize, sum(size for _, size in wanted)
    if needed > free:
        raise Refused(
            f"the files have {human_bytes(needed)}, the top has room for {human_bytes(free)}",
            hint="give fewer paths, or make room on the top's file system",
            errno=errno.ENOSPC,
        )
    # The kernel copies while a thread waits for it, so threads are enough.
    with ThreadPoolExecutor(jobs) as pool:
        todo = iter(wanted)
        running: dict[Future[None], tuple[bytes, int]] = {}
        while True:
            for path, size in islice(todo, _QUEUE - len(running)):
                running[pool.submit(_copy_up, mount_fd, path)] = (path, size)
            if not running:
                return done
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                path, size = running.pop(future)
                _account(done, future, path, size)
                if progress is not None:
                    progress(1)


def _files(mount_fd: int, paths: Iterable[bytes], done: Precopied) -> Iterator[tuple[bytes, int]]:
    seen = set()
    for raw in paths:
        path = raw.strip(b"/")
        if not path or path in seen:
            continue
        seen.add(path)
        try:
            fd = open_beneath(mount_fd, path, os.O_PATH)
        except OSError as error:
            if error.errno not in _REASONS:
                raise
            done.left.append((path, os.strerror(error.errno or 0)))
            continue
        try:
            st = os.fstat(fd)
        finally:
            os.close(fd)
        if stat.S_ISREG(st.st_mode):
            yield path, st.st_size
        else:
            done.left.append((path, "no regular file"))


def _copy_up(mount_fd: int, path: bytes) -> None:
    # Neither a fifo that took its place nor a symlink is waited for or followed.
    os.close(syscalls.open_beneath(mount_fd, path, os.O_WRONLY | os.O_NONBLOCK))


def _account(done: Precopied, future: Future[None], path: bytes, size: int) -> None:
    try:
        future.result()
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        done.left.append((path, os.strerror(error.errno or 0)))
    else:
        done.files += 1
        done.copied += size


def listed(text: bytes) -> list[bytes]:
    """The paths of a list: ended by NULs, if there is one in it, else one a line."""
    return [path for path in text.split(b"\0" if b"\0" in text else b"\n") if path]
