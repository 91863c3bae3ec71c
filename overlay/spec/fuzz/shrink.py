"""The shortest case that still shows a finding: delta debugging, bounded in time.

Steps go first, in ever smaller runs (Zeller and Hildebrandt's ddmin, from its end: what was
found was found by the last step); then entries of the layers, then what makes an entry
unusual.  A step or an entry stays only if the finding needs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from overlay.spec.fuzz.case import Case
from overlay.spec.fuzz.layers import OLD, Plant, rooted
from overlay.spec.fuzz.steps import Step

__all__ = ["shrink"]

T = TypeVar("T")


def shrink(case: Case, shows: Callable[[Case], bool], seconds: float) -> Case:
    """The smallest case found in ``seconds`` for which ``shows`` is still true."""
    deadline = time.monotonic() + seconds

    def holds(candidate: Case) -> bool:
        return time.monotonic() < deadline and shows(candidate)

    before = None
    while before != case:
        before = case
        case = _with_fewer_steps(case, holds)
        for number in range(len(case.bottoms)):
            case = _with_less_in(case, number, holds)
        case = _by_root(case, holds)
    return case


def _with_fewer_steps(case: Case, holds: Callable[[Case], bool]) -> Case:
    steps = _fewer(case.steps, lambda steps: holds(replace(case, steps=tuple(steps))))
    return replace(case, steps=tuple(steps))


def _with_less_in(case: Case, number: int, holds: Callable[[Case], bool]) -> Case:
    def using(plants: Sequence[Plant]) -> Case:
        bottoms = list(case.bottoms)
        bottoms[number] = rooted(plants)
        return replace(case, bottoms=tuple(bottoms))

    plants = list(_fewer(case.bottoms[number], lambda plants: holds(using(plants))))
    for at, entry in enumerate(plants):
        for plain in _plainer(entry):
            candidate = [*plants[:at], plain, *plants[at + 1 :]]
            if holds(using(candidate)):
                plants = candidate
                break
    return using(plants)


def _plainer(entry: Plant) -> list[Plant]:
    """The entry with less about it, the plainest first."""
    mode = 0o755 if entry.kind == "dir" else 0o644
    content = b"old" if entry.kind == "file" and entry.content else entry.content
    plain = replace(entry, content=content, mode=mode, owner=(0, 0), xattrs=(), mtime_ns=OLD)
    ways = [
        plain,
        replace(plain, mode=entry.mode),
        replace(plain, xattrs=entry.xattrs),
        replace(plain, owner=entry.owner),
        replace(entry, content=content),
        replace(entry, xattrs=()),
        replace(entry, mode=mode),
        replace(entry, owner=(0, 0)),
    ]
    ways += [
        replace(entry, xattrs=entry.xattrs[:at] + entry.xattrs[at + 1 :])
        for at in range(len(entry.xattrs))
    ]
    return [way for way in ways if way != entry]


def _by_root(case: Case, holds: Callable[[Case], bool]) -> Case:
    """Let root do what need not be done by somebody else."""
    steps = list(case.steps)
    for at, step in enumerate(steps):
        if step.user != "root":
            candidate = [
                *steps[:at],
                Step("root", step.operation, step.arguments),
                *steps[at + 1 :],
            ]
            if holds(replace(case, steps=tuple(candidate))):
                steps = candidate
    return replace(case, steps=tuple(steps))


def _fewer(items: Sequence[T], holds: Callable[[Sequence[T]], bool]) -> Sequence[T]:
    size = max(len(items) // 2, 1)
    while True:
        at = len(items) - size
        while at > -size:
            start = max(at, 0)
            shorter = [*items[:start], *items[start + size :]]
            if len(shorter) < len(items) and holds(shorter):
                items = shorter
            at -= size
        if size == 1:
            return items
        size //= 2
