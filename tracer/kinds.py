"""What is traced, and how it came out: the words of the trace for the probes' numbers."""

from __future__ import annotations

from typing import Final

__all__ = ["KINDS", "OUTCOMES"]

#: By ``enum span_kind`` of probes/common.h.
KINDS: Final = (
    *("copyup", "lookup", "readdir"),
    *("open", "rename", "unlink", "rmdir", "mkdir", "setattr"),
)

#: By ``enum outcome`` of probes/operations.c.  Of a lookup: where the name was found, or why
#: it was not.  Of a readdir: whether the list was merged for it, was there already, or is one
#: layer's own.  Of other operations: whether something was copied up in them.
OUTCOMES: Final = (
    *(None, "top", "bottom", "merged", "whiteout", "opaque", "absent", "error"),
    *("cached", "plain", "copyup", "alone"),
)
