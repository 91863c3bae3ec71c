"""Choosing paths by pattern: what a commit, a copy or an archive is to take.

A pattern is a shell's: ``*`` and ``?`` stop at a slash, ``**`` does not, ``[…]`` is one of
several.  One without a slash means a name anywhere, one with a slash a path from the
root.  What matches a directory matches all that is in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from overlay.errors import UsageError
from overlay.text import printable

__all__ = ["EVERYTHING", "Selection", "select"]

_CLASS = re.compile(rb"\[(!?)([^\]]+)\]")


@dataclass(frozen=True, slots=True)
class Selection:
    """Paths that match ``only`` (None: all do) and do not match ``without``."""

    only: re.Pattern[bytes] | None = None
    without: re.Pattern[bytes] | None = None

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return self.only is None and self.without is None

    def takes(self, path: bytes) -> bool:
        """Whether ``path`` (from the root, no leading slash) is chosen."""
        if self.only is not None and not self.only.match(path):
            return False
        return self.without is None or not self.without.match(path)


EVERYTHING = Selection()


def select(only: Iterable[str | bytes] = (), without: Iterable[str | bytes] = ()) -> Selection:
    """The paths that match any pattern of ``only``, if there is one, and none of ``without``."""
    return Selection(_any_of(only), _any_of(without))


def _any_of(patterns: Iterable[str | bytes]) -> re.Pattern[bytes] | None:
    parts = [_translate(os.fsencode(pattern)) for pattern in patterns]
    # What follows a match is a slash or nothing: the thing itself, or something in it.
    return re.compile(rb"(?s:(?:" + b"|".join(parts) + rb")(?:/.*)?)\Z") if parts else None


def _translate(pattern: bytes) -> bytes:
    stripped = pattern.strip(b"/")
    if not stripped:
        raise UsageError(f"the pattern “{printable(pattern)}” names nothing")
    anywhere = b"" if b"/" in pattern.rstrip(b"/") else rb"(?:.*/)?"
    parts, at = [], 0
    while at < len(stripped):
        found = _CLASS.match(stripped, at)
        if stripped.startswith(b"**", at):
            # ``a/**/b`` is ``a/b`` as well.
            slash = stripped.startswith(b"**/", at) and (at == 0 or stripped[at - 1 : at] == b"/")
            parts.append(rb"(?:.*/)?" if slash else b".*")
            at += 3 if slash else 2
        elif found is not None:
            inner = found[2].replace(b"\\", b"\\\\").replace(b"[", b"\\[").replace(b"^", b"\\^")
            parts.append(b"[" + (b"^/" if found[1] else b"") + inner + b"]")
            at = found.end()
        else:
            char = stripped[at : at + 1]
            parts.append({b"*": b"[^/]*", b"?": b"[^/]"}.get(char, re.escape(char)))
            at += 1
    return anywhere + b"".join(parts)
