"""Turning the kernel's bytes into text people and JSON parsers can take.

File names are bytes.  Inside the program they travel as ``bytes`` or as ``str``
with surrogate escapes (:func:`os.fsdecode`); neither can be printed safely, so
everything that leaves the program as text goes through :func:`printable`.
"""

from __future__ import annotations

import os

__all__ = ["human_bytes", "printable"]


def printable(path: str | bytes | os.PathLike[str]) -> str:
    """``path`` as one line of valid Unicode.

    Control characters, line separators and bytes that are not UTF-8 become
    ``\\xHH`` (per byte), and a backslash is doubled whenever anything had to be
    escaped at all, so the text is unambiguous; an ordinary name is unchanged.
    """
    raw = os.fsencode(path)
    text = raw.decode("utf-8", "surrogateescape")
    if text.isprintable():
        return text
    return "".join(_escape(char) for char in text)


def _escape(char: str) -> str:
    if char == "\\":
        return "\\\\"
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def human_bytes(count: int | float) -> str:
    """A size in binary units, as ``ls -h`` would show it: ``0 B``, ``4.0 KiB``, ``1.2 GiB``."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
