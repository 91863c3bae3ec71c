"""Directory copyup ahead of time: ``fallthru prime`` (document L528–L536, docs/fallthru.md).

Merged directories of a top that is not mounted become opaque, with a fallthru for every
entry that only bottoms have.  The union shows the same at each moment.  What the top does
not have yet is built in the work directory and appears by one rename; in a directory that
the top has, entries appear one by one and the opaque mark comes last.  A run that was
killed leaves nothing to be seen, and the next one goes on.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from overlay import marks, syscalls
from overlay.errors import UsageError
from overlay.hardlinks import ELSEWHERE, settle
from overlay.helpers import cores
from overlay.markvalues import escape_attribute, visible_xattrs
from overlay.priming.bottomlist import FAMILY, Source, visible
from overlay.priming.crew import fill_all
from overlay.priming.fallthrus import Filler, Task, dress_directory, set_impure
from overlay.staging import Stage, forget_times, keep_times, primed_layers, remember_times
from overlay.topwalk import Spot, TopWalk, parse_path
from overlay.view import View

__all__ = ["LeftMerged", "PrimeReport", "prime"]


@dataclass(frozen=True, slots=True)
class LeftMerged:
    """A directory (path from the union's root) that was not copied up, and why."""

    path: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class PrimeReport:
    """What was made: ``directories`` that were copied up, ``entries`` in them.

    ``already`` counts directories that were copied up before.
    """

    directories: int
    entries: int
    already: int
    left: tuple[LeftMerged, ...]


def prime(
    top: str,
    bottoms: Sequence[str],
    paths: Iterable[str | bytes] = (),
    *,
    recursive: bool = False,
    exact_inodes: bool = False,
    work: str | None = None,
    jobs: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> PrimeReport:
    """Copy up the directories ``paths`` of the union of ``top`` and ``bottoms``.

    No paths means the root, which makes sense only with ``recursive``: overlayfs merges
    the root always.  With ``exact_inodes`` readdir tells the same inode numbers as stat,
    and is much slower for it.  ``jobs`` is how many processes may work (default: all cores);
    ``progress`` hears how many entries were made since it was last called.  Raises
    TopInUse while the top is mounted, UsageError for what is no directory of the union,
    and what mounting the layers would raise.
    """
    chosen = [parse_path(path) for path in paths] or [b""]
    if not recursive and b"" in chosen:
        raise UsageError(
            "the root of a union is always merged",
            hint="name directories in it, or use --recursive",
        )
    with primed_layers(top, bottoms, work) as layers:
        walk = TopWalk(layers.top, View(layers.bottoms, FAMILY))
        run = _Run(walk, layers.stage, exact_inodes, jobs or cores(), progress)
        return run.prime(_without_nested(chosen) if recursive else chosen, recursive=recursive)


def _without_nested(paths: Sequence[bytes]) -> list[bytes]:
    kept: list[bytes] = []
    for path in sorted(set(paths)):
        if not any(not above or path == above or path.startswith(above + b"/") for above in kept):
            kept.append(path)
    return kept


@dataclass(slots=True)
class _Plan:
    """Directories to build aside, and such that the top has: parents before children."""

    aside: list[Spot] = field(default_factory=list)
    in_place: list[Spot] = field(default_factory=list)
    primed: list[Spot] = field(default_factory=list)
    left: list[LeftMerged] = field(default_factory=list)


class _Run:
    def __init__(
        self,
        walk: TopWalk,
        stage: Stage,
        exact: bool,
        jobs: int,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.walk = walk
        self.view = walk.bottoms
        self.top = walk.top
        self.stage = stage
        self.exact = exact
        self.jobs = jobs
        self.progress = progress

    def prime(self, paths: Sequence[bytes], *, recursive: bool) -> PrimeReport:
        for path in paths:
            # Before anything is changed: is each a directory?
            self.walk.locate(path)
        reports = [self._prime(path, recursive) for path in sorted(set(paths))]
        return PrimeReport(
            sum(report.directories for report in reports),
            sum(report.entries for report in reports),
            sum(report.already for report in reports),
            tuple(left for report in reports for left in report.left),
        )

    def _prime(self, path: bytes, recursive: bool) -> PrimeReport:
        for spot in self.walk.locate(path)[:-1]:
            self._appear(spot)
        plan = _Plan()
        self._plan(self.walk.locate(path)[-1], plan, recursive)
        made = self._build_aside(plan, recursive)
        also = self._fill_in_place(plan)
        for spot in plan.primed:
            self._drop_whiteouts(spot)
        left = tuple(sorted(plan.left, key=lambda each: each.path))
        return PrimeReport(made[0] + also[0], made[1] + also[1], len(plan.primed), left)

    def _appear(self, spot: Spot) -> None:
        """Have a directory of the bottoms on the top, so that one in it can be there."""
        if spot.st is not None:
            self._restore_times(spot)
            return
        assert spot.bottom is not None
        name, place = self.stage.new_directory(), spot.bottom.places[0]
        with (
            self.stage.directory(name) as fd,
            self.view.layers[place.layer].directory(place.path) as source,
        ):
            dress_directory(fd, source)
        self._install(spot, name)

    def _restore_times(self, spot: Spot) -> None:
        """Undo what a killed run may have done to a directory's times."""
        with self.top.directory(spot.path) as fd:
            forget_times(fd)

    # ------------------------------------------------------------------ planning

    def _plan(self, start: Spot, plan: _Plan, recursive: bool) -> None:
        pending = [start]
        while pending:
            spot = pending.pop()
            if spot.st is not None:
                self._restore_times(spot)
            if spot.copied_up:
                plan.primed.append(spot)
            elif not spot.path:
                plan.left.append(LeftMerged(b"", "overlayfs always merges the root"))
            elif spot.merged and self._is_empty(spot):
                plan.aside.append(spot)
                continue
            elif spot.merged:
                plan.in_place.append(spot)
            if recursive:
                pending += self.walk.directories_on_top(spot)
                if spot.merged:
                    pending += self._bottom_directories(spot)

    def _is_empty(self, spot: Spot) -> bool:
        """Whether nothing on the top would have to move: the directory can be exchanged."""
        # chattr flags are kept in a mark of their own, which an exchange would lose.
        return not spot.marks.others & {"protattr"} and not self.walk.on_top(spot)

    def _bottom_directories(self, spot: Spot) -> list[Spot]:
        assert spot.bottom is not None
        taken = {name for name, _, _ in self.walk.on_top(spot)}
        with visible(self.view, spot.bottom.places) as sources:
            names = [name for name, st, _ in sources if stat.S_ISDIR(st.st_mode)]
        found = (self.walk.child(spot, name) for name in names if name not in taken)
        return [child for child in found if child is not None]

    # ---------------------------------------------------------------- building aside

    def _build_aside(self, plan: _Plan, recursive: bool) -> tuple[int, int]:
        """Build what the top lacks, then let it appear; (directories, entries)."""
        if not plan.aside:
            return 0, 0
        filler = Filler(
            self.view, self.stage.fd, self.stage.fd, recursive=recursive, exact=self.exact
        )
        built = {self.stage.new_directory(): spot for spot in plan.aside}
        filled = fill_all(
            filler,
            [_task(spot, target=name) for name, spot in built.items()],
            self.jobs,
            self.progress,
        )
        settled = settle(filler, filled)
        for target, reason in settled.left.items():
            root, _, rest = target.partition(b"/")
            path = built[root].path
            plan.left.append(LeftMerged(path + b"/" + rest if rest else path, reason))
        for name, spot in built.items():
            with self.stage.directory(name) as fd:
                if name in settled.left and not os.listdir(fd):
                    continue
                if spot.st is not None:
                    self._keep_attributes(spot, fd)
            self._install(spot, name)
        return filled.directories - settled.demoted, filled.entries + settled.entries

    def _keep_attributes(self, spot: Spot, fd: int) -> None:
        """Where the top has the directory, it decides on its attributes, not the bottom."""
        for attribute in visible_xattrs(fd, None, FAMILY):
            os.removexattr(fd, escape_attribute(attribute, FAMILY))
        with self.top.directory(spot.path) as source:
            dress_directory(fd, source)

    def _install(self, spot: Spot, name: bytes) -> None:
        """Let a directory of the stage appear at ``spot``, whose own is empty or missing."""
        stage = self.stage.fd
        with self.top.parent(spot.path) as (parent, last), keep_times(parent):
            # A directory has the bottom's inode number as long as it is merged.
            set_impure(parent)
            if spot.st is None:
                syscalls.renameat2(stage, name, parent, last, syscalls.RENAME_NOREPLACE)
                return
            syscalls.renameat2(stage, name, parent, last, syscalls.RENAME_EXCHANGE)
            try:
                os.rmdir(name, dir_fd=stage)
            except OSError:
                # Not empty after all: somebody else writes to the top.  It must not go.
                syscalls.renameat2(stage, name, parent, last, syscalls.RENAME_EXCHANGE)
                raise

    # ------------------------------------------------------------- directories in sight

    def _fill_in_place(self, plan: _Plan) -> tuple[int, int]:
        """Copy up the directories that the top has; (directories, entries)."""
        todo: dict[bytes, tuple[Spot, Task]] = {}
        for spot in plan.in_place:
            task = _task(spot, target=spot.path, in_place=True)
            task = replace(task, skip=frozenset(name for name, _, _ in self.walk.on_top(spot)))
            with visible(self.view, task.places) as sources:
                if any(_has_links(source) and source[0] not in task.skip for source in sources):
                    plan.left.append(LeftMerged(spot.path, ELSEWHERE))
                    continue
            todo[spot.path] = spot, task
        if not todo:
            return 0, 0
        for path in todo:
            with self.top.directory(path) as fd:
                remember_times(fd)
                set_impure(fd)
        filler = Filler(self.view, self.top.fd, self.stage.fd)
        filled = fill_all(filler, [task for _, task in todo.values()], self.jobs, self.progress)
        failed = {task.target: reason for task, reason in filled.failed}
        for path, (spot, _) in todo.items():
            if path not in failed:
                self._complete(spot)
            self._restore_times(spot)
        plan.left += [LeftMerged(path, reason) for path, reason in failed.items()]
        return len(todo) - len(failed), filled.entries

    def _complete(self, spot: Spot) -> None:
        """Make a directory opaque in which everything has its entry by now."""
        assert spot.below is not None
        with self.top.directory(spot.path) as fd:
            for name, st, found in self.walk.on_top(spot):
                if found.whiteout is marks.Whiteout.XATTR:
                    # It would show once the directory's mark says opaque.
                    marks.write_whiteout(fd, name, FAMILY, work_fd=self.stage.fd)
                elif stat.S_ISDIR(st.st_mode):
                    child = self.walk.child(spot, name)
                    if child is not None and child.merged and child.below is not None:
                        marks.set_redirect(fd, FAMILY, b"/" + child.below, name)
                elif found.metacopy is not None and not (found.redirect or b"").startswith(b"/"):
                    to = b"/".join([b"", *filter(None, [spot.below, found.redirect or name])])
                    marks.set_redirect(fd, FAMILY, to, name)
            marks.set_redirect(fd, FAMILY, b"/" + spot.below)
            if not self.exact and "impure" not in spot.marks.others:
                marks.clear_mark(fd, FAMILY, "impure")
            marks.set_opaque(fd, FAMILY)
        self._drop_whiteouts(spot)

    def _drop_whiteouts(self, spot: Spot) -> None:
        """An opaque directory needs none, and would list their names."""
        whiteouts = [name for name, _, found in self.walk.on_top(spot) if found.whiteout]
        if whiteouts:
            with self.top.directory(spot.path) as fd, keep_times(fd):
                for name in whiteouts:
                    os.unlink(name, dir_fd=fd)


def _task(spot: Spot, *, target: bytes, in_place: bool = False) -> Task:
    assert spot.bottom is not None
    assert spot.below is not None
    return Task(spot.bottom.places, b"/" + spot.below, target, in_place=in_place)


def _has_links(source: Source) -> bool:
    return source[1].st_nlink > 1 and not stat.S_ISDIR(source[1].st_mode)
