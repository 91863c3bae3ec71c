"""Forked processes that do together what nobody knows the size of beforehand.

Each does a batch at a time, and answers with what it made and what it left to do.  They
share the descriptors of their parent, and end with it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from overlay import syscalls
from overlay.errors import OperationFailed

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["cores", "work_off"]

Batch = TypeVar("Batch")
Answer = TypeVar("Answer")


def cores() -> int:
    """How many processes can run at once."""
    return len(os.sched_getaffinity(0))


def work_off(
    begin: Callable[[], Callable[[Batch], Answer]],
    count: int,
    take: Callable[[], Batch | None],
    account: Callable[[Batch, Answer], None],
) -> None:
    """Have ``count`` processes do all batches, until ``take`` has none and nobody is at one.

    ``begin`` is called in each and gives what does a batch; ``account`` hears of what was
    done, and may find more for ``take`` (which says None where there is none just now).
    What fails in a process is raised here, OperationFailed where it was killed.  No process
    is left behind.
    """
    with _started(begin, count) as crew:
        while True:
            while crew.idle and (batch := take()) is not None:
                crew.give(batch)
            if not crew.busy:
                return
            for done, answer in crew.answers():
                account(done, answer)


class _Crew(Generic[Batch, Answer]):
    def __init__(self) -> None:
        self.pids: list[int] = []
        self.idle: list[Connection] = []
        self.busy: dict[Connection, Batch] = {}

    def start(self, begin: Callable[[], Callable[[Batch], Answer]]) -> None:
        # What ends before any helper is started should not wait for this import.
        from multiprocessing.connection import Pipe

        ours, theirs = Pipe()
        pid = os.fork()
        if pid == 0:
            # Whatever happens, only this function's caller may go on as the parent.
            try:
                for other in [ours, *self.idle]:
                    other.close()
                _work(begin, theirs)
            finally:
                os._exit(0)
        theirs.close()
        self.pids.append(pid)
        self.idle.append(ours)

    def give(self, batch: Batch) -> None:
        helper = self.idle.pop()
        self.busy[helper] = batch
        helper.send(batch)

    def answers(self) -> Iterator[tuple[Batch, Answer]]:
        from multiprocessing.connection import wait

        for helper in cast("list[Connection]", wait(list(self.busy))):
            try:
                answer = helper.recv()
            except (EOFError, ConnectionResetError):
                raise OperationFailed(
                    "a process that did part of the work was killed",
                    hint="is there enough memory? Run it again",
                ) from None
            if isinstance(answer, Exception):
                raise answer
            self.idle.append(helper)
            yield self.busy.pop(helper), answer

    def end(self) -> None:
        for helper in (*self.idle, *self.busy):
            helper.close()
        for pid in self.pids:
            if self.busy:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@contextmanager
def _started(
    begin: Callable[[], Callable[[Batch], Answer]], count: int
) -> Iterator[_Crew[Batch, Answer]]:
    crew: _Crew[Batch, Answer] = _Crew()
    try:
        for _ in range(count):
            crew.start(begin)
        yield crew
    finally:
        crew.end()


def _work(begin: Callable[[], Callable[[Batch], Answer]], parent: Connection) -> None:
    """A helper's life: it ends when its parent closes the connection, or dies."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    do = begin()
    while True:
        try:
            batch = parent.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            parent.send(do(batch))
        except BrokenPipeError:
            return
        except Exception as error:
            parent.send(error)
