"""A change as commands print it: for scripts a line, for machines a record."""

from __future__ import annotations

from overlay.lighttyping import TYPE_CHECKING
from overlay.text import printable

if TYPE_CHECKING:
    from typing import Final

    from overlay.differences.difference import Change

__all__ = ["COLOURS", "LETTERS", "plain_line", "record"]

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


def plain_line(change: Change) -> str:
    """A change for scripts: letter, type, size, what, path, and the old path of a move."""
    deleted = change.kind == "deleted"
    fields = [
        LETTERS[change.kind],
        str(change.old_ftype if deleted else change.ftype),
        str(change.gone_bytes if deleted else change.size),
        ",".join(sorted(change.what)) or "-",
        printable(change.path),
    ]
    if change.moved_from is not None:
        fields.append(printable(change.moved_from))
    return "\t".join(fields)
