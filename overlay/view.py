"""What a union of layers shows, found out without a mount.

This is overlayfs's own lookup (fs/overlayfs/namei.c, ovl_lookup) over directory
descriptors: top first; whiteouts, opaque directories and files stop it; redirects send
it elsewhere in the layers further down; a metacopy leads to the data.  A redirect is
never a path to open: its names are looked up one by one in each lower layer, so it can't
leave one, and since it only ever leads down, it can't loop.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from overlay.closing import Closing
from overlay.layer import VANISHED, Layer
from overlay.marks import HostileMark, MarkFamily, Marks, read_marks, visible_xattrs
from overlay.text import printable

__all__ = ["Node", "OpenDirectory", "Place", "TwoTops", "View"]


class Place(NamedTuple):
    """Where something lies: the layer's number, uppermost 0, and the path in that layer."""

    layer: int
    path: bytes


class Node(NamedTuple):
    """One thing that the union shows.

    ``st`` and ``marks`` are those of its uppermost place.  A directory has every place
    that is merged into it, uppermost first.  Anything else has one, and ``data`` is where
    a regular file's content lies: further down for a fallthru, None if it is gone.
    """

    st: os.stat_result
    marks: Marks
    places: tuple[Place, ...]
    data: Place | None = None

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.st.st_mode)


class _Hit(NamedTuple):
    """One layer's answer: what is there, if anything, and what to look for further down."""

    st: os.stat_result | None
    marks: Marks
    path: bytes
    stop: bool
    wanted: bytes


class View:
    """The union of ``layers`` (uppermost first), with ``data_layers`` that only hold data."""

    def __init__(
        self, layers: Sequence[Layer], family: MarkFamily, data_layers: Sequence[Layer] = ()
    ) -> None:
        self.layers = [*layers, *data_layers]
        self.merged = len(layers)
        self.family = family

    def root(self, first: int = 0) -> Node:
        """The root of the union of the layers from number ``first`` on."""
        places = tuple(Place(number, b"") for number in range(first, self.merged))
        return Node(self.layers[first].lstat(), Marks(), places)

    def below(self, layer: int) -> Sequence[int]:
        """The layers that a lookup goes on in after ``layer``."""
        return range(layer + 1, self.merged)

    def open(self, node: Node | None) -> OpenDirectory:
        """A directory of the union, to look into; for None one that is empty."""
        return OpenDirectory(self, () if node is None else node.places)

    def find(self, root: Node, path: bytes) -> Node | None:
        """What the union below ``root`` shows at ``path``."""
        node: Node | None = root
        for name in path.split(b"/") if path else ():
            if node is None or not node.is_dir:
                return None
            with self.open(node) as directory:
                node = directory.lookup(name)
        return node

    def open_data(self, place: Place) -> int:
        """A descriptor on a regular file's content; it belongs to the caller."""
        # Whatever it has become meanwhile, a fifo must not make us wait.
        return self.layers[place.layer].open_file(place.path, os.O_RDONLY | os.O_NONBLOCK)

    def entry(self, place: Place, dirfd: int, name: bytes) -> tuple[os.stat_result, Marks] | None:
        """One entry of a directory at ``place`` and its marks; None if it is not there."""
        try:
            st = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
            return st, read_marks(dirfd, name, st, self.family)
        except HostileMark as hostile:
            where = os.path.join(os.fsencode(self.layers[place.layer].path), place.path, name)
            raise HostileMark(
                f"{printable(where)}: {hostile.message}",
                hint="such a mark was not made by an overlay; remove it or the entry",
            ) from None
        except OSError as error:
            if error.errno in VANISHED:
                return None
            raise

    def follow(self, layer: int, wanted: bytes) -> _Hit:
        """An absolute redirect looked up in one layer, name by name."""
        names = wanted[1:].split(b"/")
        path, stop, onwards = b"", False, wanted
        for number, name in enumerate(names, 1):
            here = Place(layer, path)
            try:
                with self.layers[layer].directory(path) as fd:
                    found = self.entry(here, fd, name)
            except OSError as error:
                if error.errno not in VANISHED:
                    raise
                found = None
            path = path + b"/" + name if path else name
            if found is None:
                break
            st, marks = found
            last = number == len(names)
            if marks.whiteout is not None or (not last and not stat.S_ISDIR(st.st_mode)):
                return _Hit(None, marks, path, True, onwards)
            if last:
                return _Hit(st, marks, path, stop, onwards)
            # What a directory on the way says holds for the layers further down only.
            rest = b"/" + b"/".join(names[number:])
            if marks.opaque:
                stop = True
            elif marks.redirect is not None:
                above = b"".join(b"/" + each for each in names[: number - 1]) + b"/"
                absolute = marks.redirect.startswith(b"/")
                stop = stop and not absolute
                onwards = (marks.redirect if absolute else above + marks.redirect) + rest
        return _Hit(None, Marks(), path, stop, onwards)


class TwoTops(View):
    """Two unions of the same bottoms in one view: layers 0 and 1 are a top each."""

    def root(self, first: int = 0) -> Node:
        places = tuple(Place(number, b"") for number in (first, *range(2, self.merged)))
        return Node(self.layers[first].lstat(), Marks(), places)

    def below(self, layer: int) -> Sequence[int]:
        return range(2 if layer == 0 else layer + 1, self.merged)


class OpenDirectory(Closing):
    """A directory of a union with its places open; close it, or use it in ``with``."""

    def __init__(self, view: View, places: tuple[Place, ...]) -> None:
        self._view = view
        self._places = places
        self._names: dict[Place, frozenset[bytes]] = {}
        self._fds: dict[Place, int] = {}
        for place in places:
            try:
                self._fds[place] = view.layers[place.layer].open_dir(place.path)
            except OSError as error:
                if error.errno not in VANISHED:
                    self.close()
                    raise
                # Removed meanwhile: it holds nothing.
                self._names[place] = frozenset()

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def names_in(self, place: Place) -> frozenset[bytes]:
        """Every name at one of the places, whiteouts included."""
        if place not in self._names:
            self._names[place] = frozenset(map(os.fsencode, os.listdir(self._fds[place])))
        return self._names[place]

    def names(self) -> set[bytes]:
        """Every name that may be here; :meth:`lookup` tells whether it is."""
        return set().union(*map(self.names_in, self._places))

    def xattrs(self, node: Node) -> dict[str, bytes]:
        """The extended attributes that the union shows of an entry found here."""
        if node.marks.bare:
            return {}
        place = node.places[0]
        above, _, name = place.path.rpartition(b"/")
        fd = self._fds.get(Place(place.layer, above))
        if fd is not None:
            return visible_xattrs(fd, name, self._view.family)
        with self._view.layers[place.layer].parent(place.path) as (parent, name):
            return visible_xattrs(parent, name, self._view.family)

    def lookup(self, name: bytes) -> Node | None:
        """What the union shows as ``name``; None if nothing."""
        return self.search(name)[0]

    def search(self, name: bytes) -> tuple[Node | None, bytes | None]:
        """:meth:`lookup`, and what layers further down would be asked for.

        That is a name beside this directory's place there, or an absolute path; None where
        they are not asked: a whiteout, an opaque directory or a file ends the lookup.
        """
        levels: Sequence[Place] = self._places
        wanted, number = name, 0
        first: tuple[os.stat_result, Marks] | None = None
        found: list[Place] = []
        stopped = False
        while number < len(levels):
            place = levels[number]
            number += 1
            hit = self._look(place, wanted)
            wanted = hit.wanted
            if hit.st is not None:
                if first is not None and not _continues(first[0], hit.st):
                    stopped = True
                    break
                first = first or (hit.st, hit.marks)
                found.append(Place(place.layer, hit.path))
                if _ends(hit.st, hit.marks):
                    stopped = True
                    break
            redirect = hit.marks.redirect if hit.st is not None else None
            absolute = redirect is not None and redirect.startswith(b"/")
            if hit.stop and not absolute:
                stopped = True
                break
            if redirect is not None:
                beside = wanted.rpartition(b"/")[0] + b"/" if wanted.startswith(b"/") else b""
                wanted = redirect if absolute else beside + redirect
            if wanted.startswith(b"/") and levels is self._places:
                levels = [Place(n, b"") for n in self._view.below(place.layer)]
                number = 0
        node = None if first is None else self._node(first, found, wanted)
        return node, None if stopped else wanted

    def _look(self, place: Place, wanted: bytes) -> _Hit:
        if wanted.startswith(b"/"):
            return self._view.follow(place.layer, wanted)
        path = place.path + b"/" + wanted if place.path else wanted
        known = self._names.get(place)
        if known is None or wanted in known:
            found = self._view.entry(place, self._fds[place], wanted)
            if found is not None:
                st, marks = found
                if marks.whiteout is not None:
                    return _Hit(None, marks, path, True, wanted)
                return _Hit(st, marks, path, False, wanted)
        return _Hit(None, Marks(), path, False, wanted)

    def _node(self, first: tuple[os.stat_result, Marks], found: list[Place], wanted: bytes) -> Node:
        st, marks = first
        if not stat.S_ISREG(st.st_mode):
            return Node(st, marks, tuple(found))
        return Node(st, marks, tuple(found[:1]), self._data(marks, found, wanted))

    def _data(self, marks: Marks, found: list[Place], wanted: bytes) -> Place | None:
        if marks.metacopy is None:
            return found[0]
        last = found[-1]
        view = self._view
        with view.layers[last.layer].parent(last.path) as (fd, name):
            bottom = view.entry(Place(last.layer, last.path.rpartition(b"/")[0]), fd, name)
        if bottom is not None and bottom[1].metacopy is None:
            return last
        # Data-only layers (since 6.5) take part in nothing but this: no marks in them count.
        for number in range(view.merged, len(view.layers)) if wanted.startswith(b"/") else ():
            try:
                if stat.S_ISREG(view.layers[number].lstat(wanted[1:]).st_mode):
                    return Place(number, wanted[1:])
            except OSError as error:
                if error.errno not in VANISHED:
                    raise
        return None


def _continues(first: os.stat_result, below: os.stat_result) -> bool:
    """Whether what is found further down belongs to it: only the same of the two kinds does."""
    return stat.S_IFMT(first.st_mode) == stat.S_IFMT(below.st_mode)


def _ends(st: os.stat_result, marks: Marks) -> bool:
    """Whether nothing further down can matter."""
    if stat.S_ISDIR(st.st_mode):
        return marks.opaque
    return marks.metacopy is None
