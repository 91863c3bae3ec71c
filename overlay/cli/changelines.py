"""A change as commands print it: for scripts a line, for machines a record."""

from __future__ import annotations

from overlay.lighttyping import TYPE_CHECKING
from overlay.text import all_printable, printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from overlay.differences.difference import Change

__all__ = ["COLOURS", "LETTERS", "plain_lines", "record"]

#: One letter a kind, stable: scripts read them.
LETTERS: Final = {"added": "A", "changed": "C", "deleted": "D", "replaced": "R"}
COLOURS: Final = {"A": "green", "C": "yellow", "D": "red", "R": "magenta"}


def record(change: Change) -> dict[str, object]:
    """A change for JSON; paths as :func:`printable` shows them."""
    return {
        "path": printable(change.path),
        "kind": change.kind,
        "type": change.ftype,
        "size": change.size,
        "old_type": change.old_ftype,
        "old_size": change.old_size,
        "what": sorted(change.what),
        "metadata_only": change.metadata_only,
        "moved_from": None if change.moved_from is None else printable(change.moved_from),
        "gone": change.gone,
        "gone_bytes": change.gone_bytes,
        "links": change.links,
    }


def plain_lines(changes: Sequence[Change]) -> str:
    """Changes for scripts, a line each: letter, type, size, what, path, old path of a move."""
    lines = []
    paths = all_printable([change.path for change in changes])
    for change, path in zip(changes, paths, strict=True):
        letter = LETTERS[change.kind]
        if letter == "D":
            lines.append(f"D\t{change.old_ftype}\t{change.gone_bytes}\t-\t{path}\n")
            continue
        what = ",".join(sorted(change.what)) if change.what else "-"
        line = f"{letter}\t{change.ftype}\t{change.size}\t{what}\t{path}"
        if change.moved_from is not None:
            line += "\t" + printable(change.moved_from)
        lines.append(line + "\n")
    return "".join(lines)
