"""A walk over a top by all processors: forked workers that hand back what is too much.

Nobody knows beforehand how large a subtree is, so it is never asked: a worker takes some
directories, walks until it has seen its budget of entries, and returns the directories it
has not come to.  That keeps all processors busy and every message small.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe, wait
from typing import Final

from overlay.checkharvest import Harvest, Visit
from overlay.checkwalk import Walker
from overlay.errors import OperationFailed

__all__ = ["walk_all"]

#: Below this a fork costs more than it saves.
_ALONE: Final = 2_000
_BUDGET: Final = 10_000
_BATCH: Final = 64


def walk_all(make: Callable[[bool], Walker], workers: int) -> Harvest:
    """Walk a whole top with up to ``workers`` processes; findings in no particular order.

    ``make`` gives a walker, told whether its process is its own to change directory in.
    """
    walker = make(False)
    try:
        harvest, pending = walker.walk([walker.root()], _ALONE if workers > 1 else 1 << 62)
    finally:
        walker.below.close()
    if pending:
        _Pool(make, workers).run(pending, harvest)
    return harvest


class _Pool:
    def __init__(self, make: Callable[[bool], Walker], workers: int) -> None:
        self._make = make
        self._pids: list[int] = []
        self._idle: list[Connection] = []
        self._busy: list[Connection] = []
        self._workers = workers

    def run(self, pending: list[Visit], harvest: Harvest) -> None:
        """Work off ``pending``, adding to ``harvest``; no worker is left behind."""
        try:
            for _ in range(self._workers):
                self._start()
            while pending or self._busy:
                while pending and self._idle:
                    # No more than a fair share, so that nobody waits for the last one.
                    share = max(1, min(_BATCH, len(pending) // self._workers))
                    worker = self._idle.pop()
                    worker.send(pending[-share:])
                    del pending[-share:]
                    self._busy.append(worker)
                for ready in wait(self._busy):
                    assert isinstance(ready, Connection)
                    harvested, left = self._receive(ready)
                    harvest.add(harvested)
                    pending += left
                    self._busy.remove(ready)
                    self._idle.append(ready)
        finally:
            self._end()

    @staticmethod
    def _receive(worker: Connection) -> tuple[Harvest, list[Visit]]:
        try:
            answer = worker.recv()
        except (EOFError, ConnectionResetError):
            raise OperationFailed(
                "a process that read the top was killed",
                hint="is there enough memory? Run it again",
            ) from None
        if isinstance(answer, Exception):
            raise answer
        harvest, left = answer
        return harvest, left

    def _start(self) -> None:
        ours, theirs = Pipe()
        pid = os.fork()
        if pid == 0:
            # Whatever happens, only this function's caller may go on as the parent.
            try:
                for other in [ours, *self._idle]:
                    other.close()
                _work(self._make, theirs)
            finally:
                os._exit(0)
        theirs.close()
        self._pids.append(pid)
        self._idle.append(ours)

    def _end(self) -> None:
        for connection in [*self._idle, *self._busy]:
            connection.close()
        for pid in self._pids:
            if self._busy:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _work(make: Callable[[bool], Walker], parent: Connection) -> None:
    """A worker's life: it ends when its parent closes the connection, or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    walker = make(True)
    while True:
        try:
            pending = parent.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            parent.send(walker.walk(pending, _BUDGET))
        except BrokenPipeError:
            return
        except Exception as error:
            parent.send(error)
