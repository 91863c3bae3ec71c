"""Redirects that contradict each other, or what is still at the old place.

A redirect is what a rename leaves: the thing is at the new place and a whiteout, or
something new, at the old one.  If the union shows the same thing of a bottom twice, one of
the two cannot be looked up while the other is in use: the kernel knows a bottom's inode by
one inode of the union only (ESTALE).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from overlay.checking.harvest import Claim
from overlay.checking.rules import Finding, finding
from overlay.marks import HostileMark
from overlay.text import printable
from overlay.view import Place, View

__all__ = ["contradictions"]


def contradictions(claims: Iterable[Claim], union: View) -> list[Finding]:
    """Findings for all claims that another one, or the place itself, contradicts.

    ``union`` is that of the top and the bottoms.  Of equals the first in the order of paths
    is taken to be right.
    """
    by_spot: dict[tuple[int, bytes], list[Claim]] = defaultdict(list)
    for claim in sorted(claims, key=lambda claim: claim.path):
        by_spot[claim.spot].append(claim)
    found = []
    for claim in (each for group in by_spot.values() for each in group):
        other = _elsewhere(claim, by_spot, union)
        if other is None:
            continue
        inside = claim.is_dir and claim.path.startswith(other + b"/")
        code = "redirect-loop" if inside else "redirect-duplicate"
        detail = f"also at {printable(other)}"
        found.append(finding(code, claim.path, detail, mark="dir" if claim.is_dir else "file"))
    return found


def _elsewhere(
    claim: Claim, by_spot: dict[tuple[int, bytes], list[Claim]], union: View
) -> bytes | None:
    """Another path at which the union shows what ``claim`` is about."""
    first = by_spot[claim.spot][0]
    # Hard links of one copied-up file share its redirect.
    if first is not claim and first.inode != claim.inode:
        return first.path
    # Where it would be without this claim, and below whatever else was moved.
    layer, path = claim.spot
    candidates = [path]
    names = path.split(b"/")
    for count in range(1, len(names)):
        above = b"/".join(names[:count])
        rest = b"/".join(names[count:])
        candidates += [each.path + b"/" + rest for each in by_spot.get((layer, above), ())]
    for candidate in candidates:
        if candidate != claim.path and _shows(union, candidate, claim):
            return candidate
    return None


def _shows(union: View, path: bytes, claim: Claim) -> bool:
    try:
        node = union.find(union.root(), path)
    except HostileMark:
        return False  # found by the walk already
    if node is None or node.is_dir != claim.is_dir:
        return False
    spot = Place(claim.spot.layer + 1, claim.spot.path)
    if claim.is_dir:
        return spot in node.places
    # A hard link of the same copied-up file is no contradiction.
    itself = node.places[0].layer == 0 and node.st.st_ino == claim.inode
    return spot in (node.data, *node.places) and not itself
