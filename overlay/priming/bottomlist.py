"""What the bottoms show of a directory, listed fast: for making fallthrus of all of it.

:mod:`overlay.view` looks single names up; here whole directories are read, with one
lstat an entry and nothing else.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from overlay import marks
from overlay.layer import VANISHED
from overlay.markvalues import NO_XATTR, MarkFamily
from overlay.view import OpenDirectory, Place, View

__all__ = ["FAMILY", "Source", "children", "visible"]

#: metacopy and redirect are refused in user namespaces, so fallthrus have trusted marks.
FAMILY: Final = MarkFamily.TRUSTED
_OPAQUE: Final = FAMILY.attribute("opaque")

#: An entry: its name, lstat, and an open directory that has it under that name.
Source = tuple[bytes, os.stat_result, int]


@contextmanager
def visible(
    view: View, places: tuple[Place, ...], part: tuple[int, int] | None = None
) -> Iterator[list[Source]]:
    """What the bottoms show of a directory: (name, lstat, descriptor of its directory).

    The descriptors live as long as the context.  ``part`` (i, n) lists an n-th of the names.
    """
    with ExitStack() as stack:
        yield list(_scan_all(view, places, part, stack))


def _scan_all(
    view: View, places: tuple[Place, ...], part: tuple[int, int] | None, stack: ExitStack
) -> Iterator[Source]:
    seen: set[bytes] = set()
    for place in places:
        fd = view.layers[place.layer].open_dir(place.path)
        stack.callback(os.close, fd)
        hidden_files = _attribute(fd, _OPAQUE) == b"x"
        with os.scandir(fd) as found:
            for entry in found:
                name = os.fsencode(entry.name)
                if name in seen or (part and zlib.crc32(name) % part[1] != part[0]):
                    continue
                if len(places) > 1:
                    seen.add(name)
                try:
                    st = entry.stat(follow_symlinks=False)
                except OSError as error:
                    if error.errno not in VANISHED:
                        raise
                    continue
                if marks.is_whiteout_device(st):
                    continue
                if hidden_files and marks.read_marks(fd, name, st, FAMILY).whiteout:
                    continue
                yield name, st, fd


def _attribute(fd: int, attribute: str) -> bytes | None:
    try:
        return os.getxattr(fd, attribute)
    except OSError as error:
        if error.errno in NO_XATTR:
            return None
        raise


def children(
    view: View, places: tuple[Place, ...], names: Iterable[bytes]
) -> list[tuple[Place, ...]]:
    """The bottom places of subdirectories of a directory, in the order of ``names``."""
    if len(view.layers) == 1:
        before = places[0].path + b"/" if places[0].path else b""
        return [(Place(0, before + name),) for name in names]
    result = []
    with OpenDirectory(view, places) as directory:
        for name in names:
            node = directory.lookup(name)
            result.append(() if node is None else node.places)
    return result
