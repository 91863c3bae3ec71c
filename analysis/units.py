"""Durations and names as people read them (sizes: :func:`overlay.text.human_bytes`)."""

from __future__ import annotations

import math

from overlay.text import printable

__all__ = ["human_time", "label"]


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


def label(name: object, width: int = 44) -> str:
    """A name from a trace, fit for a picture: printable, and its middle cut if it is long."""
    text = printable(str(name))
    if len(text) <= width:
        return text
    head = width // 3
    return f"{text[:head]}…{text[head + 1 - width :]}"
