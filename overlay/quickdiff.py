"""The plain part of a directory's differences, with as few calls as the answer needs.

Nearly everything on a top is a file that was copied up, a new one, a whiteout, or a
directory that is merged, and has no marks but the kernel's own notes.  For these a listing,
an lstat on each side and one listxattr say all.  Whatever has a mark is left to the general
lookup in :mod:`overlay.view`, which asks several times as much.
"""

from __future__ import annotations

import os
import stat
from typing import Final, NamedTuple

from overlay import syscalls
from overlay.comparing import Comparer, length
from overlay.difference import Difference, Pair, changed, deleted, new
from overlay.layer import VANISHED
from overlay.marks import Marks
from overlay.view import Node, Place, View

__all__ = ["Found", "Quick"]

_PLAIN: Final = Marks(bare=True)
_KIND: Final = 0o170000
_LINK: Final = stat.S_IFLNK
_DIRECTORY: Final = stat.S_IFDIR
_FILE: Final = stat.S_IFREG
_DEVICE: Final = stat.S_IFCHR


class Found(NamedTuple):
    """What is plain in a directory, and the names that were not, in any order."""

    items: list[Pair | Difference]
    left: set[bytes]


class _Mine(NamedTuple):
    """An entry of the top whose marks, if any, change nothing."""

    name: bytes
    st: os.stat_result
    marks: Marks


class Quick:
    """Looks at directories of a top over one bottom.

    ``in_place``: the working directory may be changed, which makes every name one
    component to look up.
    """

    def __init__(self, view: View, comparer: Comparer) -> None:
        self._view = view
        self._comparer = comparer
        family = view.family
        origin, impure = family.attribute("origin"), family.attribute("impure")
        # A directory's own notes, like that of a copyup, change nothing that is shown.
        self._marks: dict[tuple[str, ...], Marks] = {
            (): _PLAIN,
            (origin,): Marks(others=frozenset({"origin"}), bare=True),
        }
        for pair in ((origin, impure), (impure, origin)):
            self._marks[pair] = Marks(others=frozenset({"origin", "impure"}), bare=True)
        self._marks[impure,] = Marks(others=frozenset({"impure"}), bare=True)
        self.in_place = False

    @staticmethod
    def suits(pair: Pair) -> bool:
        """Whether only the top and one bottom matter, each under its own path."""
        if pair.now.places[0].layer != 0:
            return False
        if pair.was is None:
            return len(pair.now.places) == 1
        if len(pair.was.places) != 1 or pair.was.places[0].path != pair.path:
            return False
        return pair.now.marks.opaque or pair.now.places[1:] == pair.was.places

    def look(self, pair: Pair) -> Found:
        """What is plain in a directory; nothing if it was removed meanwhile."""
        left: set[bytes] = set()
        try:
            here = self._view.layers[0].open_dir(pair.path)
            try:
                mine = self._mine(here, left)
            finally:
                os.close(here)
            if pair.was is None:
                return Found(_only_new(mine, pair.path), left)
            there = self._view.layers[1].open_dir(pair.path)
            try:
                return Found(self._both(mine, left, there, pair), left)
            finally:
                os.close(there)
        except OSError as error:
            if error.errno in VANISHED:
                return Found([], set())
            raise

    def _base(self, fd: int) -> bytes:
        """What to put before a name in the directory to reach it."""
        if self.in_place:
            os.fchdir(fd)
            return b""
        return syscalls.fd_path(fd) + b"/"

    def _mine(self, here: int, left: set[bytes]) -> list[_Mine]:
        """What is plain of the top's own; ``left`` gets the names of the rest."""
        base = self._base(here)
        known, lstat, listxattr = self._marks, os.lstat, os.listxattr
        mine = []
        for name in os.listdir(base or b"."):
            try:
                st = lstat(base + name)
                kind = st.st_mode & _KIND
                marks: Marks | None = _PLAIN
                if kind in (_FILE, _DIRECTORY) and (
                    attributes := listxattr(base + name, follow_symlinks=False)
                ):
                    marks = known.get(tuple(attributes))
            except OSError as error:
                # The general lookup tells what is wrong with it, or that it is gone.
                if error.errno not in VANISHED:
                    left.add(name)
                continue
            if marks is None:
                left.add(name)
            else:
                mine.append(_Mine(name, st, marks))
        return mine

    def _both(
        self, mine: list[_Mine], left: set[bytes], there: int, pair: Pair
    ) -> list[Pair | Difference]:
        """What became of what is, or was, at the same place ``there`` on the bottom."""
        opaque = pair.now.marks.opaque
        before = pair.path + b"/" if pair.path else b""
        base = self._base(there)
        lstat, listxattr, untouched = os.lstat, os.listxattr, self._comparer.untouched
        items: list[Pair | Difference] = []
        for each in mine:
            name, st, marks = each
            kind = st.st_mode & _KIND
            hidden = kind == _DEVICE and not st.st_rdev
            try:
                old = lstat(base + name)
                old_kind = old.st_mode & _KIND
                if not _is_plain(kind, old_kind, hidden=hidden, opaque=opaque) or (
                    old_kind != _LINK and listxattr(base + name, follow_symlinks=False)
                ):
                    left.add(name)
                    continue
            except FileNotFoundError:
                if not hidden:
                    items += _new(before + name, each)
                continue
            except OSError:
                left.add(name)
                continue
            if kind == _FILE and untouched(st, marks, old):
                continue
            place = Place(1, before + name)
            was = Node(old, _PLAIN, (place,), place if old_kind == _FILE else None)
            if hidden:
                items.append(deleted(before + name, was, (1, length(was))))
            else:
                items += self._same_type(before + name, each, was)
        if opaque:
            seen = {each.name for each in mine}
            left.update(name for name in os.listdir(base or b".") if name not in seen)
        return items

    def _same_type(self, path: bytes, mine: _Mine, was: Node) -> list[Pair | Difference]:
        _, st, marks = mine
        place = Place(0, path)
        items: list[Pair | Difference] = []
        if was.is_dir:
            now = Node(st, marks, (place, was.places[0]))
            items.append(Pair(path, now, path, was))
        else:
            now = Node(st, marks, (place,), was.data and place)
        what = self._comparer.compare_plain(now, was)
        if what:
            items.append(changed(path, now, was, what))
        return items


def _is_plain(kind: int, old_kind: int, *, hidden: bool, opaque: bool) -> bool:
    """Whether an entry of the top and what is in its place below are compared as they are."""
    if hidden:
        return old_kind in (_FILE, _LINK)
    if opaque and kind == _DIRECTORY:
        return False  # another directory, or a fallthru
    return old_kind == kind != _DEVICE


def _only_new(mine: list[_Mine], path: bytes) -> list[Pair | Difference]:
    before = path + b"/" if path else b""
    items: list[Pair | Difference] = []
    for each in mine:
        if each.st.st_rdev or each.st.st_mode & _KIND != _DEVICE:
            items += _new(before + each.name, each)
    return items


def _new(path: bytes, mine: _Mine) -> list[Pair | Difference]:
    _, st, marks = mine
    kind = st.st_mode & _KIND
    place = Place(0, path)
    now = Node(st, marks, (place,), place if kind == _FILE else None)
    found = new(path, now)
    return [found, Pair(path, now, path, None)] if kind == _DIRECTORY else [found]
