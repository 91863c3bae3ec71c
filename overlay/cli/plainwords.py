"""The command line of ``fallthru try`` read without click, where it is made of plain words.

Only what is spelled out is taken: whole options with their values as words of their own, and
the command.  All else (help, ``--keep=DIR``, abbreviations, mistakes) is click's to read and
to explain, and a test holds both to the same answers.
"""

from __future__ import annotations

from overlay.cli.wishes import Asked, Wishes
from overlay.lighttyping import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

__all__ = ["trial"]

_FLAGS: Final = {
    "--commit": "commit",
    "--discard": "discard",
    "--yes": "yes",
    "--json": "as_json",
}
_LISTS: Final = {"--only": "only", "--except": "without", "--share": "shared"}


def trial(arguments: Sequence[str]) -> Asked | None:
    """What ``fallthru try ARGUMENTS`` asks for; None if click has to find out."""
    flags = dict.fromkeys(_FLAGS.values(), False)
    lists: dict[str, list[str]] = {name: [] for name in _LISTS.values()}
    keep = None
    left = list(reversed(arguments))
    while left and left[-1].startswith("-"):
        option = left.pop()
        if option == "--":
            break
        if option in _FLAGS:
            flags[_FLAGS[option]] = True
            continue
        if not left or left[-1].startswith("-"):
            return None
        if option in _LISTS:
            lists[_LISTS[option]].append(left.pop())
        elif option == "--keep":
            keep = left.pop()
        else:
            return None
    if not left:
        return None
    wishes = Wishes(**flags, keep=keep, only=tuple(lists["only"]), without=tuple(lists["without"]))
    return Asked(tuple(reversed(left)), wishes, shared=tuple(lists["shared"]))
