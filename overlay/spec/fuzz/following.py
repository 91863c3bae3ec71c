"""What has to follow from an answer that the engine would not have given.

Where an announced answer has parted engine and target, the target is held to its own word:
a failed call has changed nothing, a rename has moved the same tree.
"""

from __future__ import annotations

import os

from overlay import syscalls
from overlay.spec.fuzz.answers import Answer, failed
from overlay.spec.fuzz.steps import Step
from overlay.spec.fuzz.trees import Tree

__all__ = ["following", "named", "path_of"]


def named(path: str) -> bytes:
    """A path of a step as trees call it, symlinks not followed."""
    normal = os.path.normpath(os.fsencode(path or "?"))
    return b"." if normal in (b".", b"..") else b"./" + normal


def path_of(step: Step) -> bytes:
    """The file that a step is about, as trees call it."""
    at = 1 if step.operation == "symlink" else 0
    return named(step.arguments[at])


def following(step: Step, before: Tree, mine: Answer, theirs: Answer) -> Tree | None:
    """What the target has to show after an answer that was announced; None if who knows."""
    if failed(theirs):
        return before
    if step.operation != "rename" or not failed(mine):
        return None
    old, new, flags = named(step.arguments[0]), named(step.arguments[1]), step.arguments[2]
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
