"""The plain part of a directory's differences, with as few calls as the answer needs.

For what is plain on the top (:mod:`overlay.differences.plainentries`) an lstat and one listxattr
on the bottom say the rest.  Where anything has a mark the general lookup in :mod:`overlay.view`
is asked.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Final, NamedTuple

from overlay.differences.comparing import Comparer, length
from overlay.differences.difference import Difference, Pair, changed, deleted, plainly_new
from overlay.differences.plainentries import PLAIN, PlainEntries, PlainEntry
from overlay.layer import VANISHED
from overlay.marks import Marks, is_whiteout_device
from overlay.view import Node, Place, View

__all__ = ["Found", "Quick"]

_KIND: Final = 0o170000
_LINK: Final = stat.S_IFLNK
_DIRECTORY: Final = stat.S_IFDIR
_FILE: Final = stat.S_IFREG
_DEVICE: Final = stat.S_IFCHR
#: What needs a mark to be a fallthru.
_MARKED: Final = (_FILE, _DIRECTORY)
#: So many opaque directories are read ahead of their turn.
_AHEAD: Final = 64


class Found(NamedTuple):
    """What is plain in a directory, in the order of the names, and the names that are not.

    ``opaque`` are directories that hide one of the bottom: whether with the same things in
    them, or others, is not looked at.  ``nested`` says that there are other directories.
    """

    items: list[Pair | Difference]
    left: set[bytes]
    opaque: list[Pair]
    nested: bool


class _Inside(NamedTuple):
    """What the top has in a directory: what is plain, and the names of what is not."""

    plain: list[PlainEntry]
    left: set[bytes]


class Quick:
    """Looks at directories of a top over one bottom."""

    def __init__(self, view: View, comparer: Comparer) -> None:
        self._view = view
        self._comparer = comparer
        self._ahead: dict[bytes, _Inside] = {}
        self.entries = PlainEntries(view.family)

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
        try:
            inside = self._ahead.pop(pair.path, None) if self._ahead else None
            mine, left = inside or self._inside(pair.path)
            if pair.was is None:
                return _only_new(mine, left, pair.path)
            there = self._open(1, pair.path)
            try:
                return self._both(mine, left, there, pair)
            finally:
                os.close(there)
        except OSError as error:
            if error.errno in VANISHED:
                return Found([], set(), [], False)
            raise

    def replaces(self, pair: Pair) -> bool | None:
        """Whether an opaque directory without a redirect is another one than the bottom's.

        That is so if the bottom's has anything, and nothing in this one falls through to it.
        None where the general lookup has to tell.
        """
        try:
            inside = self._inside(pair.path)
            there = self._open(1, pair.path)
            try:
                base = self.entries.enter(there)
                below = os.listdir(base or b".")
                if not _suspects(inside.plain, inside.left).isdisjoint(below):
                    return None
                shown = bool(below) and self._is_shown(base, below[0])
            finally:
                os.close(there)
        except OSError as error:
            if error.errno in VANISHED:
                return None
            raise
        if self.entries.in_place:
            # Its turn comes soon, and nobody writes meanwhile.
            if len(self._ahead) >= _AHEAD:
                self._ahead.clear()
            self._ahead[pair.path] = inside
        return shown if shown or not below else None

    def _is_shown(self, base: bytes, name: bytes) -> bool:
        plain = self.entries.read(base, [name], set())
        return any(st.st_mode & _KIND != _DEVICE for _, st, _ in plain)

    def _open(self, number: int, path: bytes) -> int:
        layer = self._view.layers[number]
        # A worker only reads; who commits changes directories between two looks.
        return layer.open_sibling(path) if self.entries.in_place else layer.open_dir(path)

    def _inside(self, path: bytes) -> _Inside:
        left: set[bytes] = set()
        fd = self._open(0, path)
        try:
            base = self.entries.enter(fd)
            return _Inside(self.entries.read(base, sorted(os.listdir(base or b".")), left), left)
        finally:
            os.close(fd)

    def suspects(self, path: bytes, names: Iterable[bytes]) -> set[bytes]:
        """Those of ``names`` in an opaque directory of the top that can be fallthrus."""
        left: set[bytes] = set()
        with self._view.layers[0].directory(path) as fd:
            plain = self.entries.read(self.entries.enter(fd), names, left)
        return _suspects(plain, left)

    def _both(self, mine: list[PlainEntry], left: set[bytes], there: int, pair: Pair) -> Found:
        """What became of what is, or was, at the same place ``there`` on the bottom."""
        opaque = pair.now.marks.opaque
        before = pair.path + b"/" if pair.path else b""
        base = self.entries.enter(there)
        lstat, listxattr, untouched = os.lstat, os.listxattr, self._comparer.untouched
        items: list[Pair | Difference] = []
        others: list[Pair] = []
        nested = False
        for name, st, marks in mine:
            kind = st.st_mode & _KIND
            hidden = kind == _DEVICE and not st.st_rdev
            nested = nested or kind == _DIRECTORY
            try:
                old = lstat(base + name)
                old_kind = old.st_mode & _KIND
                if hidden:
                    plain = old_kind in (_FILE, _LINK)
                else:
                    # In an opaque directory there are other directories, and fallthrus.
                    plain = old_kind == kind != _DEVICE and not (opaque and kind == _DIRECTORY)
                if not plain or (
                    old_kind != _LINK and listxattr(base + name, follow_symlinks=False)
                ):
                    left.add(name)
                    continue
            except FileNotFoundError:
                if not hidden:
                    _add_new(items, before + name, st, marks)
                continue
            except OSError:
                left.add(name)
                continue
            if kind == _FILE and untouched(st, marks, old):
                continue
            path = before + name
            place = Place(1, path)
            was = Node(old, PLAIN, (place,), place if old_kind == _FILE else None)
            if hidden:
                items.append(deleted(path, was, (1, length(was))))
            elif marks.opaque:
                others.append(Pair(path, Node(st, marks, (Place(0, path),)), path, was))
            else:
                self._add_same_type(items, path, st, marks, was)
        if opaque:
            seen = {name for name, _, _ in mine}
            left.update(name for name in os.listdir(base or b".") if name not in seen)
        return Found(items, left, others, nested)

    def _add_same_type(
        self,
        items: list[Pair | Difference],
        path: bytes,
        st: os.stat_result,
        marks: Marks,
        was: Node,
    ) -> None:
        place = Place(0, path)
        if was.is_dir:
            now = Node(st, marks, (place, was.places[0]))
            items.append(Pair(path, now, path, was))
        else:
            now = Node(st, marks, (place,), was.data and place)
        what = self._comparer.compare_plain(now, was)
        if what:
            items.append(changed(path, now, was, what))


def _suspects(plain: list[PlainEntry], left: set[bytes]) -> set[bytes]:
    """What can be a fallthru: what is not plain, and what has no data, which needs no mark."""
    return left.union(name for name, st, _ in plain if st.st_mode & _KIND not in _MARKED)


def _only_new(mine: list[PlainEntry], left: set[bytes], path: bytes) -> Found:
    before = path + b"/" if path else b""
    items: list[Pair | Difference] = []
    nested = False
    for name, st, marks in mine:
        if not is_whiteout_device(st):
            _add_new(items, before + name, st, marks)
            nested = nested or stat.S_ISDIR(st.st_mode)
    return Found(items, left, [], nested)


def _add_new(items: list[Pair | Difference], path: bytes, st: os.stat_result, marks: Marks) -> None:
    found = plainly_new(path, st, marks)
    items.append(found)
    if st.st_mode & _KIND == _DIRECTORY:
        assert found.now is not None
        items.append(Pair(path, found.now, path, None))
