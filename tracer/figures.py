"""Figures in the commands' output: what shows them, and bars."""

from __future__ import annotations

from collections.abc import Callable

from overlay.text import human_bytes, human_time

__all__ = ["amount", "bar"]

_EIGHTHS = " ▏▎▍▌▋▊▉"


def amount(is_time: bool) -> Callable[[int], str]:
    """What shows a figure: ns, or bytes."""
    return human_time if is_time else human_bytes


def bar(share: float, width: int) -> str:
    """A bar of at most ``width`` characters; what is not nothing shows."""
    eighths = max(round(share * width * 8), int(share > 0))
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[rest] if rest else "")
