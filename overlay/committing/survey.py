"""The look at all layers before a commit changes anything: conflicts, and what there is to do."""

from __future__ import annotations

from dataclasses import dataclass, field

from overlay.committing.conflicts import Conflict, Conflicts
from overlay.committing.safety import LiveLayers
from overlay.committing.settling import elsewhere
from overlay.committing.steps import Kept, pack, steps
from overlay.differences.changes import Difference, chosen
from overlay.selection import Selection
from overlay.view import Node, View

__all__ = ["Survey", "survey"]


@dataclass(frozen=True, slots=True)
class Survey:
    """What a look at the layers found.  ``away`` reads from elsewhere, and is to be settled."""

    conflicts: list[Conflict] = field(default_factory=list)
    away: list[tuple[bytes, Node]] = field(default_factory=list)


def survey(
    view: View,
    selection: Selection,
    conflicts: Conflicts,
    live: LiveLayers | None = None,
    kept: Kept | None = None,
) -> Survey:
    """Look at everything; the steps that follow go to ``kept``.

    Refused where a chosen change is in a layer of a ``live`` overlay.
    """

    def look(found: list[Difference]) -> tuple[Survey, bytes]:
        part = Survey()
        for each in found:
            read = elsewhere(each)
            if read is not None:
                part.away.append(read)
            if not selection.takes(each.path):
                continue
            if live is not None:
                live.refuse(each)
            clash = conflicts.find(each)
            if clash is not None:
                part.conflicts.append(clash)
        return part, b"" if kept is None else pack(steps(found, selection))

    whole = Survey()
    for part, packed in chosen(view, look):
        whole.conflicts.extend(part.conflicts)
        whole.away.extend(part.away)
        if kept is not None:
            kept.add(packed)
    return whole
