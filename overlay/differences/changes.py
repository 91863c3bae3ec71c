"""What a top changes in the union: the difference to the bottoms alone.

Both sides are what the union would show (:mod:`overlay.view`), so a whiteout is a
deletion, a fallthru is no change, and a file that was copied up and not altered is
none either.  Nothing is written, and the top may be mounted meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar, cast

from overlay.differences.comparing import Aspect, Comparer, FileType, file_type
from overlay.differences.difference import Change, Difference, Kind, Pair, changed, deleted, new
from overlay.differences.quickdiff import Quick
from overlay.helpers import cores
from overlay.layer import Layer
from overlay.marks import MarkFamily, is_fallthru
from overlay.orderedpool import Budget, Result, Task, ordered
from overlay.view import Node, OpenDirectory, View

__all__ = ["Aspect", "Change", "Difference", "FileType", "Kind", "chosen", "diff", "differences"]


Answer = TypeVar("Answer")

#: So many differences are handed on at once: few, so that they are still in the processor's
#: caches when they are looked at, and when their memory is taken again.
_SOME: Final = 500


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
) -> Generator[Answer]:
    """What ``choose`` makes of the differences, some hundreds at a time, in their order.

    It is called by the process that found them, so that what is not needed is not sent.
    """
    walker = _Parts(_Diff(view, checksum), choose)
    count = cores() if workers is None else workers
    return ordered(walker, walker.root, count)


class _Parts:
    """A diff by parts, for a pool."""

    def __init__(self, diff: _Diff, choose: Callable[[list[Difference]], Any]) -> None:
        self._diff = diff
        self._choose = choose
        self.root = Pair(b"", diff.now_root, b"", diff.was_root)

    def own_process(self) -> None:
        if self._diff.quick is not None:
            self._diff.quick.entries.in_place = True

    def walk(self, what: Pair, budget: Budget) -> list[Result | Task]:
        parts: list[Result | Task] = []
        found: list[Difference] = []
        pending: list[Pair | Difference] = [what]
        while pending:
            item = pending.pop()
            if isinstance(item, Difference):
                found.append(item)
            elif budget.left > 0:
                inner, nested = self._diff.directory(item)
                # An empty directory is work, too.
                budget.left -= 1 + len(inner)
                if nested:
                    pending.extend(reversed(inner))
                else:
                    found += cast("list[Difference]", inner)
                    if len(found) >= _SOME:
                        self._close(found, parts)
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
        self.quick = Quick(view, self.comparer) if simple else None
        self.now_root = view.root(0)
        self.was_root = view.root(1)

    def run(self) -> Iterator[Difference]:
        pending: list[Pair | Difference] = [Pair(b"", self.now_root, b"", self.was_root)]
        while pending:
            item = pending.pop()
            if isinstance(item, Difference):
                yield item
            else:
                pending.extend(reversed(self.directory(item)[0]))

    def directory(self, pair: Pair) -> tuple[list[Pair | Difference], bool]:
        """The differences in a directory, and its directories to compare, in order.

        Then whether there may be any of the latter.
        """
        now, was = pair.now, pair.was
        if was is not None and now.places == was.places:
            return [], False
        items: list[Pair | Difference]
        if self.quick is not None and self.quick.suits(pair):
            items, left, opaque, nested = self.quick.look(pair)
            if not left and not opaque and not nested:
                return items, False
            for each in opaque:
                items += self.opaque_directory(self.quick, each)
            if left:
                items += self.entries(pair, left)
        else:
            items = list(self.entries(pair, None))
        # What is in a directory sorts as if the name ended in a slash.
        items.sort(key=_order)
        return items, True

    def entries(self, pair: Pair, names: set[bytes] | None) -> Iterator[Pair | Difference]:
        """What is found of names in a directory, in any order; None for all names."""
        now, was = pair.now, pair.was
        before = pair.path + b"/" if pair.path else b""
        before_old = pair.origin + b"/" if pair.origin else b""
        with self.view.open(now) as here, self.view.open(was) as there:
            if names is not None:
                found: Iterable[bytes] = names
            elif was is not None and now.places[0].layer == 0 and now.places[1:] == was.places:
                # Merged: only what the top holds can differ.
                found = here.names_in(now.places[0])
            else:
                found = here.names() | there.names()
            for name in found:
                yield from self.entry(before + name, before_old + name, (name, here, there))

    def entry(
        self, path: bytes, old_path: bytes, sides: tuple[bytes, OpenDirectory, OpenDirectory]
    ) -> Iterator[Pair | Difference]:
        """One name of two open directories; what is found of it, in any order."""
        name, here, there = sides
        now, was = here.lookup(name), there.lookup(name)
        if now is None:
            if was is not None:
                yield deleted(path, was, self.comparer.totals(was))
            return
        moved_from, source = self.moved(now, old_path, was)
        if was is None or file_type(now) != file_type(was):
            yield self.new(path, now, was, moved_from)
            if now.is_dir:
                yield Pair(path, now, moved_from or path, source)
        elif not now.is_dir:
            what = self.comparer.compare(now, was, here, there)
            if what:
                yield changed(path, now, was, what)
        elif moved_from is not None:
            yield self.new(path, now, was, moved_from)
            yield Pair(path, now, moved_from, source)
        elif now.places != was.places:
            what = self.comparer.compare(now, was, here, there)
            replaced = self.replaces(now, was)
            if what or replaced:
                yield changed(path, now, was, what, replaced)
            yield Pair(path, now, old_path, was)

    def opaque_directory(self, quick: Quick, pair: Pair) -> list[Pair | Difference]:
        """A directory without marks but that it is opaque, over one of the bottom."""
        assert pair.was is not None
        what = self.comparer.compare_plain(pair.now, pair.was)
        replaced = quick.replaces(pair)
        if replaced is None:
            replaced = self.replaces(pair.now, pair.was)
        if not what and not replaced:
            return [pair]
        return [changed(pair.path, pair.now, pair.was, what, replaced), pair]

    def new(self, path: bytes, now: Node, was: Node | None, moved_from: bytes | None) -> Difference:
        gone = (0, 0) if was is None else self.comparer.totals(was)
        return new(path, now, was, moved_from, gone)

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
            names = here.names() & old_names
            if self.quick is not None and now.places[0].layer == 0:
                names = self.quick.suspects(now.places[0].path, names)
            for name in names:
                child, old = here.lookup(name), there.lookup(name)
                if child is not None and old is not None:
                    same = is_fallthru(child.marks, child.st, parent_opaque=True, bottom=old.st)
                    if same:
                        return False
            return any(there.lookup(name) is not None for name in old_names)


def _order(item: Pair | Difference) -> bytes:
    return item.path + b"/" if isinstance(item, Pair) else item.path
