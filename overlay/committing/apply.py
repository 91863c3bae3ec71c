"""Putting a top's differences into its uppermost bottom, one after the other.

What is copied may be made ready by several processes; one alone changes what is seen.

Each is one step that is seen whole or not at all, and after each the union of the top and
the bottoms shows what it showed before: the top still covers what was changed below it.
So a run that is killed can simply be repeated.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, NamedTuple

from overlay import syscalls
from overlay.committing.links import Links
from overlay.committing.steps import BOTTOM, Kept, Removal, Showing, Step, steps
from overlay.differences.changes import chosen
from overlay.differences.comparing import length
from overlay.directorytimes import copy_times
from overlay.duplicate import Duplicator
from overlay.layer import Layer
from overlay.marks import place, set_opaque, temporary_name, write_whiteout
from overlay.selection import Selection
from overlay.site import Site
from overlay.view import Node, OpenDirectory, View

__all__ = ["Applied", "Applier"]

#: Files up to this size are copied by whoever finds them; too much would fill the disk.
_SMALL: Final = 64 << 10
#: Progress is told after so many entries.
_TELL: Final = 100


@dataclass(slots=True)
class Applied:
    """What was done: ``entries`` put or removed, ``copied`` bytes; paths that were ``left``.

    ``hiding`` are directories of the top that have to stay opaque: they hide what was
    neither chosen nor removed.
    """

    entries: int = 0
    copied: int = 0
    left: set[bytes] = field(default_factory=set)
    hiding: set[bytes] = field(default_factory=set)


class _Copy(NamedTuple):
    """What waits in the site as ``made`` for its place."""

    path: bytes
    made: bytes
    size: int
    flags: int


class Applier:
    """Changes the uppermost bottom of ``view``; ``bottom`` is it, writable, with its site.

    ``skip`` are paths to leave alone.
    """

    def __init__(
        self,
        view: View,
        bottom: Layer,
        site: Site,
        *,
        selection: Selection,
        skip: Collection[bytes],
        index_fd: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._view = view
        self._bottom = bottom
        self._site = site
        self._selection = selection
        self._skip = skip
        self._progress = progress
        self._duplicator = Duplicator(view, top_rests=True)
        self._now_root, self._was_root = view.root(0), view.root(1)
        self._alone = view.merged == 2
        self._links = Links(view, bottom, self._duplicator, self._chosen, index_fd)
        self._kept: tuple[bytes, int] | None = None
        self.done = Applied()
        site.reach = self._reach

    def run(self, kept: Kept | None = None) -> Applied:
        """Apply all differences of the view, the times of directories last.

        ``kept`` are the steps they mean, if they were found before and still hold.
        """
        if kept is not None and kept.complete:
            found = kept.chosen(self._prepared)
        else:
            found = chosen(self._view, lambda part: self._prepared(steps(part, self._selection)))
        # Closed before anybody cleans the site: what makes copies in it has ended then.
        with closing(found) as parts:
            try:
                for each in chain.from_iterable(parts):
                    self._take(each)
            finally:
                self._forget()
        self.done.entries += self._links.place(self._site)
        self._site.flush()
        copy_times(self._view.layers[0], self._bottom, self._chosen)
        return self.done

    def _take(self, what: Step | _Copy) -> None:
        path = what.path
        if isinstance(what, _Copy):
            applied = self._put(what)
        else:
            applied = self._chosen(path) and self._apply(what)
        if not applied:
            if self._selection.takes(path):
                self.done.left.add(path)
            if isinstance(what, Removal):
                self.done.hiding.add(path.rpartition(b"/")[0])
            return
        self.done.entries += 1
        if self._progress is not None and self.done.entries % _TELL == 0:
            self._progress(_TELL)

    def _prepared(self, found: list[Step]) -> list[Step | _Copy]:
        """Copy small files, in whichever process has them; the rest is done in its turn."""
        return [self._copied(each) or each for each in found]

    def _copied(self, step: Step) -> _Copy | None:
        if isinstance(step, Removal):
            return None
        now, path = step.now, step.path
        if not stat.S_ISREG(now.st.st_mode) or now.st.st_size > _SMALL:
            return None
        if not self._chosen(path) or step.attributes_only or Links.suit(now):
            return None
        made = temporary_name()
        flags = self._duplicator.make(now, self._site.fd, made)
        return _Copy(path, made, now.st.st_size, flags)

    def _put(self, copy: _Copy) -> bool:
        """Have a copy put in its place; False where it can have no directory."""
        above = copy.path.rpartition(b"/")[0]
        try:
            # What has no directory is left out now, so that the batch is not stopped.
            self._at(above)
        except _NoDirectory:
            os.unlink(copy.made, dir_fd=self._site.fd)
            return False
        self.done.copied += copy.size
        self._site.add(copy.made, copy.path, copy.size, copy.flags)
        return True

    def _chosen(self, path: bytes) -> bool:
        return self._selection.takes(path) and path not in self._skip

    def _apply(self, step: Step) -> bool:
        try:
            if not isinstance(step, Removal):
                return self._show(step)
            self._remove(step)
        except _NoDirectory:
            return False
        return True

    def _show(self, step: Showing) -> bool:
        """Have the bottom show what is new or has changed."""
        path, now = step.path, step.now
        if now.is_dir:
            self._directory(step)
        elif step.attributes_only:
            self._redress(path, now)
        elif not self._links.takes(path, now):
            made = temporary_name()
            flags = self._duplicator.make(now, self._site.fd, made)
            return self._put(_Copy(path, made, length(now), flags))
        return True

    # --------------------------------------------------------------- directories

    def _reach(self, path: bytes) -> int:
        """A directory of the bottom, made where only lower bottoms have it."""
        try:
            return self._bottom.open_dir(path)
        except FileNotFoundError:
            pass
        except NotADirectoryError:
            raise _NoDirectory(path) from None
        # Its parent was not chosen, or only lower bottoms have it.
        node = self._view.find(self._now_root, path)
        if node is None or not node.is_dir:
            raise _NoDirectory(path)
        self._make_directory(path, node)
        return self._bottom.open_dir(path)

    def _at(self, path: bytes) -> int:
        """:meth:`_reach`, kept open: neighbours come one after the other."""
        if self._kept is None or self._kept[0] != path:
            fd = self._reach(path)
            self._forget()
            self._kept = (path, fd)
        return self._kept[1]

    def _forget(self) -> None:
        if self._kept is not None:
            os.close(self._kept[1])
            self._kept = None

    def _directory(self, step: Showing) -> None:
        if not step.over_directory:
            self._make_directory(step.path, step.now)
            return
        fd = self._reach(step.path)
        try:
            self._duplicator.dress(step.now, fd, replace=True)
        finally:
            os.close(fd)

    def _make_directory(self, path: bytes, node: Node) -> None:
        above, _, name = path.rpartition(b"/")
        fd = self._reach(above)
        try:
            made = temporary_name()
            self._duplicator.make(node, self._site.fd, made)
            if self._merges_wrongly(path):
                set_opaque(self._site.fd, self._view.family, made)
            place(self._site.fd, made, fd, name, replace=True)
        finally:
            os.close(fd)

    def _merges_wrongly(self, path: bytes) -> bool:
        """Whether a new directory would show what a lower bottom has, which was hidden."""
        if self._alone:
            return False
        was = self._view.find(self._was_root, path)
        if was is not None and was.is_dir:
            return False
        below = self._below(path)
        return below is not None and below.is_dir

    def _below(self, path: bytes) -> Node | None:
        """What the bottoms below the changed one show at ``path``, whatever that one has there."""
        if self._alone:
            return None
        above, _, name = path.rpartition(b"/")
        parent = self._view.find(self._was_root, above)
        if parent is None or not parent.is_dir:
            return None
        lower = tuple(place for place in parent.places if place.layer > BOTTOM)
        with OpenDirectory(self._view, lower) as directory:
            return directory.lookup(name)

    # -------------------------------------------------------------------- entries

    def _remove(self, removal: Removal) -> None:
        path = removal.path
        above, _, name = path.rpartition(b"/")
        fd = self._at(above)
        if self._below(path) is not None:
            # A directory that was in the way is in the site now, to be removed at the end.
            write_whiteout(fd, name, self._view.family, work_fd=self._site.fd)
        elif removal.was_dir:
            os.rename(name, temporary_name(), src_dir_fd=fd, dst_dir_fd=self._site.fd)
        else:
            os.unlink(name, dir_fd=fd)

    def _redress(self, path: bytes, now: Node) -> None:
        with self._bottom.parent(path) as (dirfd, name):
            fd = syscalls.open_beneath(dirfd, name, os.O_PATH)
        try:
            self._duplicator.dress(now, fd, replace=True)
        finally:
            os.close(fd)


class _NoDirectory(Exception):
    """Something else is where a directory would have to be, and was not chosen to go."""
