"""The times of directories, which change with whatever is put into them."""

from __future__ import annotations

import os
from collections.abc import Callable

from overlay.duplicate import set_times
from overlay.layer import VANISHED, Layer

__all__ = ["copy_times"]


def copy_times(source: Layer, to: Layer, chosen: Callable[[bytes], bool]) -> None:
    """Give the ``chosen`` directories of ``to`` the times that ``source`` has there.

    Nobody else changes either.
    """
    pending = [b""]
    while pending:
        path = pending.pop()
        fd = source.open_sibling(path)
        try:
            if path and chosen(path):
                _copy(path, os.fstat(fd), to)
            with os.scandir(fd) as found:
                before = path + b"/" if path else b""
                pending += [
                    before + os.fsencode(entry.name)
                    for entry in found
                    if entry.is_dir(follow_symlinks=False)
                ]
        finally:
            os.close(fd)


def _copy(path: bytes, st: os.stat_result, to: Layer) -> None:
    try:
        fd = to.open_sibling(path)
    except OSError as error:
        if error.errno in VANISHED:
            return  # left out, or it shows nothing of its own
        raise
    try:
        if os.fstat(fd).st_mtime_ns != st.st_mtime_ns:
            set_times(fd, st)
    finally:
        os.close(fd)
