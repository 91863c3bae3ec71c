"""The building site in a tree that is being changed: where copies are made before they are seen.

It is a directory in the root of the tree, so that whatever is mounted there, it is on the
same file system: ``.fallthru-commit``, closed to everybody else.  Copies are put in their
places a batch at a time, after one syncfs() for all of them, so that no name ever leads to
data that are not on the disk.  A note says what is being done; where it is found, a run
before was killed.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, NamedTuple

from overlay import syscalls
from overlay.errors import Refused
from overlay.inodeflags import protect
from overlay.layer import Layer, open_beneath, scan
from overlay.locking import lock
from overlay.marks import place
from overlay.staging import remove_tree
from overlay.text import printable

__all__ = ["SITE", "Site", "interrupted"]

SITE: Final = b".fallthru-commit"
_NOTE: Final = "note"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
#: A batch ends with the first of these: entries, bytes.
_BATCH_ENTRIES: Final = 2000
_BATCH_BYTES: Final = 256 << 20


class _Ready(NamedTuple):
    """A copy, and where it belongs."""

    made: bytes
    directory: bytes
    name: bytes
    flags: int


class Site:
    """A building site in ``tree``.  ``fd`` is where things are made.

    ``reach`` opens a directory of the tree, and makes it where it is missing.
    """

    def __init__(self, tree: Layer, fd: int) -> None:
        self.tree = tree
        self.fd = fd
        self.reach: Callable[[bytes], int] = tree.open_dir
        self._ready: list[_Ready] = []
        self._bytes = 0

    def add(self, made: bytes, path: bytes, size: int, flags: int = 0) -> None:
        """Put what was made as ``made`` at ``path``, in place of what is there, by and by.

        ``flags`` are inode flags that protect it there.
        """
        directory, _, name = path.rpartition(b"/")
        self._ready.append(_Ready(made, directory, name, flags))
        self._bytes += size
        if len(self._ready) >= _BATCH_ENTRIES or self._bytes >= _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Put everything that is ready in its place."""
        if not self._ready:
            return
        syscalls.syncfs(self.fd)
        for directory, ready in groupby(self._ready, key=attrgetter("directory")):
            fd = self.reach(directory)
            try:
                before = os.fstat(fd)
                for each in ready:
                    self._put(each, fd)
                if directory:
                    # Those that the top has get its times in the end; the others had no change.
                    os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
            finally:
                os.close(fd)
        self._ready.clear()
        self._bytes = 0

    def _put(self, ready: _Ready, dirfd: int) -> None:
        # A directory that was in the way is in here then, to be removed at the end.
        place(self.fd, ready.made, dirfd, ready.name, replace=True)
        if ready.flags:
            file = syscalls.open_beneath(dirfd, ready.name, os.O_PATH)
            try:
                protect(file, ready.flags)
            finally:
                os.close(file)

    def clean(self) -> None:
        """Remove everything but the note."""
        for name, _ in list(scan(self.fd)):
            if name == os.fsencode(_NOTE):
                continue
            try:
                os.unlink(name, dir_fd=self.fd)
            except OSError as error:
                if error.errno not in (errno.EISDIR, errno.EPERM):
                    raise
                remove_tree(self.fd, name)

    def sync(self) -> None:
        """Everything so far is on the disk."""
        syscalls.syncfs(self.fd)


@contextmanager
def opened(tree: Layer, note: dict[str, Any]) -> Iterator[Site]:
    """The building site of a tree, cleaned; it goes when the body succeeds.

    If the body fails only the note stays, so that the next run knows.  Refused while
    another run is at work.
    """
    with suppress(FileExistsError):
        os.mkdir(SITE, 0o700, dir_fd=tree.fd)
    fd = open_beneath(tree.fd, SITE, _DIRECTORY)
    try:
        if not lock(fd):
            raise Refused(
                f"another run is changing {printable(tree.path)}",
                hint="wait until it is done",
                errno=errno.EBUSY,
            )
        # Neither list nor group of the directory above may rub off on what is made here.
        with suppress(OSError):
            os.removexattr(fd, "system.posix_acl_default")
        os.fchown(fd, os.geteuid(), os.getegid())
        os.fchmod(fd, 0o700)
        site = Site(tree, fd)
        site.clean()
        try:
            _write_note(fd, note)
            yield site
            site.flush()
            site.sync()
        except BaseException:
            with suppress(OSError):
                site.clean()
            raise
        remove_tree(tree.fd, SITE)
    finally:
        os.close(fd)


def _write_note(fd: int, note: dict[str, Any]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with suppress(FileExistsError), open(os.open(_NOTE, flags, 0o600, dir_fd=fd), "wb") as file:
        file.write(json.dumps(note).encode())
        file.flush()
        os.fsync(file.fileno())
        os.fsync(fd)


def interrupted(tree: Layer) -> bool:
    """Whether a run was killed, or failed, while it changed the tree."""
    try:
        os.stat(os.path.join(SITE, os.fsencode(_NOTE)), dir_fd=tree.fd, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
