"""Files with several names, in a commit: all names are put in place together, as one file.

The names are those on the top, and with an index those of the bottom's file that the union
shows as the copy too (:mod:`overlay.linkindex`).  Directory entries carry inode numbers, so
looking for them costs no stat.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field

from overlay.duplicate import Duplicator
from overlay.layer import Layer, entries_beneath
from overlay.linkindex import file_of_handle
from overlay.marks import temporary_name
from overlay.site import Site
from overlay.view import Node, View

__all__ = ["Links"]


@dataclass(slots=True)
class _Group:
    """One file of the top, and where its names are to be."""

    node: Node
    paths: set[bytes] = field(default_factory=set)


class Links:
    """The files with several names that are to be put into ``bottom``, where ``chosen``."""

    def __init__(
        self,
        view: View,
        bottom: Layer,
        duplicator: Duplicator,
        chosen: Callable[[bytes], bool],
        index_fd: int | None,
    ) -> None:
        self._view = view
        self._bottom = bottom
        self._duplicator = duplicator
        self._chosen = chosen
        self._index_fd = index_fd
        self._groups: dict[int, _Group] = {}

    @staticmethod
    def suit(node: Node) -> bool:
        """Whether something is a file of the top with several names."""
        return node.places[0].layer == 0 and (node.st.st_nlink > 1 or "nlink" in node.marks.others)

    def takes(self, path: bytes, node: Node) -> bool:
        """Whether a file has several names, so that it is put off until all are known."""
        if not self.suit(node):
            return False
        self._groups.setdefault(node.st.st_ino, _Group(node)).paths.add(path)
        return True

    def place(self, site: Site) -> int:
        """Make every file once, and put all its names in place; how many names."""
        if not self._groups:
            return 0
        for path, number in _entries(self._view.layers[0], self._groups):
            if self._chosen(path):
                self._groups[number].paths.add(path)
        for path, number in self._indexed():
            self._groups[number].paths.add(path)
        count = 0
        for group in self._groups.values():
            made = temporary_name()
            size = group.node.st.st_size if stat.S_ISREG(group.node.st.st_mode) else 0
            flags = self._duplicator.make(group.node, site.fd, made)
            first, *others = sorted(group.paths)
            linked = [(temporary_name(), path) for path in others]
            for name, _ in linked:
                os.link(made, name, src_dir_fd=site.fd, dst_dir_fd=site.fd, follow_symlinks=False)
            for name, path in [*linked, (made, first)]:
                # What protects an inode forbids further names, so it comes with the last.
                site.add(name, path, size if name == made else 0, flags if name == made else 0)
            count += len(others)
        return count

    def _indexed(self) -> Iterator[tuple[bytes, int]]:
        """Names that only the bottom has, of files whose copy is in the index."""
        if self._index_fd is None:
            return
        copies: dict[int, int] = {}
        with os.scandir(self._index_fd) as found:
            for entry in found:
                if entry.inode() in self._groups:
                    number = file_of_handle(self._bottom.fd, entry.name)
                    if number is not None:
                        copies[number] = entry.inode()
        if not copies:
            return
        root = self._view.root(0)
        for path, number in _entries(self._bottom, copies):
            node = self._view.find(root, path)
            # What the top covers is another file now.
            shown = node is not None and node.places[0].layer > 0
            if shown and self._chosen(path):
                yield path, copies[number]


def _entries(layer: Layer, numbers: Container[int]) -> Iterator[tuple[bytes, int]]:
    """Paths of everything but directories that has one of these inode numbers."""
    for _, path, entry in entries_beneath(layer.fd):
        if entry.inode() in numbers and not entry.is_dir(follow_symlinks=False):
            yield path, entry.inode()
