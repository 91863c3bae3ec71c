"""Text as a manual page: the little of man(7) that the pages need."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["Page", "escape"]


def escape(text: str) -> str:
    """Text that means itself: backslashes, dashes, and what would be a request."""
    plain = text.replace("\\", "\\e").replace("-", "\\-")
    plain = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in plain)
    return re.sub(r"^([.'])", r"\\&\1", plain, flags=re.MULTILINE)


class Page:
    """A page that grows from top to bottom."""

    def __init__(self, name: str, section: int, what: str) -> None:
        self._lines = [
            f'.TH {escape(name.upper())} {section} "" "fallthru" "fallthru"',
            ".SH NAME",
            f"{escape(name)} \\- {escape(what)}",
        ]

    def section(self, title: str) -> None:
        self._lines.append(f'.SH "{escape(title.upper())}"')

    def subsection(self, title: str) -> None:
        self._lines.append(f'.SS "{escape(title)}"')

    def paragraph(self, text: str) -> None:
        self._lines += [".PP", escape(" ".join(text.split()))]

    def terms(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Words in bold, each with what it means."""
        for term, meaning in pairs:
            self._lines += [".TP", f"\\fB{escape(term)}\\fR", escape(" ".join(meaning.split()))]

    def verbatim(self, text: str) -> None:
        self._lines += [".PP", ".EX", escape(text.rstrip()), ".EE"]

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"
