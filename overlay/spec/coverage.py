"""Which clauses hold which lines of the document, and which lines set no rule.

The document's text is not part of this repository; its 708 lines are, as numbers:
each is held by a clause or declared not normative in ``coverage.toml``, never both.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from typing import Any

from overlay.spec.catalogue import DOCUMENT_LINES, Clause

__all__ = ["Stretch", "lines_of", "load", "stretches"]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Lines ``first`` to ``last``, held by ``clauses`` or, if by none, not normative: ``why``."""

    first: int
    last: int
    clauses: tuple[str, ...]
    why: str = ""

    @property
    def lines(self) -> str:
        """``119`` or ``90-92``."""
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    def as_json(self) -> dict[str, Any]:
        return {"lines": self.lines, "clauses": list(self.clauses), "why": self.why}


def lines_of(ranges: Sequence[str]) -> set[int]:
    """The line numbers in ranges such as ``119`` and ``90-92``."""
    found: set[int] = set()
    for text in ranges:
        first, _, last = text.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def load() -> dict[str, str]:
    """The ranges that are declared not normative, and why."""
    text = (resources.files("overlay.spec") / "coverage.toml").read_text("utf-8")
    return {entry["lines"]: entry["why"] for entry in tomllib.loads(text)["not-normative"]}


def stretches(clauses: Sequence[Clause]) -> list[Stretch]:
    """The whole document in order; ValueError names the lines held by nothing, or twice over."""
    why: dict[int, str] = {}
    for lines, reason in load().items():
        # A range stays one stretch, though its neighbour may have the same reason.
        why |= dict.fromkeys(lines_of([lines]), reason)
    holders: dict[int, list[str]] = {}
    for clause in clauses:
        for line in sorted(lines_of(clause.lines)):
            holders.setdefault(line, []).append(clause.id)
    both = sorted(holders.keys() & why.keys())
    neither = sorted(set(range(1, DOCUMENT_LINES + 1)) - holders.keys() - why.keys())
    if both or neither:
        raise ValueError(f"lines held and yet not normative: {both}; held by nothing: {neither}")

    def held(line: int) -> tuple[tuple[str, ...], str]:
        return tuple(holders.get(line, ())), why.get(line, "")

    found = []
    for (names, reason), group in groupby(range(1, DOCUMENT_LINES + 1), key=held):
        numbers = list(group)
        found.append(Stretch(numbers[0], numbers[-1], names, reason))
    return found
