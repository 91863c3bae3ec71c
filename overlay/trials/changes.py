"""What a trial changed: the differences of its tops, by the places in the system.

For an ordinary user a top begins above what is the user's own, at directories that were only
made to get there (:mod:`overlay.trials.plan`).  Those are no changes, and nothing can be
committed in them; so there each of the user's directories counts as a tree by itself.
"""

from __future__ import annotations

import os

from overlay.lighttyping import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlay.differences.difference import Change
    from overlay.trials.plan import Piece
    from overlay.trials.trial import Trial

__all__ = ["Part", "changes", "is_empty", "parts"]


class Part(NamedTuple):
    """A tree of the system, at ``path``, and the ``top`` with what the trial changed there.

    ``work`` is the work directory of the top that it is a part of.
    """

    path: str
    top: str
    work: str

    def full(self, change: Change) -> Change:
        """A change with its path from the system's root."""
        prefix = os.fsencode(self.path).strip(b"/")
        if not prefix:
            return change
        return change._replace(path=prefix + b"/" + change.path)


def parts(trial: Trial) -> list[Part]:
    """The trees in which something may have changed.  They live as long as ``trial.store``."""
    store = f"/proc/self/fd/{trial.store}"
    found: list[Part] = []
    for piece in trial.pieces:
        whole = Part(piece.path, f"{store}/{piece.name}/top", f"{store}/{piece.name}/work")
        if piece.mode is None:
            found.append(whole)
        else:
            found += _own(piece, whole, frozenset(way for way, _ in piece.ways))
    return [part for part in found if not is_empty(part.top)]


def is_empty(top: str) -> bool:
    """Whether a top holds nothing at all."""
    with os.scandir(top) as entries:
        return next(entries, None) is None


def _own(piece: Piece, part: Part, ways: frozenset[str]) -> list[Part]:
    if os.access(part.path, os.W_OK):
        return [part]
    found, others = [], False
    with os.scandir(part.top) as entries:
        for entry in entries:
            inner = Part(os.path.join(part.path, entry.name), entry.path, part.work)
            relative = os.path.relpath(inner.path, piece.path)
            way = relative in ways or any(each.startswith(relative + "/") for each in ways)
            if way or (
                entry.is_dir(follow_symlinks=False)
                and os.path.isdir(inner.path)
                and os.access(inner.path, os.W_OK)
            ):
                found += _own(piece, inner, ways)
            else:
                others = True
    # What lies directly in a directory of somebody else, such as a file of the user's own.
    return [part] if others else found


def changes(trial: Trial) -> Iterator[tuple[Part, Change]]:
    """All changes, part by part; their paths are from the system's root.

    OSError with a file name for what cannot be read.
    """
    found = parts(trial)
    if not found:
        return
    # Most commands change nothing; these take half as long to import as a trial takes.
    from overlay.differences.changes import diff
    from overlay.layer import Layer
    from overlay.markvalues import MarkFamily

    for part in found:
        with Layer.open(part.top) as top, Layer.open(part.path, private=True) as bottom:
            for change in diff(top, [bottom], MarkFamily(trial.family)):
                yield part, part.full(change)
