"""The safe ground for changing a top: nobody else uses it, and what is half made is unseen.

A run has a directory of its own in the work directory, which is on the top's file system
and seen by no mount.  The next run removes what a killed one left there.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from overlay import images, workdir
from overlay.errors import OperationFailed, TopInUse
from overlay.layer import Layer, open_beneath, scan
from overlay.markvalues import NO_XATTR
from overlay.priming.bottomlist import FAMILY
from overlay.text import printable

__all__ = [
    "PrimedLayers",
    "Stage",
    "forget_times",
    "keep_times",
    "open_bottom",
    "primed_layers",
    "remember_times",
    "remove_tree",
    "stage_in",
]

#: Directories of runs; what is called so in a work directory holds no user data.
STAGE_PREFIX = b".fallthru-prime-"
#: A directory's times while entries appear in it.  Overlayfs hides the whole name space.
_TIMES = FAMILY.prefix + "fallthru.times"
_PACKED = struct.Struct("<qq")

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


class Stage:
    """A directory in the work directory: names in it, and what is made there."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._serial = itertools.count()

    def new_directory(self) -> bytes:
        """Make an empty directory that only we can enter; its name."""
        name = b"%d" % next(self._serial)
        os.mkdir(name, 0o700, dir_fd=self.fd)
        return name

    @contextmanager
    def directory(self, name: bytes) -> Iterator[int]:
        """A descriptor on one of the directories made here."""
        with self.opened(name, _DIRECTORY) as fd:
            yield fd

    @contextmanager
    def opened(self, name: bytes, flags: int = os.O_RDONLY) -> Iterator[int]:
        """A descriptor on something made here."""
        fd = open_beneath(self.fd, name, flags)
        try:
            yield fd
        finally:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class PrimedLayers:
    """The layers of an overlay that is not mounted, open, and a stage of one's own."""

    top: Layer
    bottoms: list[Layer]
    stage: Stage


@contextmanager
def primed_layers(top: str, bottoms: Sequence[str], work: str | None) -> Iterator[PrimedLayers]:
    """Make sure that the layers fit together and nobody uses the top, and open them.

    The kernel itself is asked, by a mount that nobody sees: that finds overlays in other
    namespaces and detached ones too, and notes on the work directory, before the first
    stub exists, that the top may hold stubs.  Raises TopInUse and what mounting raises.
    """
    # What removes trees or opens bottoms does not mount.
    from overlay import kernel

    os.close(kernel.open_overlay(kernel.Overlay(tuple(bottoms), top, work, "fallthru")))
    with ExitStack() as stack:
        # Not private: nothing can be renamed between two copies of a mount.
        upper = stack.enter_context(Layer.open(top))
        lower = [stack.enter_context(open_bottom(path)) for path in bottoms]
        beside = work or workdir.beside(os.path.realpath(top))
        below = stack.enter_context(Layer.open(beside))
        try:
            fcntl.flock(below.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise
            raise TopInUse(
                f"another run is changing the top {printable(top)}",
                hint="wait until it is done",
                errno=errno.EBUSY,
            ) from None
        stage = stack.enter_context(stage_in(below.fd))
        try:
            yield PrimedLayers(upper, lower, stage)
        except OSError as error:
            raise OperationFailed(
                f"the top {printable(top)} could not be changed further",
                hint="nothing is lost and the union shows the same; run it again to go on",
                errno=error.errno or 0,
            ) from error


def open_bottom(path: str) -> Layer:
    """A bottom as overlayfs sees it: a directory without what is mounted in it, or an image."""
    if images.is_image(path):
        fd = images.reopen(path)
        if fd is not None:
            return Layer(fd, path)
    return Layer.open(path, private=True)


@contextmanager
def stage_in(work: int) -> Iterator[Stage]:
    """A stage in a work directory that the caller has locked; it is removed at the end."""
    for name, _ in list(scan(work)):
        if name.startswith(STAGE_PREFIX):
            remove_tree(work, name)
    name = STAGE_PREFIX + b"%d" % os.getpid()
    os.mkdir(name, 0o700, dir_fd=work)
    fd = open_beneath(work, name, _DIRECTORY)
    try:
        # Neither list nor group of the directory above may rub off on what is made here.
        with suppress(OSError):
            os.removexattr(fd, "system.posix_acl_default")
        os.fchown(fd, os.geteuid(), os.getegid())
        os.fchmod(fd, 0o700)
        yield Stage(fd)
    finally:
        os.close(fd)
        remove_tree(work, name)


def remove_tree(dirfd: int, name: bytes) -> None:
    """Remove a directory and all in it, however deep, following nothing."""
    pending = [(name, False)]
    while pending:
        path, emptied = pending.pop()
        above, _, last = path.rpartition(b"/")
        if emptied:
            parent = open_beneath(dirfd, above, _DIRECTORY)
            try:
                os.rmdir(last, dir_fd=parent)
            finally:
                os.close(parent)
            continue
        pending.append((path, True))
        fd = open_beneath(dirfd, path, _DIRECTORY)
        try:
            with os.scandir(fd) as found:
                # The type is in the directory itself: no stat.
                entries = [(each.name, each.is_dir(follow_symlinks=False)) for each in found]
            for entry, is_dir in entries:
                if is_dir:
                    pending.append((path + b"/" + os.fsencode(entry), False))
                else:
                    os.unlink(entry, dir_fd=fd)
        finally:
            os.close(fd)


# ------------------------------------------------------------------- directories' times


def remember_times(fd: int) -> None:
    """Note a directory's times on it, unless a killed run did before."""
    with suppress(FileExistsError):
        st = os.fstat(fd)
        os.setxattr(fd, _TIMES, _PACKED.pack(st.st_atime_ns, st.st_mtime_ns), os.XATTR_CREATE)


def forget_times(fd: int) -> None:
    """Give a directory the times that were noted, if any were, and drop the note."""
    try:
        noted = os.getxattr(fd, _TIMES)
    except OSError as error:
        if error.errno in NO_XATTR:
            return
        raise
    if len(noted) == _PACKED.size:
        os.utime(fd, ns=_PACKED.unpack(noted))
    os.removexattr(fd, _TIMES)


@contextmanager
def keep_times(fd: int) -> Iterator[None]:
    """Change what is in a directory without a trace in its times, also after a crash."""
    remember_times(fd)
    try:
        yield
    finally:
        forget_times(fd)
