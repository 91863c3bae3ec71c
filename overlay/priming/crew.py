"""Filling directories with fallthrus on all cores.

The calling process begins alone and starts helpers only for what takes longer than they
do to start.  They are forked, so they share the descriptors of the layers, and they die
with their parent: a killed run leaves nobody behind that still makes entries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from overlay.helpers import work_off
from overlay.priming.fallthrus import BUDGET, Filled, Filler, Task

__all__ = ["fill_all"]

Progress = Callable[[int], None]


def fill_all(
    filler: Filler, tasks: Iterable[Task], jobs: int, progress: Progress | None = None
) -> Filled:
    """Do ``tasks`` and all that follows from them, in up to ``jobs`` processes.

    ``progress`` is called with the number of entries made since the last call.
    """
    filler.share = jobs
    ledger = _Ledger(tasks, progress)
    while ledger.pending and (jobs == 1 or not ledger.worth_helpers):
        batch = ledger.take(1)
        ledger.account(batch, filler.work(batch))
    if ledger.pending:
        _with_helpers(filler, ledger, jobs)
    return ledger.total


class _Ledger:
    """What is to do and what was done; a directory in parts is finished after the last."""

    def __init__(self, tasks: Iterable[Task], progress: Progress | None) -> None:
        self.pending = deque(tasks)
        self.total = Filled()
        self._progress = progress
        self._parts: dict[bytes, int] = {}

    @property
    def worth_helpers(self) -> bool:
        return self.total.entries >= BUDGET or bool(self._parts)

    def take(self, count: int) -> list[Task]:
        return [self.pending.popleft() for _ in range(count)]

    def account(self, batch: list[Task], filled: Filled) -> None:
        self.total.add(filled)
        if self._progress is not None and filled.entries:
            self._progress(filled.entries)
        left = set()
        for task in filled.todo:
            if task.part is not None:
                left.add((task.target, task.part))
                self._parts.setdefault(task.target, task.part[1])
        self.pending.extend(filled.todo)
        for task in batch:
            if task.part is None or (task.target, task.part) in left:
                continue
            self._parts[task.target] -= 1
            if not self._parts[task.target]:
                del self._parts[task.target]
                self.pending.append(replace(task, part=None, finish=True))


def _with_helpers(filler: Filler, ledger: _Ledger, jobs: int) -> None:
    def begin() -> Callable[[list[Task]], Filled]:
        filler.in_helper()
        return filler.work

    def take() -> list[Task] | None:
        count = max(1, min(64, len(ledger.pending) // (2 * jobs)))
        return ledger.take(count) if ledger.pending else None

    work_off(begin, jobs, take, ledger.account)
