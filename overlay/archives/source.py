"""Layers in directories, read as items: overlayfs's marks of either family, and AUFS's names."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from typing import NamedTuple

from overlay.archives.item import OPAQUE_NAME, WHITEOUT_PREFIX, Content, Item, of_stat, opened_by
from overlay.duplicate import Duplicator
from overlay.errors import Refused
from overlay.layer import Layer
from overlay.marks import unescape_attribute
from overlay.text import printable
from overlay.view import Node, Place, View

__all__ = ["Child", "TopSource", "aufs_items", "top_items"]


def top_items(view: View) -> Iterator[Item]:
    """What the uppermost layer of ``view`` says over the others.

    Redirects and stubs are resolved, which takes the bottoms: a renamed directory is opaque
    with all that is in it.  Sorted, directories before what is in them; the root is left
    out.  Refused where a bottom that is needed is not there.
    """
    return TopSource(view).run()


class Child(NamedTuple):
    """An item of a directory, and the node behind it; a whiteout has none.

    ``whole`` says of a directory that everything shown in it is to be told.
    """

    item: Item
    node: Node | None
    whole: bool = False


class TopSource:
    """Tells what the uppermost layer of a view says, a directory at a time."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._duplicator = Duplicator(view)

    def run(self) -> Iterator[Item]:
        """All items, each after the directory it is in."""
        linked: dict[tuple[int, int], bytes] = {}
        pending = self.directory(b"", self._view.root())[::-1]
        while pending:
            item, node, whole = pending.pop()
            if node is not None and not node.is_dir and node.st.st_nlink > 1:
                first = linked.setdefault((node.st.st_dev, node.st.st_ino), item.path)
                item.link = None if first == item.path else first
            yield item
            if node is not None and node.is_dir:
                inner = self.directory(item.path, node, whole=whole, opaque=item.opaque)
                pending += reversed(inner)

    def directory(
        self,
        path: bytes,
        node: Node,
        *,
        whole: bool = False,
        opaque: bool = False,
        names: Collection[bytes] | None = None,
    ) -> list[Child]:
        """What is in a directory, or those of it with these ``names``; sorted.

        ``whole`` says that everything shown in it is told, ``opaque`` that it hides what it
        does not have.
        """
        found: list[Child] = []
        before = path + b"/" if path else b""
        with self._view.open(node) as directory:
            if names is None:
                names = directory.names() if whole else directory.names_in(node.places[0])
            for name in sorted(names):
                child = directory.lookup(name)
                if child is None:
                    if not whole and not opaque:
                        found.append(Child(Item(before + name, whiteout=True), None))
                    continue
                item = self._item(before + name, child)
                if not child.is_dir:
                    found.append(Child(item, child))
                    continue
                moved = child.marks.redirect is not None and not child.marks.opaque
                if moved and len(child.places) < 2 and self._view.merged < 2:
                    raise _needs_bottoms(item.path)
                item.opaque = not whole and (child.marks.opaque or moved)
                found.append(Child(item, child, whole or moved))
        return found

    def _item(self, path: bytes, node: Node) -> Item:
        item = of_stat(path, node.st)
        family = self._view.family
        item.xattrs = {
            unescape_attribute(attribute, family): value
            for attribute, value in self._duplicator.xattrs(node).items()
        }
        if stat.S_ISLNK(node.st.st_mode):
            item.target = self._duplicator.target(node)
        elif stat.S_ISREG(node.st.st_mode):
            if node.data is None:
                raise _needs_bottoms(path)
            item.content = self.content(node.data)
        return item

    def content(self, place: Place) -> Content:
        """The content of a regular file that lies at ``place``."""
        return opened_by(lambda: self._view.open_data(place))


def _needs_bottoms(path: bytes) -> Refused:
    return Refused(
        f"{printable(path)} of the top reads from a bottom that is not there",
        hint="name the bottoms, uppermost first, with --bottom",
    )


def aufs_items(layer: Layer) -> Iterator[Item]:
    """What an AUFS branch says: ``.wh.NAME`` hides NAME, ``.wh..wh..opq`` makes opaque.

    AUFS's own files (``.wh..wh.*``) are left out.
    """
    linked: dict[tuple[int, int], bytes] = {}
    pending = [b""]
    while pending:
        path = pending.pop()
        below = []
        for entry in sorted(layer.entries(path), key=lambda each: each.path):
            name = entry.name
            if name.startswith(WHITEOUT_PREFIX * 2):
                continue
            before = path + b"/" if path else b""
            if name.startswith(WHITEOUT_PREFIX):
                yield Item(before + name.removeprefix(WHITEOUT_PREFIX), whiteout=True)
                continue
            item = _plain_item(layer, entry.path, entry.st)
            if not item.is_dir and entry.st.st_nlink > 1:
                first = linked.setdefault((entry.st.st_dev, entry.st.st_ino), entry.path)
                item.link = None if first == entry.path else first
            if item.is_dir:
                item.opaque = _has(layer, entry.path, OPAQUE_NAME)
                below.append(entry.path)
            yield item
        pending += reversed(below)


def _has(layer: Layer, path: bytes, name: bytes) -> bool:
    with layer.directory(path) as fd:
        try:
            os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
    return True


def _plain_item(layer: Layer, path: bytes, st: os.stat_result) -> Item:
    item = of_stat(path, st)
    with layer.parent(path) as (fd, name):
        base = b"/proc/self/fd/%d/" % fd + name
        item.xattrs = {
            attribute: os.getxattr(base, attribute, follow_symlinks=False)
            for attribute in os.listxattr(base, follow_symlinks=False)
        }
        if stat.S_ISLNK(st.st_mode):
            item.target = os.readlink(name, dir_fd=fd)

    if stat.S_ISREG(st.st_mode):
        item.content = opened_by(lambda: layer.open_file(path, os.O_RDONLY | os.O_NONBLOCK))
    return item
