"""A top written as an OCI layer by all processors: each encodes parts, one puts them in order.

What has no marks is read with two calls, or five for a small file with its content.  Large
files, and those with several names, are left to the process that writes: only there is it
known which name came first.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter
from typing import Final, NamedTuple, cast

from overlay.archives.item import WHITEOUT_PREFIX, Item, check_name, of_stat
from overlay.archives.source import Child, TopSource
from overlay.archives.tarwrite import (
    END,
    became_shorter,
    headers,
    opaque_mark,
    padding,
    plain_headers,
    whiteout,
    write_content,
)
from overlay.differences.plainentries import PlainEntries, PlainEntry
from overlay.helpers import cores
from overlay.layer import VANISHED
from overlay.marks import is_whiteout_device
from overlay.orderedpool import Budget, Result, Task, ordered
from overlay.view import Node, Place, View

__all__ = ["write_top"]

#: Files up to this size are read by whoever finds them.
_SMALL: Final = 64 << 10
#: So many bytes count as one more entry, so that no part takes much memory.
_COUNTED: Final = 1 << 10
#: A directory with more entries is told in several parts.
_SPLIT: Final = 4_000


def write_top(
    view: View, write: Callable[[bytes], object], tell: Callable[[int], None] | None = None
) -> tuple[int, int]:
    """Write what the uppermost layer of ``view`` says as a tar.

    Returns how many entries it has, and how many were sockets, which it cannot hold.
    ``tell`` is told how many more entries there are, a part at a time.
    """
    source = TopSource(view)
    parts = _Parts(view, source)
    linked: dict[tuple[int, int], bytes] = {}
    entries = sockets = 0
    for found in ordered(parts, parts.root, cores()):
        if isinstance(found, bytes):
            write(found)
        elif isinstance(found, _Later):
            _write_later(source, found, linked, write)
        else:
            entries, sockets = entries + found.entries, sockets + found.sockets
            if tell is not None:
                tell(found.entries)
    write(END)
    return entries, sockets


def _write_later(
    source: TopSource,
    later: _Later,
    linked: dict[tuple[int, int], bytes],
    write: Callable[[bytes], object],
) -> None:
    item = later.item
    if later.inode is not None:
        first = linked.setdefault(later.inode, item.path)
        item.link = None if first == item.path else first
    write(headers(item))
    if item.link is None and item.size:
        assert later.data is not None
        item.content = source.content(later.data)
        write_content(item, write)


class _Spot(NamedTuple):
    """A directory to be told.

    ``node`` is None where it goes by its own name in all layers; it is looked up then if it
    has to be.  ``whole`` and ``opaque`` are :meth:`TopSource.directory`'s.  ``names`` are
    those to be told, None for all.
    """

    path: bytes
    node: Node | None = None
    whole: bool = False
    opaque: bool = False
    names: list[bytes] | None = None


class _Later(NamedTuple):
    """What the writing process has to finish; ``inode`` of a file with several names."""

    item: Item
    inode: tuple[int, int] | None
    data: Place | None


class _Tally(NamedTuple):
    entries: int
    sockets: int


_Piece = bytes | _Later | _Spot


class _Parts:
    """A top by parts, for a pool."""

    def __init__(self, view: View, source: TopSource) -> None:
        self._view = view
        self._source = source
        self._entries = PlainEntries(view.family)
        self._told = self._sockets = 0
        self._budget = Budget(0)
        self.root = _Spot(b"")

    def own_process(self) -> None:
        self._entries.in_place = True

    def walk(self, what: _Spot, budget: Budget) -> list[Result | Task]:
        self._told = self._sockets = 0
        self._budget = budget
        parts: list[Result | Task] = []
        encoded: list[bytes] = []

        def close() -> None:
            if encoded:
                parts.append(Result(b"".join(encoded)))
                encoded.clear()

        pending: list[_Piece] = [what]
        while pending:
            piece = pending.pop()
            if isinstance(piece, bytes):
                encoded.append(piece)
            elif isinstance(piece, _Spot) and budget.left > 0:
                # An empty directory is work, too.
                budget.left -= 1
                pending.extend(reversed(self._directory(piece)))
            else:
                close()
                parts.append(Task(piece) if isinstance(piece, _Spot) else Result(piece))
        close()
        parts.append(Result(_Tally(self._told, self._sockets)))
        return parts

    def _directory(self, spot: _Spot) -> list[_Piece]:
        if spot.whole:
            assert spot.node is not None
            children = self._source.directory(spot.path, spot.node, whole=True)
            return [piece for child in children for piece in self._general(child)]
        try:
            fd = self._view.layers[0].open_sibling(spot.path)
        except OSError as error:
            if error.errno in VANISHED:
                return []
            raise
        try:
            base = self._entries.enter(fd)
            names = spot.names or sorted(os.listdir(base or b"."))
            if len(names) > _SPLIT:
                return [
                    spot._replace(names=names[start : start + _SPLIT])
                    for start in range(0, len(names), _SPLIT)
                ]
            left: set[bytes] = set()
            plain = self._entries.read(base, names, left)
            told = [(each[0], self._plain(spot, base, each)) for each in plain]
        finally:
            os.close(fd)
        if left:
            told += [
                (child.item.path.rpartition(b"/")[2], self._general(child))
                for child in self._left(spot, left)
            ]
            told.sort(key=itemgetter(0))
        return _joined([piece for _, pieces in told for piece in pieces])

    def _left(self, spot: _Spot, names: set[bytes]) -> list[Child]:
        """What is not plain in a directory."""
        node = spot.node or self._view.find(self._view.root(), spot.path)
        if node is None or not node.is_dir:
            return []  # it vanished
        return self._source.directory(spot.path, node, opaque=spot.opaque, names=names)

    def _count(self, entries: int = 1) -> None:
        self._told += entries
        self._budget.left -= entries

    def _plain(self, spot: _Spot, base: bytes, each: PlainEntry) -> list[_Piece]:
        name, st, marks = each
        path = spot.path + b"/" + name if spot.path else name
        if is_whiteout_device(st):
            if spot.opaque:
                return []
            self._count()
            return [whiteout(path)]
        kind = stat.S_IFMT(st.st_mode)
        if kind == stat.S_IFSOCK:
            self._sockets += 1
            return []
        self._count()
        if name.startswith(WHITEOUT_PREFIX):
            check_name(path)
        if kind == stat.S_IFDIR:
            return self._nested(plain_headers(path, st), _Spot(path, opaque=marks.opaque))
        target = os.readlink(base + name) if kind == stat.S_IFLNK else b""
        size = st.st_size if kind == stat.S_IFREG else 0
        if st.st_nlink > 1 or size > _SMALL:
            item = of_stat(path, st)
            item.target = target
            inode = (st.st_dev, st.st_ino) if st.st_nlink > 1 else None
            return [_Later(item, inode, Place(0, path))]
        if not size:
            return [plain_headers(path, st, target)]
        self._budget.left -= size // _COUNTED
        return [plain_headers(path, st), _content(base + name, path, size), padding(size)]

    def _general(self, child: Child) -> list[_Piece]:
        item, node, whole = child
        if node is None:
            self._count()
            return [whiteout(item.path)]
        if stat.S_ISSOCK(item.mode):
            self._sockets += 1
            return []
        self._count()
        check_name(item.path)
        if not node.is_dir:
            inode = (node.st.st_dev, node.st.st_ino) if node.st.st_nlink > 1 else None
            # How to open it cannot be sent.
            return [_Later(replace(item, content=None), inode, node.data)]
        return self._nested(headers(item), _Spot(item.path, node, whole, item.opaque))

    def _nested(self, header: bytes, spot: _Spot) -> list[_Piece]:
        if not spot.opaque:
            return [header, spot]
        self._count()
        return [header, opaque_mark(spot.path), spot]


def _joined(pieces: list[_Piece]) -> list[_Piece]:
    """Pieces, with bytes that follow each other as one."""
    if all(isinstance(piece, bytes) for piece in pieces):
        return [b"".join(cast("list[bytes]", pieces))]
    return pieces


def _content(name: bytes, path: bytes, size: int) -> bytes:
    """The content of the small file ``path`` of the layer, reached by ``name``."""
    # Whatever it has become meanwhile, a fifo must not make us wait.
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        data = b""
        while len(data) < size:
            more = os.read(fd, size - len(data))
            if not more:
                raise became_shorter(path)
            data += more
        return data
    finally:
        os.close(fd)
