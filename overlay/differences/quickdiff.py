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
from overlay.differences.difference import Difference, Pair, changed, deleted, new
from overlay.differences.plainentries import PLAIN, PlainEntries, PlainEntry
from overlay.layer import VANISHED
from overlay.view import Node, Place, View

__all__ = ["Found", "Quick"]

_KIND: Final = 0o170000
_LINK: Final = stat.S_IFLNK
_DIRECTORY: Final = stat.S_IFDIR
_FILE: Final = stat.S_IFREG
_DEVICE: Final = stat.S_IFCHR
#: What needs a mark to be a fallthru.
_MARKED: Final = (_FILE, _DIRECTORY)


class Found(NamedTuple):
    """What is plain in a directory, and the names that were not, in any order.

    ``opaque`` are directories that hide one of the bottom: whether with the same things in
    them, or others, is not looked at.
    """

    items: list[Pair | Difference]
    left: set[bytes]
    opaque: list[Pair]


class Quick:
    """Looks at directories of a top over one bottom."""

    def __init__(self, view: View, comparer: Comparer) -> None:
        self._view = view
        self._comparer = comparer
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
        left: set[bytes] = set()
        try:
            here = self._open(0, pair.path)
            try:
                base = self.entries.enter(here)
                mine = self.entries.read(base, os.listdir(base or b"."), left)
            finally:
                os.close(here)
            if pair.was is None:
                return Found(_only_new(mine, pair.path), left, [])
            there = self._open(1, pair.path)
            try:
                return self._both(mine, left, there, pair)
            finally:
                os.close(there)
        except OSError as error:
            if error.errno in VANISHED:
                return Found([], set(), [])
            raise

    def _open(self, number: int, path: bytes) -> int:
        layer = self._view.layers[number]
        # A worker only reads; who commits changes directories between two looks.
        return layer.open_sibling(path) if self.entries.in_place else layer.open_dir(path)

    def suspects(self, path: bytes, names: Iterable[bytes]) -> set[bytes]:
        """Those of ``names`` in an opaque directory of the top that can be fallthrus."""
        found: set[bytes] = set()
        with self._view.layers[0].directory(path) as fd:
            plain = self.entries.read(self.entries.enter(fd), names, found)
        # What has no data falls through without a mark.
        found.update(each.name for each in plain if each.st.st_mode & _KIND not in _MARKED)
        return found

    def _both(self, mine: list[PlainEntry], left: set[bytes], there: int, pair: Pair) -> Found:
        """What became of what is, or was, at the same place ``there`` on the bottom."""
        opaque = pair.now.marks.opaque
        before = pair.path + b"/" if pair.path else b""
        base = self.entries.enter(there)
        lstat, listxattr, untouched = os.lstat, os.listxattr, self._comparer.untouched
        items: list[Pair | Difference] = []
        others: list[Pair] = []
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
            was = Node(old, PLAIN, (place,), place if old_kind == _FILE else None)
            if hidden:
                items.append(deleted(before + name, was, (1, length(was))))
            elif marks.opaque:
                path = before + name
                others.append(Pair(path, Node(st, marks, (Place(0, path),)), path, was))
            else:
                items += self._same_type(before + name, each, was)
        if opaque:
            seen = {each.name for each in mine}
            left.update(name for name in os.listdir(base or b".") if name not in seen)
        return Found(items, left, others)

    def _same_type(self, path: bytes, mine: PlainEntry, was: Node) -> list[Pair | Difference]:
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


def _only_new(mine: list[PlainEntry], path: bytes) -> list[Pair | Difference]:
    before = path + b"/" if path else b""
    items: list[Pair | Difference] = []
    for each in mine:
        if not each.is_whiteout:
            items += _new(before + each.name, each)
    return items


def _new(path: bytes, mine: PlainEntry) -> list[Pair | Difference]:
    _, st, marks = mine
    kind = st.st_mode & _KIND
    place = Place(0, path)
    now = Node(st, marks, (place,), place if kind == _FILE else None)
    found = new(path, now)
    return [found, Pair(path, now, path, None)] if kind == _DIRECTORY else [found]
