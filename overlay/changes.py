"""What a top changes in the union: the difference to the bottoms alone.

Both sides are what the union would show (:mod:`overlay.view`), so a whiteout is a
deletion, a fallthru is no change, and a file that was copied up and not altered is
none either.  Nothing is written, and the top may be mounted meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from overlay.comparing import Aspect, Comparer, FileType, file_type, length
from overlay.layer import VANISHED, Layer
from overlay.marks import MarkFamily, is_fallthru
from overlay.orderedpool import Result, Task, ordered
from overlay.quickdiff import Found, Quick
from overlay.view import Node, OpenDirectory, View

__all__ = ["Aspect", "Change", "Difference", "FileType", "Kind", "chosen", "diff", "differences"]


Answer = TypeVar("Answer")


class Kind(StrEnum):
    """What became of a path."""

    ADDED = "added"
    CHANGED = "changed"
    DELETED = "deleted"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference, at ``path`` (from the root, no leading slash).

    ``size`` and ``old_size`` are bytes of content, 0 for what has none.  ``what`` is
    empty unless both sides are of one type.  ``metadata_only`` says that the top holds
    no data for the file: it still reads from the bottom.  ``moved_from`` is where a
    renamed directory (or a file renamed without its data) was; the changes below such a
    directory are those against the old place.  ``gone`` and ``gone_bytes`` count what
    went with a deleted or replaced directory, itself included: those entries are not
    listed one by one.  ``links`` is how many names a file has on its layer now.
    """

    path: bytes
    kind: Kind
    ftype: FileType | None = None
    size: int = 0
    old_ftype: FileType | None = None
    old_size: int = 0
    what: frozenset[Aspect] = frozenset()
    metadata_only: bool = False
    moved_from: bytes | None = None
    gone: int = 0
    gone_bytes: int = 0
    links: int = 1


@dataclass(frozen=True, slots=True)
class Difference:
    """A change, with what the union shows at its path, and what the bottoms alone show.

    ``was`` is None for what is new, ``now`` for what was deleted.
    """

    change: Change
    now: Node | None
    was: Node | None

    @property
    def path(self) -> bytes:
        return self.change.path


@dataclass(frozen=True, slots=True)
class _Pair:
    """A directory to compare: what is shown at ``path``, and what was shown at ``origin``."""

    path: bytes
    now: Node
    origin: bytes
    was: Node | None


def diff(
    top: Layer,
    bottoms: Sequence[Layer],
    family: MarkFamily,
    *,
    data_bottoms: Sequence[Layer] = (),
    checksum: bool = False,
    workers: int | None = None,
) -> Iterator[Change]:
    """The changes of ``top`` against the union of ``bottoms``, in byte order of the paths.

    A file that was copied up counts as equal if size and modification time are, unless
    ``checksum``: copyup keeps both.  The times of a directory are not compared: whatever
    happens in it changes them.  The root itself is not compared.  Of large tops, ``workers``
    processes look at parts (default: one a processor).  Raises HostileMark, and OSError with
    a file name for what can't be read.
    """
    view = View([top, *bottoms], family, data_bottoms)

    def plain(found: list[Difference]) -> list[Change]:
        return [each.change for each in found]

    for changes in chosen(view, plain, checksum=checksum, workers=workers):
        yield from changes


def differences(view: View, *, checksum: bool = False) -> Iterator[Difference]:
    """:func:`diff` of the uppermost layer of a view, with what is behind each change.

    By this process alone: the layers may be changed while this is read.
    """
    return _Diff(view, checksum).run()


def chosen(
    view: View,
    choose: Callable[[list[Difference]], Answer],
    *,
    checksum: bool = False,
    workers: int | None = None,
) -> Iterator[Answer]:
    """What ``choose`` makes of the differences, some hundreds at a time, in their order.

    It is called by the process that found them, so that what is not needed is not sent.
    """
    walker = _Parts(_Diff(view, checksum), choose)
    count = len(os.sched_getaffinity(0)) if workers is None else workers
    return ordered(walker, walker.root, count)


class _Parts:
    """A diff by parts, for a pool."""

    def __init__(self, diff: _Diff, choose: Callable[[list[Difference]], Any]) -> None:
        self._diff = diff
        self._choose = choose
        self.root = _Pair(b"", diff.now_root, b"", diff.was_root)

    def own_process(self) -> None:
        if self._diff.quick is not None:
            self._diff.quick.in_place = True

    def walk(self, what: _Pair, budget: int) -> list[Result | Task]:
        parts: list[Result | Task] = []
        found: list[Difference] = []
        pending: list[_Pair | Difference] = [what]
        while pending:
            item = pending.pop()
            if isinstance(item, Difference):
                found.append(item)
            elif budget > 0:
                inner = sorted(self._diff.directory(item), key=_order, reverse=True)
                # An empty directory is work, too.
                budget -= 1 + len(inner)
                pending.extend(inner)
            else:
                self._close(found, parts)
                parts.append(Task(item))
        self._close(found, parts)
        return parts

    def _close(self, found: list[Difference], parts: list[Result | Task]) -> None:
        if found:
            parts.append(Result(self._choose(found)))
            found.clear()


class _Diff:
    def __init__(self, view: View, checksum: bool) -> None:
        self.view = view
        self.comparer = Comparer(view, checksum=checksum)
        # With more layers, or the index of hard links, a name may lead to more places.
        simple = type(view) is View and len(view.layers) == 2
        self.quick = Quick(view.family) if simple else None
        self.now_root = view.root(0)
        self.was_root = view.root(1)

    def run(self) -> Iterator[Difference]:
        pending: list[_Pair | Difference] = [_Pair(b"", self.now_root, b"", self.was_root)]
        while pending:
            item = pending.pop()
            if isinstance(item, Difference):
                yield item
            else:
                # What is in a directory sorts as if the name ended in a slash.
                found = sorted(self.directory(item), key=_order, reverse=True)
                pending.extend(found)

    def directory(self, pair: _Pair) -> Iterator[_Pair | Difference]:
        now, was = pair.now, pair.was
        if was is not None and now.places == was.places:
            return
        names: set[bytes] | None = None
        if self.is_plain(pair):
            names = set()
            yield from self.plain(pair, names)
            if not names:
                return
        before = pair.path + b"/" if pair.path else b""
        before_old = pair.origin + b"/" if pair.origin else b""
        with self.view.open(now) as here, self.view.open(was) as there:
            if names is not None:
                pass  # what the quick look has left
            elif was is not None and now.places[0].layer == 0 and now.places[1:] == was.places:
                # Merged: only what the top holds can differ.
                names = set(here.names_in(now.places[0]))
            else:
                names = here.names() | there.names()
            for name in names:
                yield from self.entry(before + name, before_old + name, (name, here, there))

    def is_plain(self, pair: _Pair) -> bool:
        """Whether only the top and one bottom matter, each under its own path."""
        if self.quick is None or pair.now.places[0].layer != 0:
            return False
        if pair.was is None:
            return len(pair.now.places) == 1
        if len(pair.was.places) != 1 or pair.was.places[0].path != pair.path:
            return False
        return pair.now.marks.opaque or pair.now.places[1:] == pair.was.places

    def look(self, pair: _Pair) -> Found:
        """What the quick look finds in a directory; nothing if it was removed meanwhile."""
        assert self.quick is not None
        below = None if pair.was is None else pair.was.places[0].path
        with ExitStack() as stack:
            try:
                here = self.view.layers[0].open_dir(pair.path)
                stack.callback(os.close, here)
                there = None
                if below is not None:
                    there = self.view.layers[1].open_dir(below)
                    stack.callback(os.close, there)
                opaque = pair.now.marks.opaque
                return self.quick.look(here, there, pair.path, below, opaque=opaque)
            except OSError as error:
                if error.errno in VANISHED:
                    return Found([], [])
                raise

    def plain(self, pair: _Pair, left: set[bytes]) -> Iterator[_Pair | Difference]:
        """What is plain in a directory; ``left`` gets the names that were not."""
        found = self.look(pair)
        left.update(found.left)
        for inner, now, was in found.entries:
            if now is None:
                assert was is not None
                yield self.gone(inner, was)
                continue
            if was is None:
                yield self.new(inner, now, None, None)
            else:
                what = self.comparer.compare_plain(now, was)
                if what:
                    yield self.change(inner, Kind.CHANGED, now, was, what)
            if now.is_dir:
                yield _Pair(inner, now, inner if was is None else was.places[0].path, was)

    def entry(
        self, path: bytes, old_path: bytes, sides: tuple[bytes, OpenDirectory, OpenDirectory]
    ) -> Iterator[_Pair | Difference]:
        """One name of two open directories; what is found of it, in any order."""
        name, here, there = sides
        now, was = here.lookup(name), there.lookup(name)
        if now is None:
            if was is not None:
                yield self.gone(path, was)
            return
        moved_from, source = self.moved(now, old_path, was)
        if was is None or file_type(now) != file_type(was):
            yield self.new(path, now, was, moved_from)
            if now.is_dir:
                yield _Pair(path, now, moved_from or path, source)
        elif not now.is_dir:
            what = self.comparer.compare(now, was, here, there)
            if what:
                yield self.change(path, Kind.CHANGED, now, was, what)
        elif moved_from is not None:
            yield self.new(path, now, was, moved_from)
            yield _Pair(path, now, moved_from, source)
        elif now.places != was.places:
            kind = Kind.REPLACED if self.replaces(now, was) else Kind.CHANGED
            what = self.comparer.compare(now, was, here, there)
            if what or kind is Kind.REPLACED:
                yield self.change(path, kind, now, was, what)
            yield _Pair(path, now, old_path, was)

    def gone(self, path: bytes, was: Node) -> Difference:
        gone, gone_bytes = self.comparer.totals(was)
        change = Change(
            path,
            Kind.DELETED,
            old_ftype=file_type(was),
            old_size=length(was),
            gone=gone,
            gone_bytes=gone_bytes,
        )
        return Difference(change, None, was)

    def new(self, path: bytes, now: Node, was: Node | None, moved_from: bytes | None) -> Difference:
        gone, gone_bytes = (0, 0) if was is None else self.comparer.totals(was)
        change = Change(
            path,
            Kind.ADDED if was is None else Kind.REPLACED,
            ftype=file_type(now),
            size=length(now),
            old_ftype=None if was is None else file_type(was),
            old_size=0 if was is None else length(was),
            metadata_only=now.marks.metacopy is not None,
            moved_from=moved_from,
            gone=gone,
            gone_bytes=gone_bytes,
            links=_links(now),
        )
        return Difference(change, now, was)

    @staticmethod
    def change(path: bytes, kind: Kind, now: Node, was: Node, what: set[Aspect]) -> Difference:
        change = Change(
            path,
            kind,
            ftype=file_type(now),
            size=length(now),
            old_ftype=file_type(was),
            old_size=length(was),
            what=frozenset(what),
            metadata_only=now.marks.metacopy is not None,
            links=_links(now),
        )
        return Difference(change, now, was)

    def moved(
        self, now: Node, old_path: bytes, was: Node | None
    ) -> tuple[bytes | None, Node | None]:
        """Where a redirect says that something was, if it is true, and what was there."""
        redirect = now.marks.redirect
        if redirect is None or now.places[0].layer != 0:
            return None, None
        if now.is_dir and (was is None or now.places[1:] != was.places):
            below = now.places[1:]
        elif now.data is not None and (was is None or now.data != was.data):
            below = (now.data,)
        else:
            return None, None  # it reads from its own name: a fallthru
        parent = old_path.rpartition(b"/")[0]
        path = redirect[1:] if redirect.startswith(b"/") else os.path.join(parent, redirect)
        source = self.view.find(self.was_root, path)
        if source is None or not below:
            return None, None
        same = source.places == below if now.is_dir else (source.data,) == below
        return (path, source) if same else (None, None)

    def replaces(self, now: Node, was: Node) -> bool:
        """Whether a directory is another one that took the old one's place.

        It is opaque then, as after a directory copyup; but nothing in it falls through.
        """
        if not now.marks.opaque:
            return False
        redirect = now.marks.redirect
        if redirect is not None and redirect.startswith(b"/"):
            # Overlayfs passes over a redirect here: directory copyup left it to say of what.
            source = self.view.find(self.was_root, redirect[1:])
            if source is not None and source.places == was.places:
                return False
        with self.view.open(was) as there, self.view.open(now) as here:
            old_names = there.names()
            for name in here.names() & old_names:
                child, old = here.lookup(name), there.lookup(name)
                if child is not None and old is not None:
                    same = is_fallthru(child.marks, child.st, parent_opaque=True, bottom=old.st)
                    if same:
                        return False
            return any(there.lookup(name) is not None for name in old_names)


def _order(item: _Pair | Difference) -> bytes:
    return item.path + b"/" if isinstance(item, _Pair) else item.path


def _links(node: Node) -> int:
    return 1 if node.is_dir else node.st.st_nlink
