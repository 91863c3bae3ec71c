"""What processes that check a top tell each other: where to go on, and what was found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from overlay.checking.below import Spot
from overlay.checking.rules import Finding

__all__ = ["Claim", "Harvest", "Visit"]


class Visit(NamedTuple):
    """A directory of the top to look into, and what its parent's visit found out about it.

    ``spots`` is what it merges with, the rest its own marks.
    """

    path: bytes
    spots: tuple[Spot, ...]
    opaque: bool
    xattr_whiteouts: bool
    impure: bool


class Claim(NamedTuple):
    """``path`` of the top reads from ``spot`` because a redirect says so; ``inode`` is its own."""

    spot: Spot
    path: bytes
    is_dir: bool
    inode: int


@dataclass(slots=True)
class Harvest:
    """What a walk brought in; picklable."""

    findings: list[Finding] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    entries: int = 0
    stubs: bool = False

    def add(self, other: Harvest) -> None:
        """Take over what another walk found."""
        self.findings += other.findings
        self.claims += other.claims
        self.entries += other.entries
        self.stubs = self.stubs or other.stubs
