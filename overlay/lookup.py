"""Walking a path through the union, as link_path_walk() in the kernel's fs/namei.c does.

Symlinks are followed here, in the union, so that none can lead out of it: an absolute
one starts at the union's root.  Nothing is limited in length or depth but a name.

A directory gets its matching directory on the top as soon as something is looked up in
it (document L276–L283): a directory that a path merely ends at is left alone, so stat()
of the entries of a directory writes one directory, and none if ``matching`` is off.
A walk that only reads does not fail because that cannot be written (only writing calls
may meet ENOSPC, L629); a walk that writes makes it again, and reports.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from overlay.credentials import EXECUTE, Credentials, failure
from overlay.stack import Directory, Stack, Target
from overlay.view import Node

__all__ = ["Walker", "into"]

_MAX_LINKS: Final = 40  # include/linux/namei.h, MAXSYMLINKS
_NAME_MAX: Final = 255


def into(target: Target) -> Directory:
    """The directory that a path leads to; ENOENT or ENOTDIR where it does not."""
    node = target.existing
    if not target.name:
        return target.parent
    if not node.is_dir:
        raise failure(errno.ENOTDIR)
    return _enter(target.parent, target.name, node)


def _enter(parent: Directory, name: bytes, node: Node) -> Directory:
    """``node`` as the directory ``name`` of ``parent``, with the way to its bottom part."""
    below: bytes | None = None
    redirect = node.marks.redirect if node.places[0].layer == 0 else None
    if any(place.layer > 0 for place in node.places):
        if redirect is not None and redirect.startswith(b"/"):
            below = redirect[1:]
        elif parent.below is not None:
            name_there = redirect or name
            below = parent.below + b"/" + name_there if parent.below else name_there
    return Directory(node, parent.child(name), below, parent)


class Walker:
    """Resolves paths of one union; ``match`` makes the matching directory, None for never."""

    def __init__(self, stack: Stack, match: Callable[[Directory], None] | None) -> None:
        self._stack = stack
        self._match = match

    def walk(
        self, path: bytes, who: Credentials, *, follow: bool = True, creates: bool = False
    ) -> Target:
        """What ``path`` leads to, from the union's root.

        A symlink at the end is followed if ``follow``, and always before a slash, unless
        a file is to be created there: EISDIR then.
        Raises ENOENT, ENOTDIR, EACCES, ELOOP or ENAMETOOLONG.
        """
        return self._walk(path, who, follow=follow, creates=creates)

    def parent(self, path: bytes, who: Credentials) -> Target:
        """Where the entry is that ``path`` names, itself not looked up (``node`` is None).

        This is how the calls begin that change entries (filename_parentat()): a symlink
        at the end is not followed, not even before a slash.
        """
        return self._walk(path, who, look=False)

    def look(self, target: Target) -> Target:
        """:meth:`parent`'s answer with what is there."""
        if not target.name:
            return target
        return replace(target, node=self._lookup(target.parent, target.name))

    def _walk(
        self,
        path: bytes,
        who: Credentials,
        *,
        follow: bool = False,
        creates: bool = False,
        look: bool = True,
    ) -> Target:
        if not path:
            raise failure(errno.ENOENT)
        at = self._stack.root()
        slash = path.endswith(b"/")
        names = _components(path)
        last, links = b"/", 0
        while names:
            name = names.pop()
            last = name
            self._stack.require(who, at.node, EXECUTE)
            if name in (b".", b".."):
                at = at.above or at if name == b".." else at
                continue
            if not names and not look:
                return Target(at, name, None, name, slash)
            if not names and creates and slash:
                raise failure(errno.EISDIR)
            node = self._lookup(at, name)
            is_link = node is not None and stat.S_ISLNK(node.st.st_mode)
            if not names and not (is_link and (follow or slash)):
                return Target(at, name, node, name, slash)
            if node is None:
                raise failure(errno.ENOENT)
            if is_link:
                links += 1
                if links > _MAX_LINKS:
                    raise failure(errno.ELOOP)
                to = self.target_of(node)
                slash = slash or (not names and to.endswith(b"/"))
                at = self._stack.root() if to.startswith(b"/") else at
                last = b"/"
                names += _components(to)
            elif node.is_dir:
                at = _enter(at, name, node)
            else:
                raise failure(errno.ENOTDIR)
        return Target(at, b"", at.node, last, slash)

    def _lookup(self, directory: Directory, name: bytes) -> Node | None:
        if len(name) > _NAME_MAX:
            raise failure(errno.ENAMETOOLONG)
        if self._match is not None and directory.node.places[0].layer > 0:
            self._match(directory)
        return self._stack.lookup(directory, name)

    def target_of(self, node: Node) -> bytes:
        """A symlink's target; ENOENT if it is empty, which none should be."""
        with self._stack.at(node.places[0]) as (fd, name):
            to = os.readlink(name or b"", dir_fd=fd)
        if not to:
            raise failure(errno.ENOENT)
        return to


def _components(path: bytes) -> list[bytes]:
    """The names in a path, the first one last."""
    return [name for name in reversed(path.split(b"/")) if name]
