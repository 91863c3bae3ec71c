"""Times and sizes as people write them on a command line: ``10s``, ``250us``, ``64M``.

Both functions serve as the ``type`` of an option.
"""

from __future__ import annotations

import re

import click

__all__ = ["duration", "size"]

_NS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "": 10**9,
    "s": 10**9,
    "m": 60 * 10**9,
    "min": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
}
_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def duration(text: str) -> int:
    """A time, in ns; a number alone is seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zµ]*)", text.strip())
    total = round(float(found[1]) * _NS.get(found[2], 0)) if found else 0
    if not total:
        raise click.BadParameter(f"{text!r} is not a time: write 250us, 10s, 5m, 1h or 7d")
    return total


def size(text: str) -> int:
    """A number of bytes, in binary units."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    total = round(float(found[1]) * _BYTES[found[2]]) if found else 0
    if not total:
        raise click.BadParameter(f"{text!r} is not a size: write 500K, 64M or 1G")
    return total
