"""The layers of one union, and what every operation asks of them.

One top, its bottoms and the work directory, all by descriptor.  :mod:`overlay.stacking`
opens them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from overlay import acl, syscalls
from overlay.aside import Aside
from overlay.credentials import WRITE, Credentials, failure
from overlay.inodeflags import APPEND, IMMUTABLE, protected, withstands
from overlay.layer import Layer
from overlay.linkindex import IndexedView, LinkIndex
from overlay.marks import MarkFamily, Whiteout, escape_attribute, write_whiteout
from overlay.markvalues import NO_XATTR
from overlay.view import Node, Place, View

__all__ = ["Directory", "Stack", "Target", "read_acl"]


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory of the union, as a walk came to it.

    ``path`` is where it is in the union, and in the top if it is there; ``below`` where
    its bottom part is in the union of the bottoms alone, None if it has none.  Both are
    from the root, without a leading slash.  ``above`` is its parent; None for the root.
    """

    node: Node
    path: bytes
    below: bytes | None
    above: Directory | None = None

    @property
    def lower(self) -> tuple[Place, ...]:
        """Its places on the bottoms."""
        return tuple(place for place in self.node.places if place.layer > 0)

    def child(self, name: bytes) -> bytes:
        """The union path of an entry."""
        return self.path + b"/" + name if self.path else name


@dataclass(frozen=True, slots=True)
class Target:
    """What a path leads to: an entry of ``parent``, there (``node``) or not (None).

    ``name`` is empty for the root and for what was reached by a dot; the directory itself
    is then ``parent``.  ``last`` is how the path ended: the name, ``.``, ``..`` or ``/``.
    With ``slash`` it ended in one, and so has to be a directory.
    """

    parent: Directory
    name: bytes
    node: Node | None
    last: bytes
    slash: bool = False

    @property
    def existing(self) -> Node:
        """What is there; ENOENT if nothing, ENOTDIR if a slash says that it is a directory."""
        if self.node is None:
            raise failure(errno.ENOENT)
        if self.slash and not self.node.is_dir:
            raise failure(errno.ENOTDIR)
        return self.node

    @property
    def on_top(self) -> bool:
        return self.node is not None and self.node.places[0].layer == 0


class Stack:
    """The open layers; ``close`` it."""

    def __init__(
        self,
        top: Layer,
        bottoms: Sequence[Layer],
        data: Sequence[Layer],
        aside: Aside,
        work_fd: int,
        *,
        family: MarkFamily,
        form: Whiteout,
        sync: bool,
    ) -> None:
        self.top = top
        self.bottoms = (*bottoms, *data)
        self.aside = aside
        self.work_fd = work_fd
        self.family = family
        self.form = form
        self.sync = sync
        self.index = LinkIndex.open(work_fd, bottoms, 1 + len(self.bottoms), family)
        layers = [top, *bottoms]
        if self.index is None:
            self.view = View(layers, family, data)
        else:
            self.view = IndexedView(layers, family, data, self.index)

    def close(self) -> None:
        if self.index is not None:
            self.index.close()
        for layer in (self.top, *self.bottoms):
            layer.close()
        self.aside.close()

    # ------------------------------------------------------------------- looking

    def root(self) -> Directory:
        return Directory(self.view.root(), b"", b"")

    def lookup(self, directory: Directory, name: bytes) -> Node | None:
        """What the union shows as ``name`` in a directory."""
        with self.view.open(directory.node) as opened:
            return opened.lookup(name)

    def below(self, directory: Directory, name: bytes) -> Node | None:
        """What the bottoms alone show there: what a whiteout has to hide (L90–L92)."""
        lower = directory.lower
        if not lower:
            return None
        with self.view.open(Node(directory.node.st, directory.node.marks, lower)) as opened:
            return opened.lookup(name)

    @contextmanager
    def at(self, place: Place) -> Iterator[tuple[int, bytes | None]]:
        """The descriptor and name by which something is reached; None: the descriptor itself."""
        layer = self.view.layers[place.layer]
        if not place.path:
            yield layer.fd, None
            return
        with layer.parent(place.path) as (fd, name):
            yield fd, name

    def access_list(self, node: Node, which: str = acl.ACCESS) -> tuple[acl.AclEntry, ...] | None:
        """The access list of something; None if its mode says everything."""
        with self.at(node.places[0]) as (fd, name):
            return read_acl(fd, name, which)

    def is_indexed(self, node: Node) -> bool:
        """Whether this name of a bottom file leads to a copy in the index."""
        return self.index is not None and node.places[0].layer == self.index.number

    def is_linked(self, node: Node) -> bool:
        """Whether something below the top has, or had, other names (L630)."""
        layer = node.places[0].layer
        return self.is_indexed(node) or (layer > 0 and not node.is_dir and node.st.st_nlink > 1)

    # --------------------------------------------------------------- permissions

    def permitted(self, who: Credentials, node: Node, want: int) -> bool:
        """Whether ``who`` gets the rwx bits ``want``."""
        if who.uid == node.st.st_uid or who.overrides(node.st.st_mode, want):
            return who.permitted(node.st, want)  # the access list does not matter
        return who.permitted(node.st, want, self.access_list(node))

    def require(self, who: Credentials, node: Node, want: int) -> None:
        """EACCES unless :meth:`permitted`; EPERM to write what is immutable."""
        if want & WRITE:
            self.require_settable(node, IMMUTABLE)
        if not self.permitted(who, node, want):
            raise failure(errno.EACCES)

    def protection(self, node: Node) -> int:
        """The flags IMMUTABLE and APPEND of something (:mod:`overlay.inodeflags`)."""
        place = node.places[0]
        with self.at(place) as (fd, name):
            flags = withstands(fd, name, node.st.st_mode)
            # The root is looked up nowhere, so its marks were not read.
            on_top = place.layer == 0 or self.is_indexed(node)
            if on_top and (not place.path or "protattr" in node.marks.others):
                flags |= protected(fd, name, self.family)
        return flags

    def require_settable(self, node: Node, forbidden: int = IMMUTABLE | APPEND) -> None:
        """EPERM where one of the flags forbids a change of attributes or entries."""
        if self.protection(node) & forbidden:
            raise failure(errno.EPERM)

    def require_openable(self, node: Node, want: int, flags: int) -> None:
        """EPERM for what an append-only file does not allow (may_open())."""
        appends = flags & os.O_APPEND and not flags & os.O_TRUNC
        if want & WRITE and not appends:
            self.require_settable(node, APPEND)

    # ------------------------------------------------------------------- writing

    def whiteout(self, dirfd: int, name: bytes, *, replace: bool) -> None:
        """Hide ``name`` of a top directory, in one step with the removal of what it is there."""
        aside = self.aside.fd if replace or self.form is Whiteout.XATTR else None
        displaced = write_whiteout(dirfd, name, self.family, form=self.form, work_fd=aside)
        if displaced is not None:
            self.aside.drop(displaced)

    def stored(self, attribute: str) -> str:
        """How a layer calls an attribute of the union."""
        return escape_attribute(attribute, self.family)


def read_acl(fd: int, name: bytes | None, attribute: str) -> tuple[acl.AclEntry, ...] | None:
    """One of the two access lists of an entry; None if it has none."""
    try:
        return acl.parse(syscalls.getxattr(fd, attribute, name))
    except OSError as error:
        if error.errno in NO_XATTR:
            return None
        raise
