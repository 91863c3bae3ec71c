"""Where a top's directories lead to: which bottom directories are merged into each.

This follows overlayfs's lookup on the top's side: whiteouts, opaque directories, and
redirects, relative to the parent's bottom directories or absolute.  See
:mod:`overlay.view` for the bottoms' side.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from overlay.errors import Refused, UsageError
from overlay.layer import VANISHED, Layer, scan
from overlay.marks import NO_MARKS, HostileMark, Marks, read_marks
from overlay.priming.bottomlist import FAMILY
from overlay.text import printable
from overlay.view import Node, View

__all__ = ["Spot", "TopWalk", "parse_path"]


@dataclass(frozen=True, slots=True)
class Spot:
    """A directory of the union, at ``path``.

    ``st`` and ``marks`` are the top's, if it has the directory.  ``below`` is where the
    bottoms' part is found from their roots, None if there is none, and ``bottom`` what is
    there: also for a directory that is opaque because it was copied up.
    """

    path: bytes
    st: os.stat_result | None
    marks: Marks
    below: bytes | None
    bottom: Node | None

    @property
    def copied_up(self) -> bool:
        """Whether directory copyup was done: opaque, and a redirect says of what."""
        return self.marks.opaque and self.below is not None

    @property
    def merged(self) -> bool:
        """Whether readdir has to merge it with a bottom directory."""
        return self.bottom is not None and not self.marks.opaque


class TopWalk:
    """Looks into a top over ``bottoms`` (a view without the top)."""

    def __init__(self, top: Layer, bottoms: View) -> None:
        self.top = top
        self.bottoms = bottoms
        self._bottom_root = bottoms.root()
        self._device = top.lstat().st_dev

    def root(self) -> Spot:
        """The union's root, which overlayfs merges whatever marks it has."""
        return Spot(b"", self.top.lstat(), NO_MARKS, b"", self._bottom_root)

    def locate(self, path: bytes) -> list[Spot]:
        """The directories on the way to ``path``, root first; UsageError if it is none."""
        way = [self.root()]
        for name in path.split(b"/") if path else ():
            spot = self.child(way[-1], name)
            if spot is None:
                raise UsageError(f"no directory at {printable(b'/' + path)} in the union")
            way.append(spot)
        return way

    def child(self, parent: Spot, name: bytes) -> Spot | None:
        """The directory ``name`` in ``parent``; None where the union has none of that name."""
        st, marks = None, NO_MARKS
        if parent.st is not None:
            with self.top.directory(parent.path) as fd:
                try:
                    st = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except OSError as error:
                    if error.errno not in VANISHED:
                        raise
                else:
                    marks = self._marks(fd, parent, name, st)
        return self._spot(parent, name, st, marks)

    def on_top(self, parent: Spot) -> list[tuple[bytes, os.stat_result, Marks]]:
        """What the top itself has in a directory: (name, lstat, marks)."""
        if parent.st is None:
            return []
        with self.top.directory(parent.path) as fd:
            return [(name, st, self._marks(fd, parent, name, st)) for name, st in scan(fd)]

    def directories_on_top(self, parent: Spot) -> list[Spot]:
        """The subdirectories that the top has."""
        found = (
            self._spot(parent, name, st, marks)
            for name, st, marks in self.on_top(parent)
            if stat.S_ISDIR(st.st_mode)
        )
        return [spot for spot in found if spot is not None]

    def _marks(self, fd: int, parent: Spot, name: bytes, st: os.stat_result) -> Marks:
        try:
            return read_marks(fd, name, st, FAMILY)
        except HostileMark as hostile:
            where = os.path.join(os.fsencode(self.top.path), parent.path, name)
            raise HostileMark(
                f"{printable(where)}: {hostile.message}",
                hint="such a mark was not made by an overlay; remove it or the entry",
            ) from None

    def _spot(
        self, parent: Spot, name: bytes, st: os.stat_result | None, marks: Marks
    ) -> Spot | None:
        path = parent.path + b"/" + name if parent.path else name
        if st is not None and not stat.S_ISDIR(st.st_mode):
            return None
        if st is not None and st.st_dev != self._device:
            raise Refused(
                f"{printable(b'/' + path)} of the top is another file system",
                hint="unmount what is mounted in the top",
            )
        below = _below(parent, name, marks)
        bottom = self._find(parent, name, marks, below)
        if bottom is None:
            if st is None:
                return None
            below = None
        return Spot(path, st, marks, below, bottom)

    def _find(self, parent: Spot, name: bytes, marks: Marks, below: bytes | None) -> Node | None:
        if below is None:
            return None
        if marks.redirect is None and parent.bottom is not None:
            with self.bottoms.open(parent.bottom) as directory:
                node = directory.lookup(name)
        else:
            node = self.bottoms.find(self._bottom_root, below)
        return node if node is not None and node.is_dir else None


def _below(parent: Spot, name: bytes, marks: Marks) -> bytes | None:
    redirect = marks.redirect
    if redirect is not None and redirect.startswith(b"/"):
        return redirect[1:]
    # Only an absolute redirect leads out of an opaque directory, or into one.
    if parent.below is None or parent.marks.opaque or marks.opaque:
        return None
    last = redirect or name
    return parent.below + b"/" + last if parent.below else last


def parse_path(path: str | bytes) -> bytes:
    """A path in a union as bytes from its root; it may begin with a slash."""
    names = [name for name in os.fsencode(path).split(b"/") if name]
    if b".." in names or b"." in names:
        raise UsageError(
            f"{printable(path)} has dots in it", hint="name a directory from the union's root"
        )
    return b"/".join(names)
