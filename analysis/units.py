"""Names from traces, fit for people and pictures; times and sizes are in :mod:`overlay.text`."""

from __future__ import annotations

from overlay.text import human_time, printable

__all__ = ["human_time", "label"]


def label(name: object, width: int = 44) -> str:
    """A name from a trace, fit for a picture: printable, and its middle cut if it is long."""
    text = printable(str(name))
    if len(text) <= width:
        return text
    head = width // 3
    return f"{text[:head]}…{text[head + 1 - width :]}"
