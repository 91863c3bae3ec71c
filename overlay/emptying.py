"""Taking entries off a top that is not mounted, so that a crash loses nothing it should not.

Whole subtrees go by one rename into the work directory, where no mount looks, and are
removed there.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from overlay.errors import Refused
from overlay.layer import VANISHED, Layer, open_beneath, scan
from overlay.marks import MarkFamily, read_marks, temporary_name
from overlay.removal import remove_all
from overlay.staging import Stage
from overlay.text import printable

__all__ = ["empty", "forget_index", "take_off"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def empty(top: Layer, stage: Stage) -> int:
    """Take everything off a top; how many entries its root had.  The root stays as it is."""
    names = os.listdir(top.fd)
    directories = [_unlink(top.fd, os.fsencode(name), stage) for name in names]
    remove_all(stage.fd, filter(None, directories))
    return len(names)


def take_off(top: Layer, stage: Stage, family: MarkFamily, goes: Callable[[bytes], bool]) -> int:
    """Take what ``goes`` off a top whose bottoms show the same without it; how many did.

    In a directory that is opaque nothing can go unless all does: it would be hidden then.
    """
    return _Taking(top, stage, family, goes).run()


class _Taking:
    def __init__(
        self, top: Layer, stage: Stage, family: MarkFamily, goes: Callable[[bytes], bool]
    ) -> None:
        self._top = top
        self._stage = stage
        self._family = family
        self._goes = goes
        self._count = 0

    def run(self) -> int:
        # Directories after what is in them.
        pending: list[tuple[bytes, bool]] = [(b"", False)]
        while pending:
            path, done = pending.pop()
            if done:
                self._leave(path)
                continue
            if path:
                pending.append((path, True))
            pending += [(inner, False) for inner in self._look(path)]
        return self._count

    def _look(self, path: bytes) -> list[bytes]:
        """Take off the files of a directory; its directories that may hold more to take off."""
        inner = []
        with self._unseen_change(path) as fd:
            for name, st in list(scan(fd)):
                below = path + b"/" + name if path else name
                if not stat.S_ISDIR(st.st_mode):
                    if self._goes(below):
                        os.unlink(name, dir_fd=fd)
                        self._count += 1
                elif not read_marks(fd, name, st, self._family).opaque:
                    inner.append(below)
                elif self._all_go(below):
                    gone = _unlink(fd, name, self._stage)
                    remove_all(self._stage.fd, [gone] if gone else [])
                    self._count += 1
        return inner

    @contextmanager
    def _unseen_change(self, path: bytes) -> Iterator[int]:
        """A directory of the top, that has the same times afterwards: the union shows them."""
        with self._top.directory(path) as fd:
            before = os.fstat(fd)
            yield fd
            if os.fstat(fd).st_mtime_ns != before.st_mtime_ns:
                os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))

    def _all_go(self, path: bytes) -> bool:
        return self._goes(path) and all(self._goes(each.path) for each in self._top.walk(path))

    def _leave(self, path: bytes) -> None:
        if not self._goes(path):
            return
        above, _, name = path.rpartition(b"/")
        with self._unseen_change(above) as fd:
            try:
                os.rmdir(name, dir_fd=fd)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                self._count += 1


def _unlink(dirfd: int, name: bytes, stage: Stage) -> bytes | None:
    """Take something away in one step; what a directory is called in the stage then."""
    gone = temporary_name()
    try:
        os.rename(name, gone, src_dir_fd=dirfd, dst_dir_fd=stage.fd)
    except OSError as error:
        if error.errno in VANISHED:
            return None
        if error.errno in (errno.EXDEV, errno.EBUSY):
            raise Refused(
                f"{printable(name)} of the top is a mount point",
                hint="unmount what is mounted in the top",
                errno=error.errno,
            ) from None
        raise
    st = os.stat(gone, dir_fd=stage.fd, follow_symlinks=False)
    if stat.S_ISDIR(st.st_mode):
        return gone
    os.unlink(gone, dir_fd=stage.fd)
    return None


def forget_index(work_fd: int) -> None:
    """Remove the copies of hard links that no name of the top leads to any more."""
    try:
        fd = open_beneath(work_fd, b"index", _DIRECTORY)
    except OSError as error:
        if error.errno in VANISHED:
            return
        raise
    try:
        for name, st in list(scan(fd)):
            if stat.S_ISREG(st.st_mode) and st.st_nlink == 1:
                os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)
