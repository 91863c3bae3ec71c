"""Doing for real what a trial changed: all of it, or what is chosen.

Everything is looked at before anything is done, in all of the trial's parts: where the real
system changed since, nothing is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from overlay.committing.commit import CommitConflict, Committed, Top, commit_open
from overlay.committing.conflicts import Conflict, Conflicts
from overlay.differences.changes import differences
from overlay.errors import Refused
from overlay.layer import Layer
from overlay.markvalues import MarkFamily
from overlay.selection import Selection, select
from overlay.staging import stage_in
from overlay.text import printable
from overlay.trials.changes import Part, parts
from overlay.trials.trial import Trial
from overlay.view import View

__all__ = ["commit"]


@dataclass(frozen=True, slots=True)
class _Placed(Selection):
    """A choice of paths from the system's root, asked with paths from ``prefix``."""

    prefix: bytes = b""

    def takes(self, path: bytes) -> bool:
        # The short form of super() does not work in a class that slots made anew.
        return Selection.takes(self, self.prefix + path)


def commit(trial: Trial, *, only: Iterable[str] = (), without: Iterable[str] = ()) -> Committed:
    """Commit the changes of a trial that match any pattern of ``only``, and none of ``without``.

    Raises CommitConflict, with paths from the system's root, when anything chosen would
    overwrite what is newer; Refused for a part that the caller may not write.
    """
    chosen = select(only, without)
    family = MarkFamily(trial.family)
    work = [(part, _placed(chosen, part)) for part in parts(trial)]
    _refuse_conflicts(work, family)
    entries, copied, left = 0, 0, []
    for part, selection in work:
        with _opened(part) as (top, bottom):
            done = commit_open(top, bottom, family=family, select=selection)
        entries, copied = entries + done.entries, copied + done.copied
        left += [_full(part, path) for path in done.left]
    return Committed(entries, copied, left=tuple(left), emptied=not parts(trial))


def _placed(chosen: Selection, part: Part) -> _Placed:
    prefix = os.fsencode(part.path).strip(b"/")
    return _Placed(chosen.only, chosen.without, prefix + b"/" if prefix else b"")


def _full(part: Part, path: bytes) -> bytes:
    prefix = os.fsencode(part.path).strip(b"/")
    return prefix + b"/" + path if prefix else path


def _refuse_conflicts(work: list[tuple[Part, _Placed]], family: MarkFamily) -> None:
    found: list[Conflict] = []
    for part, selection in work:
        with Layer.open(part.top) as top, Layer.open(part.path, private=True) as bottom:
            view = View([top, bottom], family)
            with Conflicts(view, resumed=False) as conflicts:
                for each in differences(view):
                    if not selection.takes(each.path):
                        continue
                    if not os.access(part.path, os.W_OK):
                        raise Refused(
                            f"{printable(part.path)} may not be written, so "
                            f"{printable(_full(part, each.path))} cannot be committed",
                            hint="leave it out with --except, or keep the changes with --keep",
                        )
                    clash = conflicts.find(each)
                    if clash is not None:
                        found.append(Conflict(_full(part, clash.path), _full(part, clash.newer)))
    if found:
        names = ", ".join("/" + printable(each.newer) for each in found[:5])
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        error = CommitConflict(
            f"the system changed meanwhile where the trial did: {names}{more}",
            hint="leave these out with --except, or keep the changes with --keep DIR",
        )
        error.conflicts = tuple(found)
        raise error


@contextmanager
def _opened(part: Part) -> Iterator[tuple[Top, Layer]]:
    """The layers of a part; its work directory is beside its piece's top."""
    with Layer.open(part.top) as top, Layer.open(part.path, private=True) as bottom:
        work_fd = os.open(part.work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with stage_in(work_fd) as stage:
                yield Top(top, stage, work_fd), bottom
        finally:
            os.close(work_fd)
