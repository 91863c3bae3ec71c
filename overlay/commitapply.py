"""Putting a top's differences into its uppermost bottom, one after the other.

Each is one step that is seen whole or not at all, and after each the union of the top and
the bottoms shows what it showed before: the top still covers what was changed below it.
So a run that is killed can simply be repeated.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from overlay import syscalls
from overlay.changes import Difference, Kind
from overlay.commitlinks import Links
from overlay.comparing import Aspect
from overlay.duplicate import Duplicator, set_times
from overlay.layer import VANISHED, Layer
from overlay.marks import place, set_opaque, temporary_name, write_whiteout
from overlay.selection import Selection
from overlay.site import Site
from overlay.view import Node, OpenDirectory, View

__all__ = ["Applied", "Applier"]

#: The number of the bottom that is changed, in the view of all layers.
_BOTTOM: Final = 1
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
        self._duplicator = Duplicator(view)
        self._now_root, self._was_root = view.root(0), view.root(1)
        self._alone = view.merged == 2
        self._links = Links(view, bottom, self._duplicator, self._chosen, index_fd)
        self.done = Applied()
        site.reach = self._reach

    def run(self, differences: Iterable[Difference]) -> Applied:
        """Apply everything, the times of directories last."""
        for each in differences:
            if not self._chosen(each.path) or not self._apply(each):
                if self._selection.takes(each.path):
                    self.done.left.add(each.path)
                if each.now is None:
                    self.done.hiding.add(each.path.rpartition(b"/")[0])
                continue
            self.done.entries += 1
            if self._progress is not None and self.done.entries % _TELL == 0:
                self._progress(_TELL)
        self.done.entries += self._links.place(self._site)
        self._site.flush()
        self._keep_times()
        return self.done

    def _chosen(self, path: bytes) -> bool:
        return self._selection.takes(path) and path not in self._skip

    def _apply(self, difference: Difference) -> bool:
        now = difference.now
        try:
            if now is None:
                self._remove(difference)
            elif now.is_dir:
                self._directory(difference, now)
            elif self._is_attributes_only(difference):
                self._redress(difference.path, now)
            elif self._links.takes(difference.path, now):
                pass
            else:
                # Now, so that what cannot have a directory is left out, not the batch stopped.
                os.close(self._reach(difference.path.rpartition(b"/")[0]))
                made = temporary_name()
                flags = self._duplicator.make(now, self._site.fd, made)
                size = now.st.st_size if stat.S_ISREG(now.st.st_mode) else 0
                self.done.copied += size
                self._site.add(made, difference.path, size, flags)
        except _NoDirectory:
            return False
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

    def _directory(self, difference: Difference, now: Node) -> None:
        path, was = difference.path, difference.was
        if was is None or not was.is_dir:
            self._make_directory(path, now)
            return
        fd = self._reach(path)
        try:
            self._duplicator.dress(now, fd, replace=True)
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
        was = self._view.find(self._was_root, path)
        if self._alone or (was is not None and was.is_dir):
            return False
        below = self._below(path)
        return below is not None and below.is_dir

    def _below(self, path: bytes) -> Node | None:
        """What the bottoms below the changed one show at ``path``, whatever that one has there."""
        above, _, name = path.rpartition(b"/")
        parent = self._view.find(self._was_root, above)
        if self._alone or parent is None or not parent.is_dir:
            return None
        lower = tuple(place for place in parent.places if place.layer > _BOTTOM)
        with OpenDirectory(self._view, lower) as directory:
            return directory.lookup(name)

    def _keep_times(self) -> None:
        """Give directories the times that the top has: entries came and went since."""
        pending = [b""]
        while pending:
            path = pending.pop()
            with self._view.layers[0].directory(path) as fd:
                if path and self._chosen(path):
                    self._copy_times(path, os.fstat(fd))
                with os.scandir(fd) as found:
                    before = path + b"/" if path else b""
                    pending += [
                        before + os.fsencode(entry.name)
                        for entry in found
                        if entry.is_dir(follow_symlinks=False)
                    ]

    def _copy_times(self, path: bytes, st: os.stat_result) -> None:
        try:
            fd = self._bottom.open_dir(path)
        except OSError as error:
            if error.errno in VANISHED:
                return  # left out, or it shows nothing of its own
            raise
        try:
            if os.fstat(fd).st_mtime_ns != st.st_mtime_ns:
                set_times(fd, st)
        finally:
            os.close(fd)

    # -------------------------------------------------------------------- entries

    def _remove(self, difference: Difference) -> None:
        path = difference.path
        above, _, name = path.rpartition(b"/")
        fd = self._reach(above)
        try:
            if self._below(path) is not None:
                # A directory that was in the way is in the site now, to be removed at the end.
                write_whiteout(fd, name, self._view.family, work_fd=self._site.fd)
            elif difference.was is not None and difference.was.is_dir:
                os.rename(name, temporary_name(), src_dir_fd=fd, dst_dir_fd=self._site.fd)
            else:
                os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)

    @staticmethod
    def _is_attributes_only(difference: Difference) -> bool:
        """Whether it can be done to the bottom's file itself, for it has no other name."""
        was, change = difference.was, difference.change
        if was is None or change.kind is not Kind.CHANGED or Aspect.CONTENT in change.what:
            return False
        return was.places[0].layer == _BOTTOM and was.st.st_nlink == 1

    def _redress(self, path: bytes, now: Node) -> None:
        with self._bottom.parent(path) as (dirfd, name):
            fd = syscalls.open_beneath(dirfd, name, os.O_PATH)
        try:
            self._duplicator.dress(now, fd, replace=True)
        finally:
            os.close(fd)


class _NoDirectory(Exception):
    """Something else is where a directory would have to be, and was not chosen to go."""
