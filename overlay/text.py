"""Turning the kernel's bytes and figures into text people and JSON parsers can take.

File names are bytes.  Inside the program they travel as ``bytes`` or as ``str``
with surrogate escapes (:func:`os.fsdecode`); neither can be printed safely, so
everything that leaves the program as text goes through :func:`printable`.
"""

from __future__ import annotations

import math
import os

from overlay.lighttyping import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["all_printable", "file_of", "human_bytes", "human_time", "printable"]


def printable(path: str | bytes | os.PathLike[str]) -> str:
    """``path`` as one line of valid Unicode.

    Control characters, line separators and bytes that are not UTF-8 become
    ``\\xHH`` (per byte), and a backslash is doubled whenever anything had to be
    escaped at all, so the text is unambiguous; an ordinary name is unchanged.
    """
    raw = path if isinstance(path, bytes) else os.fsencode(path)
    text = raw.decode("utf-8", "surrogateescape")
    if text.isprintable():
        return text
    return "".join(_escape(char) for char in text)


def all_printable(paths: Sequence[bytes]) -> list[str]:
    """Each of ``paths`` as :func:`printable`; of many, that costs a third."""
    try:
        # The blanks between them keep halves of a character apart.
        if b" ".join(paths).decode().isprintable():
            return [path.decode() for path in paths]
    except UnicodeDecodeError:
        pass
    return [printable(path) for path in paths]


def file_of(error: OSError) -> str | None:
    """The file that an error is about, printable; None where it has none, or a descriptor."""
    name = error.filename
    return None if name is None or isinstance(name, int) else printable(name)


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


def human_time(ns: float, *, trim: bool = False) -> str:
    """A duration with three digits and its unit: ``850 ns``, ``3.60 ms``, ``12.0 s``.

    ``trim`` drops zeros behind the point, for the marks of a scale: ``1 ms``.
    """
    if not math.isfinite(ns):
        return "–"
    for unit, scale in (("ns", 1e3), ("µs", 1e3), ("ms", 1e3), ("s", 60.0), ("min", 60.0)):
        if abs(ns) < scale * 0.9995:
            return f"{ns:.0f} {unit}" if unit == "ns" else f"{_digits(ns, trim)} {unit}"
        ns /= scale
    return f"{_digits(ns, trim)} h"


def _digits(value: float, trim: bool) -> str:
    if value == 0 or abs(value) >= 99.95:
        return f"{value:.0f}"
    text = f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
    return text.rstrip("0").rstrip(".") if trim else text
