"""A walk over a tree by all processors, whose results come in order.

A worker takes one directory, walks on from there until it has seen its budget, and returns
what it found with the directories it has not come to, in their places.  What is nearest to
the front is given out first, so that little has to wait for its turn in memory.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from overlay import syscalls
from overlay.errors import OperationFailed

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["Result", "Task", "Walker", "ordered"]

#: Below this a fork costs more than it saves.
_ALONE: Final = 2_000
_BUDGET: Final = 5_000
#: How far from the front work is given out.
_AHEAD: Final = 64


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

    def walk(self, what: Any, budget: int) -> list[Result | Task]:
        """Walk from ``what`` until ``budget`` was seen; what was found and is left, in order."""


def ordered(walker: Walker, root: Any, workers: int) -> Generator[Any]:
    """The values of all results below ``root``, in order, found by up to ``workers`` processes."""
    pending = list(reversed(walker.walk(root, _ALONE)))
    pool: _Pool | None = None
    try:
        while pending:
            item = pending[-1]
            if isinstance(item, Result):
                pending.pop()
                yield item.value
            elif item.found is not None:
                pending.pop()
                pending.extend(reversed(item.found))
            else:
                pool = pool or _Pool(walker, workers)
                pool.give(pending)
                pool.collect()
    finally:
        if pool is not None:
            pool.end()


class _Pool:
    def __init__(self, walker: Walker, workers: int) -> None:
        self._idle: list[Connection] = []
        self._busy: dict[Connection, Task] = {}
        self._pids: list[int] = []
        self._walker = walker
        try:
            for _ in range(workers):
                self._start()
        except BaseException:
            self.end()
            raise

    def give(self, pending: list[Result | Task]) -> None:
        """Give the idle workers what is nearest to the front, the end of ``pending``."""
        for item in reversed(pending[-_AHEAD:]):
            if not self._idle:
                return
            if isinstance(item, Task) and not item.given:
                item.given = True
                worker = self._idle.pop()
                worker.send(item.what)
                self._busy[worker] = item

    def collect(self) -> None:
        """Wait until a worker is done, and keep what it found."""
        from multiprocessing.connection import wait

        for ready in cast("list[Connection]", wait(list(self._busy))):
            try:
                answer = ready.recv()
            except (EOFError, ConnectionResetError):
                raise OperationFailed(
                    "a process that read the layers was killed",
                    hint="is there enough memory? Run it again",
                ) from None
            if isinstance(answer, BaseException):
                raise answer
            self._busy.pop(ready).found = [
                Task(value) if is_task else Result(value) for is_task, value in answer
            ]
            self._idle.append(ready)

    def _start(self) -> None:
        # Small layers need none of it, and it takes longer to import than they to be read.
        from multiprocessing.connection import Pipe

        ours, theirs = Pipe()
        pid = os.fork()
        if pid == 0:
            # Whatever happens, only this function's caller may go on as the parent.
            try:
                for other in (ours, *self._idle):
                    other.close()
                _work(self._walker, theirs)
            finally:
                os._exit(0)
        theirs.close()
        self._pids.append(pid)
        self._idle.append(ours)

    def end(self) -> None:
        """Leave no worker behind, whether all is done or not."""
        for connection in (*self._idle, *self._busy):
            connection.close()
        for pid in self._pids:
            if self._busy:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _work(walker: Walker, parent: Connection) -> None:
    """A worker's life: it ends when its parent closes the connection, or dies."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Nothing in a walk refers to itself, and the collector would look at all that was found.
    gc.disable()
    walker.own_process()
    while True:
        try:
            what = parent.recv()
        except (EOFError, ConnectionResetError):
            return
        answer: Any
        try:
            found = walker.walk(what, _BUDGET)
            answer = [
                (True, each.what) if isinstance(each, Task) else (False, each.value)
                for each in found
            ]
        except Exception as error:
            answer = error
        try:
            parent.send(answer)
        except BrokenPipeError:
            return
