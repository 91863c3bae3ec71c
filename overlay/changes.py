"""What a top changes in the union: the difference to the bottoms alone.

Both sides are what the union would show (:mod:`overlay.view`), so a whiteout is a
deletion, a fallthru is no change, and a file that was copied up and not altered is
none either.  Nothing is written, and the top may be mounted meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from overlay.comparing import Aspect, Comparer, FileType, file_type, length
from overlay.layer import Layer
from overlay.marks import MarkFamily, is_fallthru
from overlay.view import Node, OpenDirectory, View

__all__ = ["Aspect", "Change", "Difference", "FileType", "Kind", "diff", "differences"]


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
    listed one by one.
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
) -> Iterator[Change]:
    """The changes of ``top`` against the union of ``bottoms``, in byte order of the paths.

    A file that was copied up counts as equal if size and modification time are, unless
    ``checksum``: copyup keeps both.  The times of a directory are not compared: whatever
    happens in it changes them.  The root itself is not compared.  Raises HostileMark, and
    OSError with a file name for what can't be read.
    """
    view = View([top, *bottoms], family, data_bottoms)
    return (each.change for each in differences(view, checksum=checksum))


def differences(view: View, *, checksum: bool = False) -> Iterator[Difference]:
    """:func:`diff` of the uppermost layer of a view, with what is behind each change."""
    return _Diff(view, checksum).run()


class _Diff:
    def __init__(self, view: View, checksum: bool) -> None:
        self.view = view
        self.comparer = Comparer(view, checksum=checksum)
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
        before = pair.path + b"/" if pair.path else b""
        before_old = pair.origin + b"/" if pair.origin else b""
        with self.view.open(now) as here, self.view.open(was) as there:
            if was is not None and now.places[0].layer == 0 and now.places[1:] == was.places:
                # Merged: only what the top holds can differ.
                names = set(here.names_in(now.places[0]))
            else:
                names = here.names() | there.names()
            for name in names:
                yield from self.entry(before + name, before_old + name, (name, here, there))

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
