"""Roots by name."""

from __future__ import annotations

import re

from overlay.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}")


def check_name(name: str) -> None:
    """UsageError unless ``name`` is a host name's first label, or a few of them."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a root", hint="letters, digits, dots and dashes, at most 63"
        )
