"""A walk over a tree by all processors, whose results come in order.

A worker takes some directories, walks on from there until it has seen its budget, and returns
what it found with the directories it has not come to, in their places.  What is nearest to
the front is given out first, so that little has to wait for its turn in memory.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import Any, Final, Protocol

from overlay.helpers import Crew

__all__ = ["Budget", "Result", "Task", "Walker", "ordered"]

#: Below this a fork costs more than it saves.
_ALONE: Final = 500
_BUDGET: Final = 5_000
#: How far from the front work is given out, and how much at once.
_AHEAD: Final = 64
_GIVEN: Final = 16


class Budget:
    """How much more may be seen; a walker takes from ``left`` what it has seen."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left


class Result:
    """Something found, to be handed on in its turn."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Task:
    """Something to be walked; ``found`` is what that gave, once it was done."""

    __slots__ = ("found", "given", "what")

    def __init__(self, what: Any) -> None:
        self.what = what
        self.given = False
        self.found: list[Result | Task] | None = None


class Walker(Protocol):
    """Walks in one process."""

    def own_process(self) -> None:
        """Told that the process is a worker, whose working directory is its own."""

    def walk(self, what: Any, budget: Budget) -> list[Result | Task]:
        """Walk from ``what`` while there is a budget; what was found and is left, in order."""


def ordered(walker: Walker, root: Any, workers: int) -> Generator[Any]:
    """The values of all results below ``root``, in order, found by up to ``workers`` processes."""
    pending = list(reversed(walker.walk(root, Budget(_ALONE))))
    crew: Crew[list[Task], list[_Sent]] | None = None
    with ExitStack() as stack:
        while pending:
            item = pending[-1]
            if isinstance(item, Result):
                pending.pop()
                yield item.value
            elif item.found is not None:
                pending.pop()
                pending.extend(reversed(item.found))
            else:
                if crew is None:
                    crew = stack.enter_context(Crew(lambda: _begin(walker), workers))
                _give(crew, pending, workers)
                for tasks, answer in crew.answers():
                    for task, found in zip(tasks, answer, strict=True):
                        task.found = [
                            Task(value) if is_task else Result(value) for is_task, value in found
                        ]


#: What one task gave: what it found, and what is left to be walked, with True.
_Sent = list[tuple[bool, Any]]


def _give(crew: Crew[list[Task], list[_Sent]], pending: list[Result | Task], workers: int) -> None:
    """Give the idle workers what is nearest to the front, the end of ``pending``."""
    if not crew.idle:
        return
    near = [
        each for each in reversed(pending[-_AHEAD:]) if isinstance(each, Task) and not each.given
    ]
    # No more than a part of a fair share, so that nobody waits for the last one.
    share = max(1, min(_GIVEN, len(near) // (2 * workers)))
    while crew.idle and near:
        tasks = near[:share]
        del near[:share]
        for task in tasks:
            task.given = True
        crew.give(tasks, [task.what for task in tasks])


def _begin(walker: Walker) -> Callable[[list[Any]], list[_Sent]]:
    # Nothing in a walk refers to itself, and the collector would look at all that was found.
    gc.disable()
    walker.own_process()

    def walk(given: list[Any]) -> list[_Sent]:
        budget = Budget(_BUDGET)
        answer: list[_Sent] = []
        for what in given:
            if budget.left <= 0:
                answer.append([(True, what)])
                continue
            found = walker.walk(what, budget)
            answer.append(
                [
                    (True, each.what) if isinstance(each, Task) else (False, each.value)
                    for each in found
                ]
            )
        return answer

    return walk
