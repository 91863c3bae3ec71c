"""The plain part of a directory's differences, with as few calls as the answer needs.

Nearly everything on a top is a file that was copied up, a new one, a whiteout, or a
directory that is merged, and has no marks but the kernel's own notes.  For these a listing,
an lstat on each side and one listxattr say all.  Whatever has a mark is left to the general
lookup in :mod:`overlay.view`, which asks several times as much.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from overlay import syscalls
from overlay.layer import VANISHED
from overlay.marks import Marks
from overlay.markvalues import MarkFamily
from overlay.view import Node, Place

__all__ = ["Found", "Quick"]

_PLAIN: Final = Marks(bare=True)
_LINK: Final = stat.S_IFLNK
_DIRECTORY: Final = stat.S_IFDIR
_FILE: Final = stat.S_IFREG
_DEVICE: Final = stat.S_IFCHR


@dataclass(slots=True)
class Found:
    """What is plain in a directory: (path, now, was), of one type where there are both.

    ``now`` is None for what a whiteout hides, which is no directory.  ``left`` are the
    names that were not plain.
    """

    entries: list[tuple[bytes, Node | None, Node | None]]
    left: list[bytes]


class Quick:
    """Looks at directories of a top over one bottom.

    ``in_place``: the working directory may be changed, which makes every name one
    component to look up.
    """

    def __init__(self, family: MarkFamily, *, in_place: bool = False) -> None:
        origin, impure = family.attribute("origin"), family.attribute("impure")
        # A directory's own notes, like that of a copyup, change nothing that is shown.
        self._marks: dict[tuple[str, ...], Marks] = {
            (): _PLAIN,
            (origin,): Marks(others=frozenset({"origin"}), bare=True),
        }
        for pair in ((origin, impure), (impure, origin)):
            self._marks[pair] = Marks(others=frozenset({"origin", "impure"}), bare=True)
        self._marks[impure,] = Marks(others=frozenset({"impure"}), bare=True)
        self.in_place = in_place

    def look(
        self, here: int, there: int | None, path: bytes, below: bytes | None, *, opaque: bool
    ) -> Found:
        """What is plain in the open directory ``here`` of the top, at ``path``.

        ``there``, at ``below``, is the only bottom's; None if it has none.  ``opaque``: the
        top's hides what it does not have itself.
        """
        mine, left = self._mine(here)
        if there is None:
            return _only_new(mine, left, path)
        found = self._both(mine, left, (there, path, below or b""), opaque=opaque)
        if opaque:
            seen = {name for name, _, _ in mine}
            hidden = [os.fsencode(name) for name in os.listdir(there) if name not in seen]
            found.left += set(hidden).difference(left)
        return found

    def _base(self, fd: int) -> str:
        """What to put before a name in the directory to reach it."""
        if self.in_place:
            os.fchdir(fd)
            return ""
        return os.fsdecode(syscalls.fd_path(fd)) + "/"

    def _mine(self, here: int) -> tuple[list[tuple[str, os.stat_result, Marks]], list[bytes]]:
        """The entries of the top whose marks, if any, change nothing; names of the others."""
        base = self._base(here)
        known, listxattr = self._marks, os.listxattr
        mine: list[tuple[str, os.stat_result, Marks]] = []
        left = []
        with os.scandir(here) as entries:
            for entry in entries:
                name = entry.name
                try:
                    if entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False):
                        attributes = listxattr(base + name, follow_symlinks=False)
                        marks = known.get(tuple(attributes)) if attributes else _PLAIN
                        if marks is None:
                            left.append(os.fsencode(name))
                            continue
                        mine.append((name, entry.stat(follow_symlinks=False), marks))
                    else:
                        mine.append((name, entry.stat(follow_symlinks=False), _PLAIN))
                except OSError as error:
                    # The general lookup tells what is wrong with it, or that it is gone.
                    if error.errno not in VANISHED:
                        left.append(os.fsencode(name))
        return mine, left

    def _both(
        self,
        mine: Sequence[tuple[str, os.stat_result, Marks]],
        left: list[bytes],
        where: tuple[int, bytes, bytes],
        *,
        opaque: bool,
    ) -> Found:
        there, path, below = where
        before = path + b"/" if path else b""
        before_below = below + b"/" if below else b""
        base = self._base(there)
        found = Found([], left)
        lstat, listxattr, append = os.lstat, os.listxattr, found.entries.append
        for name, st, marks in mine:
            kind = st.st_mode & 0o170000
            try:
                old = lstat(base + name)
            except FileNotFoundError:
                if kind != _DEVICE or st.st_rdev:
                    append(_new(before + os.fsencode(name), st, marks))
                continue
            except OSError:
                left.append(os.fsencode(name))
                continue
            old_kind = old.st_mode & 0o170000
            hidden = kind == _DEVICE and not st.st_rdev
            plain = old_kind in (_FILE, _LINK) if hidden else old_kind == kind != _DEVICE
            if opaque and kind == _DIRECTORY:
                plain = False  # another directory, or a fallthru
            try:
                if not plain or (
                    old_kind != _LINK and listxattr(base + name, follow_symlinks=False)
                ):
                    left.append(os.fsencode(name))
                    continue
            except OSError:
                left.append(os.fsencode(name))
                continue
            raw = os.fsencode(name)
            place = Place(1, before_below + raw)
            was = Node(old, _PLAIN, (place,), place if old_kind == _FILE else None)
            now = None
            if not hidden:
                mine_at = Place(0, before + raw)
                places = (mine_at, place) if kind == _DIRECTORY else (mine_at,)
                now = Node(st, marks, places, mine_at if kind == _FILE else None)
            append((before + raw, now, was))
        return found


def _only_new(
    mine: Sequence[tuple[str, os.stat_result, Marks]], left: list[bytes], path: bytes
) -> Found:
    before = path + b"/" if path else b""
    found = [
        _new(before + os.fsencode(name), st, marks)
        for name, st, marks in mine
        if st.st_rdev or (st.st_mode & 0o170000) != _DEVICE
    ]
    return Found(found, left)


def _new(path: bytes, st: os.stat_result, marks: Marks) -> tuple[bytes, Node | None, Node | None]:
    place = Place(0, path)
    return path, Node(st, marks, (place,), place if stat.S_ISREG(st.st_mode) else None), None
