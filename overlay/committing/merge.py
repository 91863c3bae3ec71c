"""Several layers made into one: tops that stay a top, or bottoms that need none below.

A merged top says over its bottoms what its parts said, one over the other: a whiteout
hides a lower part's file, an opaque directory its whole directory, a redirect is followed
through the lower parts, and a stub gets the data that one of them has.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack

from overlay.duplicate import Duplicator, Tree, set_times
from overlay.errors import TopInUse, UsageError
from overlay.inuse import top_in_use
from overlay.layer import Layer, open_beneath
from overlay.marks import (
    MarkFamily,
    set_metacopy,
    set_opaque,
    set_redirect,
    write_whiteout,
)
from overlay.newtree import new_tree
from overlay.staging import open_bottom
from overlay.text import printable
from overlay.view import Node, View

__all__ = ["merge", "squash"]


def squash(
    bottoms: Sequence[str],
    destination: str,
    *,
    data_bottoms: Sequence[str] = (),
    family: str = "trusted",
) -> int:
    """Make the new directory ``destination`` what ``bottoms`` show together, without marks.

    They are given uppermost first.  Returns how many entries there are, the root included.
    """
    with ExitStack() as stack:
        layers = [stack.enter_context(open_bottom(path)) for path in bottoms]
        data = [stack.enter_context(open_bottom(path)) for path in data_bottoms]
        view = View(layers, MarkFamily(family), data)
        with new_tree(destination) as (fd, name):
            return Duplicator(view).tree(view.root(), fd, name)


def merge(
    tops: Sequence[str],
    bottoms: Sequence[str],
    destination: str,
    *,
    data_bottoms: Sequence[str] = (),
    family: str = "trusted",
) -> int:
    """Make the new directory ``destination`` one top of several, given uppermost first.

    The bottoms are asked what has to be hidden: a whiteout that hides nothing would be seen
    in a directory that is not merged.  Returns how many entries there are, the root
    included.  TopInUse for a top that is mounted.
    """
    if len(tops) < 2:
        raise UsageError("merging takes two tops or more", hint="name each with --top")
    with ExitStack() as stack:
        layers = []
        for top in tops:
            layers.append(stack.enter_context(Layer.open(top)))
            if top_in_use(top, family):
                raise TopInUse(f"the top {printable(top)} is mounted", hint="unmount it first")
        lower = [stack.enter_context(open_bottom(path)) for path in bottoms]
        data = [stack.enter_context(open_bottom(path)) for path in data_bottoms]
        view = View(layers, MarkFamily(family))
        below = View(lower, view.family, data)
        root = view.root()
        with new_tree(destination) as (fd, name):
            duplicator = Duplicator(view, on_top=True)
            flags = duplicator.make(root, fd, name)
            made = open_beneath(fd, name, os.O_RDONLY | os.O_DIRECTORY)
            try:
                return 1 + _TopTree(duplicator, made, below).fill(root, flags, root.st)
            finally:
                os.close(made)


class _TopTree(Tree):
    """A tree with the marks that it needs over ``bottoms``."""

    def __init__(self, duplicator: Duplicator, root: int, bottoms: View) -> None:
        super().__init__(duplicator, root)
        self._bottoms = bottoms

    def entry(
        self, child: Node | None, fd: int, path: bytes, below: bytes | None, onwards: bytes | None
    ) -> bool:
        name = path.rpartition(b"/")[2]
        family = self.duplicator.family
        if child is None:
            hides = onwards is None and self._below(below, name) is not None
            if hides:
                write_whiteout(fd, name, family)
            return hides
        if stat.S_ISREG(child.st.st_mode) and child.data is None and onwards is not None:
            self._stub(child, fd, path, onwards)
            return True
        made = super().entry(child, fd, path, below, onwards)
        if child.is_dir and onwards is None:
            hidden = self._below(below, name)
            if hidden is not None and hidden.is_dir:
                set_opaque(fd, family, name)
        elif child.is_dir and onwards is not None and onwards != _beside(below, name):
            set_redirect(fd, family, b"/" + onwards, name)
        return made

    def _below(self, below: bytes | None, name: bytes) -> Node | None:
        path = _beside(below, name)
        return None if path is None else self._bottoms.find(self._bottoms.root(), path)

    def _stub(self, child: Node, fd: int, path: bytes, onwards: bytes) -> None:
        """A file whose data none of the parts has."""
        family, name = self.duplicator.family, path.rpartition(b"/")[2]
        key = (child.st.st_dev, child.st.st_ino)
        if key in self.linked:
            self.link(self.linked[key], fd, name)
            return
        if child.st.st_nlink > 1:
            self.linked[key] = path
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, 0o600, dir_fd=fd)
        try:
            self.duplicator.dress(child, file)
            os.truncate(file, child.st.st_size)
            set_metacopy(file, family, value=child.marks.metacopy)
            set_redirect(file, family, b"/" + onwards)
            set_times(file, child.st)
        finally:
            os.close(file)


def _beside(below: bytes | None, name: bytes) -> bytes | None:
    if below is None:
        return None
    return below + b"/" + name if below else name
