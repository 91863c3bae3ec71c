"""Where things are made before anybody sees them: ``work/`` in the work directory.

Everything that takes more than one step is made here under a temporary name and then
put in its place by one rename, so a crash leaves it whole or not at all.  What a crash
leaves behind is removed at the next start, by the engine and by the kernel alike, for
the kernel uses the same directory (fs/overlayfs/super.c, ovl_workdir_create()).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from overlay.errors import Refused, TopInUse
from overlay.layer import scan
from overlay.marks import place, temporary_name
from overlay.removal import strip
from overlay.syscalls import open_beneath
from overlay.text import printable

__all__ = ["Aside"]

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY


class Aside:
    """An exclusive hold on a work directory, and the place in it where things are made.

    ``fd`` is the directory to make them in.
    """

    def __init__(self, work_fd: int, path: str) -> None:
        """Take the work directory ``work_fd`` (readable, taken over), and clean it.

        TopInUse if another engine has it; Refused if a volatile mount used it last.
        """
        self._lock = work_fd
        self.fd = -1
        try:
            fcntl.flock(work_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(work_fd)
            if error.errno != errno.EWOULDBLOCK:
                raise
            raise TopInUse(
                f"the work directory {printable(path)} serves another union",
                hint="a top serves one union at a time; end the other one first",
                errno=errno.EBUSY,
            ) from None
        try:
            self.fd = self._open()
            self._refuse_volatile(path)
            self.clean()
        except BaseException:
            self.close()
            raise

    def _open(self) -> int:
        try:
            os.mkdir("work", 0o700, dir_fd=self._lock)
        except FileExistsError:
            # The kernel makes it with no permission at all, which binds an ordinary user.
            if stat.S_ISDIR(os.lstat(b"/proc/self/fd/%d/work" % self._lock).st_mode):
                fd = open_beneath(self._lock, "work", os.O_PATH)
                try:
                    os.chmod(b"/proc/self/fd/%d" % fd, 0o700)
                finally:
                    os.close(fd)
        return open_beneath(self._lock, "work", _DIRECTORY)

    def _refuse_volatile(self, path: str) -> None:
        """Overlayfs leaves a directory for each feature that may have left the top incomplete."""
        try:
            fd = open_beneath(self.fd, "incompat", _DIRECTORY)
        except FileNotFoundError:
            return
        try:
            names = sorted(os.listdir(fd))
        finally:
            os.close(fd)
        if names:
            raise Refused(
                f"the top of {printable(path)} was last mounted {printable(names[0])}, and may "
                "be incomplete",
                hint=f"if it was unmounted in order, remove {printable(path)}/work/incompat",
            )

    def close(self) -> None:
        """Give the work directory free."""
        for fd in (self.fd, self._lock):
            if fd >= 0:
                os.close(fd)
        self.fd = self._lock = -1

    def clean(self) -> None:
        """Remove everything: nothing here was ever seen in the union."""
        for name, _ in list(scan(self.fd)):
            self.discard(name)

    def discard(self, name: bytes) -> None:
        """Remove something made or moved here, however deep it is; nothing if it is gone."""
        pending = [name]
        while pending:
            each = pending.pop()
            try:
                os.unlink(each, dir_fd=self.fd)
                continue
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in (errno.EISDIR, errno.EPERM):
                    raise
            inner, _ = strip(self.fd, each)
            pending += inner
            os.rmdir(each, dir_fd=self.fd)

    def drop(self, name: bytes) -> None:
        """:meth:`discard` what is out of sight; if that fails now, the next start does it."""
        with suppress(OSError):
            self.discard(name)

    @contextmanager
    def making(self) -> Iterator[bytes]:
        """A temporary name to make something as; it is removed if the body fails."""
        name = temporary_name()
        try:
            yield name
        except BaseException:
            self.drop(name)
            raise

    def put(self, name: bytes, dirfd: int, as_name: bytes, *, replace: bool) -> None:
        """Put something in its place by one rename, and remove what it displaced."""
        if place(self.fd, name, dirfd, as_name, replace=replace):
            self.drop(name)
