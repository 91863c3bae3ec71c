"""Images that are made once in a run: file systems that several clauses and targets start from.

To make one takes a process or three, which is most of what a clause about file systems takes
in a guest.  A clause gets a copy, so that none finds what another has done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from overlay.newmount import new_mount

__all__ = ["KeptImages", "keeping"]

_BLOCK: Final = 1 << 16


class KeptImages:
    """Images by name, in a tmpfs that is held by ``home``, its descriptor, alone.

    Workers inherit the descriptor, so that what one keeps the next one finds; it is gone
    with the last process that has it.  Without one nothing is kept.
    """

    def __init__(self, home: int | None = None) -> None:
        self._home = home

    def provide(self, name: str, image: Path, make: Callable[[], None]) -> None:
        """Have the file ``image``: a copy of the one kept as ``name``, else what ``make`` makes.

        What ``make`` raises is passed on, and nothing is kept.
        """
        if self._home is None:
            make()
            return
        try:
            kept = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._home)
        except FileNotFoundError:
            make()
            self._keep(name, image)
            return
        try:
            made = os.open(image, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            with os.fdopen(made, "wb", buffering=0):
                _copy(kept, made)
        finally:
            os.close(kept)

    def _keep(self, name: str, image: Path) -> None:
        # Under another name until it is whole: other processes may look for it.
        aside = f"{name}.{os.getpid()}"
        source = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
        try:
            new = os.open(
                aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._home
            )
            with os.fdopen(new, "wb", buffering=0):
                _copy(source, new)
        finally:
            os.close(source)
        os.rename(aside, name, src_dir_fd=self._home, dst_dir_fd=self._home)


@contextmanager
def keeping() -> Iterator[KeptImages]:
    """Images for the length of a run; none are kept where this process may not mount."""
    try:
        home = new_mount("tmpfs")
    except OSError:
        yield KeptImages()
        return
    try:
        yield KeptImages(home)
    finally:
        os.close(home)


def _copy(source: int, target: int) -> None:
    """All that is not zero, at its place: images are mostly holes, and zeros that were written."""
    size = os.fstat(source).st_size
    os.truncate(target, size)
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError:
            return  # ENXIO: only a hole is left
        end = os.lseek(source, at, os.SEEK_HOLE)
        while at < end:
            piece = os.pread(source, min(_BLOCK, end - at), at)
            if piece.count(0) != len(piece):
                os.pwrite(target, piece, at)
            at += len(piece)
