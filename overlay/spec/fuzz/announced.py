"""What may differ: the departures of the catalogue that speak of fuzzing.

The engine keeps the document almost whole; where it does not, or where the document leaves
a choice, its own departures count as much as the target's.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Self

from overlay.spec import catalogue

__all__ = ["BOTTOM_LINKS", "Announcements"]

#: What ``leaves-out`` calls files of the bottom with several names, which are no step.
BOTTOM_LINKS = "bottom links"


class Announcements:
    """The patterns that concern one target: of differences, and of steps to leave out."""

    def __init__(self, explained: list[tuple[str, str]], left_out: list[tuple[str, str]]) -> None:
        """Pairs of a pattern and the id of the clause that it stands with."""
        self._explained = explained
        self._left_out = left_out
        self._known: dict[str, str | None] = {}

    @classmethod
    def of(
        cls,
        name: str,
        features: frozenset[str],
        clauses: tuple[catalogue.Clause, ...] | None = None,
    ) -> Self:
        """Those of the target called ``name``, and the engine's own."""
        explained, left_out = [], []
        for clause in catalogue.load() if clauses is None else clauses:
            for departure in clause.departures:
                if departure.concerns(name, features) or (
                    departure.target == "engine" and departure.concerns("engine", frozenset())
                ):
                    explained += [(pattern, clause.id) for pattern in departure.fuzz]
                    left_out += [(pattern, clause.id) for pattern in departure.leaves_out]
        return cls(explained, left_out)

    def explains(self, text: str) -> str | None:
        """The clause that announces a difference with this text, if one does."""
        if text not in self._known:
            self._known[text] = _first(self._explained, text)
        return self._known[text]

    def leaves_out(self, step: str) -> str | None:
        """The clause because of which a step is not taken, if there is one."""
        return _first(self._left_out, step)


def _first(patterns: list[tuple[str, str]], text: str) -> str | None:
    return next((clause for pattern, clause in patterns if fnmatchcase(text, pattern)), None)
