"""Committing a top: what it changes is done to its bottom, or to a copy of it.

>>> commit("/srv/top", ["/srv/root"])

Whiteouts, opaque directories, redirects, metacopies and fallthrus are all resolved: the
bottom alone then shows what the union showed.  Every step leaves the union as it was, so a
run that is killed, or that finds no space, is simply repeated; nothing goes from the top
before the bottom was compared with it and is on the disk.  ``docs/commit.md`` tells more.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from overlay import syscalls, workdir
from overlay.committing.apply import Applied, Applier
from overlay.committing.conflicts import Conflict, Conflicts
from overlay.committing.safety import LiveLayers, require_writable
from overlay.committing.settling import settle
from overlay.committing.steps import Kept
from overlay.committing.survey import Survey, survey
from overlay.differences.changes import Difference, Kind, chosen
from overlay.differences.comparing import FileType
from overlay.duplicate import Duplicator, set_times
from overlay.emptying import empty, forget_index, take_off
from overlay.errors import OperationFailed, Refused, TopInUse
from overlay.inuse import top_in_use
from overlay.layer import Layer, first_fallthru_stub, open_beneath
from overlay.linkindex import IndexedView, LinkIndex
from overlay.locking import lock
from overlay.marks import MarkFamily
from overlay.newtree import new_tree
from overlay.selection import EVERYTHING, Selection
from overlay.site import Site, interrupted, opened
from overlay.staging import Stage, open_bottom, stage_in
from overlay.text import file_of, printable
from overlay.view import View

__all__ = [
    "CommitConflict",
    "Committed",
    "Conflict",
    "OnConflict",
    "Top",
    "commit",
    "commit_open",
    "discard",
]

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY

Progress = Callable[[int], None]


class OnConflict(StrEnum):
    """What to do where the bottom changed since: nothing at all, leave it so, overwrite it."""

    REFUSE = "refuse"
    KEEP = "keep"
    OVERWRITE = "overwrite"


class CommitConflict(Refused):
    """The bottom changed where the top does; nothing was done.  ``conflicts`` says where."""

    conflicts: tuple[Conflict, ...] = ()


@dataclass(frozen=True, slots=True)
class Committed:
    """What was done: ``entries`` put or removed, ``copied`` bytes of content.

    ``left`` are the chosen paths that were not committed, because of ``conflicts`` or since
    something not chosen is in the way.  ``emptied``: nothing is left on the top.
    """

    entries: int
    copied: int
    conflicts: tuple[Conflict, ...] = ()
    left: tuple[bytes, ...] = ()
    emptied: bool = False


@dataclass(frozen=True, slots=True)
class Top:
    """A top that nobody uses, open, and a stage in its work directory."""

    layer: Layer
    stage: Stage
    work_fd: int

    def index(self) -> int | None:
        """The index of hard links, if there is one; the descriptor is the caller's."""
        try:
            return open_beneath(self.work_fd, b"index", _DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return None


def commit(
    top: str,
    bottoms: Sequence[str],
    destination: str | None = None,
    *,
    work: str | None = None,
    data_bottoms: Sequence[str] = (),
    family: str = "trusted",
    select: Selection = EVERYTHING,
    on_conflict: OnConflict = OnConflict.REFUSE,
    keep_top: bool = False,
    verify: bool = True,
    progress: Progress | None = None,
) -> Committed:
    """Do what ``top`` changes to the uppermost of ``bottoms``, and take it off the top.

    With ``destination`` a new directory is made instead that holds the whole union, and
    layers stay as they are.  ``verify`` compares all content before anything goes from the
    top.  ``progress`` is told now and then how many more changes were made.

    Raises CommitConflict; Refused for a bottom that is read-only or in use, TopInUse,
    HostileMark; OperationFailed when it could not be finished: nothing is lost, the union
    shows the same, and the same call goes on.
    """
    with _to_be_repeated("commit"), ExitStack() as stack:
        opened_top = stack.enter_context(resting_top(top, work, family))
        lower = [stack.enter_context(open_bottom(path)) for path in bottoms]
        data = [stack.enter_context(open_bottom(path)) for path in data_bottoms]
        view = View([opened_top.layer, *lower], MarkFamily(family), data)
        run = _Commit(view, opened_top, select, on_conflict, progress)
        stack.callback(run.close)
        if destination is None:
            require_writable(lower[0])
            return run.in_place(LiveLayers(lower[0]), keep_top=keep_top, verify=verify)
        return run.as_copy(destination)


def commit_open(
    top: Top, bottom: Layer, *, family: MarkFamily, select: Selection = EVERYTHING
) -> Committed:
    """:func:`commit` for layers that are open, and whose top only the caller has.

    The bottom may be the running system, which live overlays have to put up with anyway.
    """
    with _to_be_repeated("commit"), ExitStack() as stack:
        require_writable(bottom)
        run = _Commit(View([top.layer, bottom], family), top, select, OnConflict.REFUSE, None)
        stack.callback(run.close)
        return run.in_place(None, keep_top=False, verify=True)


def discard(top: str, *, work: str | None = None, family: str = "trusted") -> int:
    """Empty a top that nobody uses; how many entries its root had.  The bottoms show then."""
    with _to_be_repeated("discarding"), resting_top(top, work, family) as opened_top:
        count = empty(opened_top.layer, opened_top.stage)
        forget_index(opened_top.work_fd)
        return count


@contextmanager
def _to_be_repeated(what: str) -> Iterator[None]:
    """What fails half-way can be done again."""
    try:
        yield
    except OSError as error:
        file = file_of(error)
        where = "" if file is None else f" ({file})"
        raise OperationFailed(
            f"the {what} could not be finished{where}",
            hint="nothing is lost; run it again to go on",
            errno=error.errno or 0,
        ) from error


@contextmanager
def resting_top(top: str, work: str | None, family: str) -> Iterator[Top]:
    """Open a top that no overlay and no other run uses; TopInUse else."""
    with ExitStack() as stack:
        layer = stack.enter_context(Layer.open(top))
        if top_in_use(top, family):
            raise TopInUse(f"the top {printable(top)} is mounted", hint="unmount it first")
        beside = work or workdir.beside(os.path.realpath(top))
        made = workdir.make(beside)
        below = stack.enter_context(Layer.open(beside))
        if not lock(below.fd):
            raise TopInUse(
                f"another run is changing the top {printable(top)}",
                hint="wait until it is done",
                errno=errno.EBUSY,
            )
        workdir.check(beside, os.fstat(below.fd), os.fstat(layer.fd))
        stage = stack.enter_context(stage_in(below.fd))
        yield Top(layer, stage, below.fd)
    if made:
        with suppress(OSError):
            os.rmdir(beside)


class _Commit:
    """One commit, over open layers."""

    def __init__(
        self,
        view: View,
        top: Top,
        selection: Selection,
        on_conflict: OnConflict,
        progress: Progress | None,
    ) -> None:
        self._view = view
        self._top = top
        self._closing = ExitStack()
        self._selection = selection
        self._on_conflict = on_conflict
        self._progress = progress

    def close(self) -> None:
        self._closing.close()

    def in_place(self, live: LiveLayers | None, *, keep_top: bool, verify: bool) -> Committed:
        self._refuse_deep_fallthrus()
        bottom = self._view.layers[1]
        kept = self._closing.enter_context(Kept(self._top.work_fd))
        found = self._survey(live, kept, resumed=interrupted(bottom))
        with opened(bottom, {"top": printable(self._top.layer.path)}) as site:
            settle(self._view, self._top.layer, self._top.stage, found.away)
            # The bottom may be on another disk, which may be the only one to know of a change.
            syscalls.syncfs(self._top.layer.fd)
            # What was settled is another difference now.
            still = None if found.away else kept
            applied = self._apply(self._view, bottom, site, found.conflicts, still)
            site.sync()
            if verify:
                self._verify(applied)
            emptied = False if keep_top else self._take_off(applied)
        return self._result(applied, found.conflicts, emptied)

    def as_copy(self, destination: str) -> Committed:
        found = self._survey(None, None, resumed=False)
        skip = self._skipped(found.conflicts)
        whole = self._selection.everything and not skip
        with new_tree(destination) as (fd, name):
            duplicator = Duplicator(self._view)
            # The root is the bottom's own: a top's says nothing about it.
            root = self._view.root(1)
            if whole:
                shown = self._indexed().root(0)
                count = Duplicator(self._indexed()).tree(shown, fd, name, like=root)
                return Committed(count, 0)
            duplicator.tree(root, fd, name)
            copy = Layer(open_beneath(fd, name, _DIRECTORY), destination)
            with copy:
                view = View([self._view.layers[0], copy], self._view.family)
                with opened(copy, {}) as site:
                    settle(self._view, self._top.layer, self._top.stage, found.away)
                    applied = self._apply(view, copy, site, found.conflicts)
                set_times(copy.fd, root.st)
        return self._result(applied, found.conflicts, emptied=False)

    # ----------------------------------------------------------------------- steps

    def _refuse_deep_fallthrus(self) -> None:
        """What reads from a lower bottom through the changed one would be covered by it."""
        if self._view.merged == 2:
            return
        found = first_fallthru_stub(self._top.layer.fd, self._view.family)
        if found is not None:
            raise Refused(
                f"{printable(found)} of the top reads from one of several bottoms",
                hint="commit into a new directory with -o, or squash the bottoms first",
            )

    def _survey(self, live: LiveLayers | None, kept: Kept | None, *, resumed: bool) -> Survey:
        """Look at everything before anything is changed; CommitConflict as was chosen."""
        conflicts = self._closing.enter_context(Conflicts(self._view, resumed=resumed))
        found = survey(self._view, self._selection, conflicts, live, kept)
        if found.conflicts and self._on_conflict is OnConflict.REFUSE:
            count, first = len(found.conflicts), found.conflicts[0]
            error = CommitConflict(
                f"{count} change{'s' if count > 1 else ''} would overwrite what is "
                f"newer on the bottom, as {printable(first.newer)}",
                hint="--on-conflict keep leaves the bottom's, overwrite takes the top's",
            )
            error.conflicts = tuple(found.conflicts)
            raise error
        return found

    def _skipped(self, conflicts: Sequence[Conflict]) -> frozenset[bytes]:
        if self._on_conflict is OnConflict.OVERWRITE:
            return frozenset()
        return frozenset(each.path for each in conflicts)

    def _apply(
        self,
        view: View,
        bottom: Layer,
        site: Site,
        conflicts: Sequence[Conflict],
        kept: Kept | None = None,
    ) -> Applied:
        index = self._top.index()
        try:
            applier = Applier(
                view,
                bottom,
                site,
                selection=self._selection,
                skip=self._skipped(conflicts),
                index_fd=index,
                progress=self._progress,
            )
            return applier.run(kept)
        finally:
            if index is not None:
                os.close(index)

    def _verify(self, applied: Applied) -> None:
        """The union and the bottom alone have to be the same now, byte by byte."""

        def look(found: list[Difference]) -> list[bytes]:
            return [
                each.path
                for each in found
                # An opaque directory stays another one than the bottom's, and shows the same.
                if not _is_same_directory(each)
                and self._selection.takes(each.path)
                and each.path not in applied.left
            ]

        for paths in chosen(self._view, look, checksum=True):
            for path in paths:
                raise OperationFailed(
                    f"{printable(path)} is not on the bottom as it is on the top",
                    hint="nothing was taken off the top; was the bottom changed meanwhile?",
                )

    def _take_off(self, applied: Applied) -> bool:
        top = self._top
        if self._selection.everything and not applied.left:
            empty(top.layer, top.stage)
            forget_index(top.work_fd)
            return True

        def goes(path: bytes) -> bool:
            if not self._selection.takes(path) or path in applied.hiding:
                return False
            return not any(
                path == each or path.startswith(each + b"/") or each.startswith(path + b"/")
                for each in applied.left
            )

        take_off(top.layer, top.stage, self._view.family, goes)
        return not os.listdir(top.layer.fd)

    def _indexed(self) -> View:
        """The view in which all names of a file with several lead to its copy."""
        view = self._view
        layers = view.layers[: view.merged]
        index = LinkIndex.existing(self._top.work_fd, layers[1:], len(view.layers), view.family)
        if index is None:
            return view
        self._closing.callback(index.close)
        return IndexedView(layers, view.family, view.layers[view.merged :], index)

    @staticmethod
    def _result(applied: Applied, conflicts: Sequence[Conflict], emptied: bool) -> Committed:
        left = tuple(sorted(applied.left))
        return Committed(applied.entries, applied.copied, tuple(conflicts), left, emptied)


def _is_same_directory(difference: Difference) -> bool:
    change = difference.change
    if change.kind is not Kind.REPLACED:
        return False
    is_dir = change.ftype == change.old_ftype == FileType.DIRECTORY
    return is_dir and not change.what and change.moved_from is None
