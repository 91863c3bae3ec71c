"""Taking directory copyup back: ``fallthru prime --undo``.

An opaque directory that was copied up is merged again: first whatever its bottoms have
and it lacks gets a whiteout, then the opaque mark goes, then one by one the fallthrus
that nobody has touched.  What differs from the bottom in content or attributes is user
data and stays.  The union shows the same at each moment.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from overlay import marks, syscalls
from overlay.markvalues import visible_xattrs
from overlay.priming.bottomlist import FAMILY, Source, visible
from overlay.staging import forget_times, keep_times, primed_layers
from overlay.topwalk import Spot, TopWalk, parse_path
from overlay.view import View

__all__ = ["UndoReport", "undo"]


@dataclass(frozen=True, slots=True)
class UndoReport:
    """``directories`` that are merged again, ``entries`` removed, and fallthrus ``kept``.

    Those that are kept have other attributes than the bottom, or another name outside.
    """

    directories: int
    entries: int
    kept: int


def undo(
    top: str,
    bottoms: Sequence[str],
    paths: Iterable[str | bytes] = (),
    *,
    recursive: bool = False,
    work: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> UndoReport:
    """Merge the directories ``paths`` again; with ``recursive`` all below them, too.

    No paths means the root.  Raises what :func:`overlay.priming.prime.prime` does.
    """
    chosen = [parse_path(path) for path in paths] or [b""]
    with primed_layers(top, bottoms, work) as layers:
        walk = TopWalk(layers.top, View(layers.bottoms, FAMILY))
        run = _Undo(walk, progress)
        for path in chosen:
            run.undo(path, recursive=recursive)
        return UndoReport(run.directories, run.entries, run.kept)


@dataclass(frozen=True, slots=True)
class _Visit:
    spot: Spot
    parent: Spot | None


class _Undo:
    def __init__(self, walk: TopWalk, progress: Callable[[int], None] | None) -> None:
        self.walk = walk
        self.top = walk.top
        self.progress = progress
        self.directories = 0
        self.entries = 0
        self.kept = 0
        self._merged_again: set[bytes] = set()
        self._linked: dict[int, list[tuple[bytes, bytes]]] = defaultdict(list)

    def undo(self, path: bytes, *, recursive: bool) -> None:
        way = self.walk.locate(path)
        above = [_Visit(*pair) for pair in zip(way[1:], way, strict=False)]
        # Parents first: below a merged directory a child needs no redirect of its own.
        pending = [above.pop() if above else _Visit(way[0], None)]
        found = []
        while pending:
            visit = pending.pop()
            if visit.spot.st is None:
                continue
            found.append(visit)
            self._directory(visit)
            if recursive:
                children = self.walk.directories_on_top(visit.spot)
                pending += [_Visit(child, visit.spot) for child in children]
        self._drop_links()
        if not recursive:
            # Its subdirectories stay as they are, save those that are fallthrus.
            found += self._fallthru_directories(way[-1])
        for visit in reversed([*above, *found]):
            self._drop_directory(visit)

    def _directory(self, visit: _Visit) -> None:
        spot = visit.spot
        with self.top.directory(spot.path) as fd:
            forget_times(fd)
            if spot.bottom is None or not (spot.copied_up or spot.merged):
                return
            with keep_times(fd), visible(self.walk.bottoms, spot.bottom.places) as sources:
                if spot.copied_up:
                    self._merge(spot, fd, sources)
                self._clean(spot, fd, sources)
            if visit.parent is not None and not self._is_opaque(visit.parent):
                _drop_default_redirect(fd, visit.parent, spot)

    def _fallthru_directories(self, parent: Spot) -> list[_Visit]:
        if parent.st is None or self._is_opaque(parent):
            return []
        found = [child for child in self.walk.directories_on_top(parent) if child.merged]
        for child in found:
            with self.top.directory(child.path) as fd:
                _drop_default_redirect(fd, parent, child)
        return [_Visit(child, parent) for child in found]

    def _is_opaque(self, spot: Spot) -> bool:
        return spot.marks.opaque and spot.path not in self._merged_again

    def _merge(self, spot: Spot, fd: int, sources: list[Source]) -> None:
        """Let the bottoms be seen in the directory again."""
        taken = set(map(os.fsencode, os.listdir(fd)))
        for name, _, _ in sources:
            if name not in taken:
                marks.write_whiteout(fd, name, FAMILY)
        marks.clear_mark(fd, FAMILY, "opaque")
        self._merged_again.add(spot.path)
        self.directories += 1

    def _clean(self, spot: Spot, fd: int, sources: list[Source]) -> None:
        """Remove the fallthrus of a merged directory, except those that somebody touched."""
        removed = 0
        below = {source[0]: source for source in sources}
        for name, st, found in self.walk.on_top(spot):
            source = below.get(name)
            if source is None or not self._is_fallthru(spot, fd, (name, st, fd), found, source):
                continue
            if not _same((name, st, fd), source):
                self.kept += 1
            elif st.st_nlink > 1:
                self._linked[st.st_ino].append((spot.path, name))
            else:
                os.unlink(name, dir_fd=fd)
                removed += 1
        self.entries += removed
        if self.progress is not None and removed:
            self.progress(removed)

    def _is_fallthru(
        self, spot: Spot, fd: int, entry: Source, found: marks.Marks, source: Source
    ) -> bool:
        """Whether an entry may have been made as a fallthru to ``source``."""
        name, st, _ = entry
        if stat.S_ISDIR(st.st_mode) or found.whiteout:
            return False
        if not stat.S_ISREG(st.st_mode):
            # What overlayfs itself copied up says where it came from.
            return FAMILY.attribute("origin") not in syscalls.listxattr(fd, name)
        if found.metacopy is None or found.metacopy.digest or found.redirect is None:
            return False
        if found.redirect == b"/" + _join(spot.below, name):
            return True
        if source[1].st_nlink == 1 or not found.redirect.startswith(b"/"):
            return False
        # One stub stands for all names of a file, and its redirect names one of them.
        node = self.walk.bottoms.find(self.walk.bottoms.root(), found.redirect[1:])
        return node is not None and os.path.samestat(node.st, source[1])

    def _drop_links(self) -> None:
        """Remove stubs with several names, if all names are fallthrus that were found."""
        for names in self._linked.values():
            nlink = self.top.lstat(_join(*names[0])).st_nlink
            if nlink != len(names):
                self.kept += len(names)
                continue
            for path, name in names:
                with self.top.directory(path) as fd, keep_times(fd):
                    os.unlink(name, dir_fd=fd)
            self.entries += len(names)
        self._linked.clear()

    def _drop_directory(self, visit: _Visit) -> None:
        """Remove a directory from the top that adds nothing to what is below it."""
        spot, parent = visit.spot, visit.parent
        if spot.st is None or spot.bottom is None or parent is None or self._is_opaque(parent):
            return
        place = spot.bottom.places[0]
        with self.top.parent(spot.path) as (above, name):
            st = os.stat(name, dir_fd=above, follow_symlinks=False)
            found = marks.read_marks(above, name, st, FAMILY)
            if found.opaque or found.redirect is not None or found.others - _KERNELS_OWN:
                return
            with (
                self.walk.bottoms.layers[place.layer].directory(place.path) as source,
                self.top.directory(spot.path) as fd,
            ):
                if os.listdir(fd) or not _same_attributes(st, os.fstat(source)):
                    return
                if visible_xattrs(fd, None, FAMILY) != visible_xattrs(source, None, FAMILY):
                    return
            with keep_times(above):
                os.rmdir(name, dir_fd=above)


#: Marks that overlayfs sets on directories by itself, whenever it looks at them.
_KERNELS_OWN: Final = frozenset({"origin", "impure", "uuid"})


def _drop_default_redirect(fd: int, parent: Spot, spot: Spot) -> None:
    """A directory that is merged by its name needs no redirect."""
    found = marks.read_marks(fd, None, os.fstat(fd), FAMILY)
    name = spot.path.rpartition(b"/")[2]
    if not found.opaque and found.redirect == b"/" + _join(parent.below, name):
        marks.clear_mark(fd, FAMILY, "redirect")


def _join(above: bytes | None, name: bytes) -> bytes:
    return above + b"/" + name if above else name


def _same(entry: Source, source: Source) -> bool:
    """Whether an entry of the top is what the bottom shows, attributes and all."""
    (name, st, fd), (below_name, below, below_fd) = entry, source
    if not _same_attributes(st, below) or st.st_rdev != below.st_rdev:
        return False
    if st.st_size != below.st_size:
        return False
    if stat.S_ISLNK(st.st_mode) and os.readlink(name, dir_fd=fd) != os.readlink(
        below_name, dir_fd=below_fd
    ):
        return False
    return visible_xattrs(fd, name, FAMILY) == visible_xattrs(below_fd, below_name, FAMILY)


def _same_attributes(st: os.stat_result, below: os.stat_result) -> bool:
    if (st.st_mode, st.st_uid, st.st_gid) != (below.st_mode, below.st_uid, below.st_gid):
        return False
    # A file system may keep times to the second only.
    return st.st_mtime_ns in (below.st_mtime_ns, below.st_mtime_ns // 10**9 * 10**9)
