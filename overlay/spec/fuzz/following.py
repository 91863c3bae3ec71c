"""What has to follow from an answer that the engine would not have given.

Where an announced answer has parted engine and target, the target is held to its own word:
a failed call has changed nothing, a rename has moved the same tree.
"""

from __future__ import annotations

import os
from typing import Final

from overlay import syscalls
from overlay.spec.fuzz.answers import Answer, failed
from overlay.spec.fuzz.steps import Step
from overlay.spec.fuzz.trees import Seen, Tree, kind_of

__all__ = ["following", "named", "path_of"]

_LINKS: Final = 40  # as many as the kernel follows, then it is ELOOP


def named(path: str, tree: Tree) -> bytes:
    """A path of a step as ``tree`` calls it; a symlink at its end is not followed."""
    at: list[bytes] = []
    left = os.fsencode(path or "?").rstrip(b"/").split(b"/")[::-1]
    follows = _LINKS
    while left:
        name = left.pop()
        seen = tree.get(b"/".join((b".", *at, name)))
        if name == b"..":
            at = at[:-1]
        elif left and follows and kind_of(seen) == "symlink":
            follows -= 1
            left += _target(seen).split(b"/")[::-1]
        elif name not in (b"", b"."):
            at.append(name)
    return b"/".join((b".", *at))


def _target(seen: Seen | str | None) -> bytes:
    return seen.content if isinstance(seen, Seen) and isinstance(seen.content, bytes) else b""


def path_of(step: Step, tree: Tree) -> bytes:
    """The file that a step is about, as ``tree`` calls it."""
    at = 1 if step.operation == "symlink" else 0
    return named(step.arguments[at], tree)


def following(step: Step, before: Tree, mine: Answer, theirs: Answer) -> Tree | None:
    """What the target has to show after an answer that was announced; None if who knows."""
    if failed(theirs):
        return before
    if step.operation != "rename" or not failed(mine):
        return None
    old, new = (named(path, before) for path in step.arguments[:2])
    flags = step.arguments[2]
    moves = [(old, new)] + ([(new, old)] if flags & syscalls.RENAME_EXCHANGE else [])
    ends = [end for pair in moves for end in pair]
    tree = {
        path: seen for path, seen in before.items() if not any(_below(path, end) for end in ends)
    }
    for start, end in moves:
        tree |= {
            end + path.removeprefix(start): seen
            for path, seen in before.items()
            if _below(path, start)
        }
    return _modified(tree, [os.path.dirname(old), os.path.dirname(new)])


def _below(path: bytes, start: bytes) -> bool:
    return path == start or path.startswith(start + b"/")


def _modified(tree: Tree, directories: list[bytes]) -> Tree:
    for path in directories:
        seen = tree.get(path)
        if seen is not None and not isinstance(seen, str):
            tree[path] = seen._replace(time=-1)
    return tree
