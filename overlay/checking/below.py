"""What the bottoms have for one directory of a top, with as few system calls as it takes.

The judgement is :class:`overlay.view.View`'s, which follows marks through any number of
layers as the kernel does.  Where only the lowest bottom is left to ask, no mark in it can
matter, and one stat by descriptor is the whole lookup.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import NamedTuple

from overlay import syscalls
from overlay.closing import Closing
from overlay.layer import VANISHED
from overlay.marks import MarkFamily, is_whiteout_device
from overlay.markvalues import NO_XATTR
from overlay.view import OpenDirectory, Place, View

__all__ = ["Below", "DirectoryBelow", "Spot", "Target"]


def _attributes(fd: int, name: bytes | None = None) -> list[str]:
    """The names of extended attributes; none on a file system that has none."""
    try:
        return syscalls.listxattr(fd, name)
    except OSError as error:
        if error.errno in NO_XATTR:
            return []
        raise


class Spot(NamedTuple):
    """Where a directory lies in the bottoms: the layer's number, uppermost 0, and the path."""

    layer: int
    path: bytes


@dataclass(frozen=True, slots=True)
class Target:
    """What a lookup in the bottoms finds.

    ``spots`` are a directory's merged places, or the one place of anything else.
    ``size`` is that of a regular file's data, None where no bottom has it.
    """

    mode: int
    spots: tuple[Spot, ...]
    size: int | None = None

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)


class Below:
    """The union of the bottoms.  One absolute path's directory stays open for the next lookup."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._last = view.merged - 1
        self._only = len(view.layers) == 1
        self._metacopy = view.family.attribute("metacopy")
        self._parent: tuple[bytes, int | None] = (b"", None)

    @property
    def family(self) -> MarkFamily:
        return self._view.family

    def root(self) -> tuple[Spot, ...]:
        """The roots of all bottoms, merged."""
        return tuple(Spot(number, b"") for number in range(self._view.merged))

    def close(self) -> None:
        """Close what is kept open between lookups."""
        self._keep(b"", None)

    def open(self, spots: tuple[Spot, ...]) -> DirectoryBelow:
        """A merged directory, to look names up in."""
        return DirectoryBelow(self, self._view, spots)

    def at(self, path: bytes, *, data: bool = False) -> Target | None:
        """What lies at an absolute ``path`` of the bottoms (a redirect, already checked)."""
        if self._only:
            above, _, name = path[1:].rpartition(b"/")
            fd = self._directory(above)
            return None if fd is None else self.stat(fd, Spot(0, path[1:]), name, data=data)
        with self._view.open(self._view.root()) as root:
            return self.target(root, path)

    def _directory(self, path: bytes) -> int | None:
        """``path`` in the only bottom, open: neighbours redirect to neighbours."""
        kept, fd = self._parent
        if fd is None or kept != path:
            try:
                fd = self._view.layers[0].open_dir(path)
            except OSError as error:
                if error.errno not in VANISHED:
                    raise
                fd = None
            self._keep(path, fd)
        return fd

    def _keep(self, path: bytes, fd: int | None) -> None:
        if self._parent[1] is not None:
            os.close(self._parent[1])
        self._parent = (path, fd)

    def is_lowest(self, spots: tuple[Spot, ...]) -> bool:
        """Whether nothing but the lowest bottom is left to ask; data may still lie elsewhere."""
        return len(spots) == 1 and spots[0].layer == self._last

    def has_data_layers(self) -> bool:
        """Whether there are layers below the lowest that only hold data."""
        return len(self._view.layers) > self._view.merged

    def stat(
        self, fd: int, spot: Spot, name: bytes, *, data: bool, hidden: bool = True
    ) -> Target | None:
        """A lookup in the lowest bottom, which no mark but a whiteout can change.

        ``hidden``: there may be xattr whiteouts in that directory.
        """
        try:
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno in VANISHED:
                return None
            raise
        if is_whiteout_device(st):
            return None
        size = None
        if stat.S_ISREG(st.st_mode):
            empty = hidden and st.st_size == 0
            attributes = _attributes(fd, name) if data or empty else []
            if empty and self.family.attribute("whiteout") in attributes:
                return None
            # A stub in the lowest layer: there is no data further down.
            size = None if self._metacopy in attributes else st.st_size
        return Target(st.st_mode, (spot,), size)

    def target(self, directory: OpenDirectory, name: bytes) -> Target | None:
        """A lookup through all layers."""
        node = directory.lookup(name)
        if node is None:
            return None
        size = None
        if node.data is not None:
            size = node.st.st_size
            if node.data != node.places[0]:
                size = self._view.layers[node.data.layer].lstat(node.data.path).st_size
        spots = tuple(Spot(place.layer, place.path) for place in node.places)
        return Target(node.st.st_mode, spots, size)


class DirectoryBelow(Closing):
    """A directory of the bottoms; close it, or use it in ``with``.  Opened when first asked."""

    def __init__(self, below: Below, view: View, spots: tuple[Spot, ...]) -> None:
        self._below = below
        self._view = view
        self._spots = spots
        self._lowest = below.is_lowest(spots)
        self._fd = -1
        self._hidden = False
        self._open: OpenDirectory | None = None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._open is not None:
            self._open.close()
            self._open = None

    def find(self, name: bytes, *, data: bool = False) -> Target | None:
        """What the bottoms show as ``name``; ``data``: a file's size is of interest."""
        if not self._spots:
            return None
        if self._lowest and not (data and self._below.has_data_layers()):
            spot = self._spots[0]
            if self._fd < 0:
                try:
                    self._fd = self._view.layers[spot.layer].open_dir(spot.path)
                except OSError as error:
                    if error.errno in VANISHED:
                        return None
                    raise
                # Asked once here, and not of every empty file.
                opaque = self._below.family.attribute("opaque")
                self._hidden = opaque in _attributes(self._fd)
            path = spot.path + b"/" + name if spot.path else name
            return self._below.stat(
                self._fd, Spot(spot.layer, path), name, data=data, hidden=self._hidden
            )
        if self._open is None:
            self._open = OpenDirectory(self._view, tuple(Place(*spot) for spot in self._spots))
        return self._below.target(self._open, name)
