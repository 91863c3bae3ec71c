"""Forked processes that do together what nobody knows the size of beforehand.

Each does a batch at a time, and answers with what it made and what it left to do.  They
share the descriptors of their parent, and end with it.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, Generic, NamedTuple, TypeVar

from overlay import syscalls
from overlay.closing import Closing
from overlay.errors import OperationFailed

__all__ = ["Crew", "cores", "work_off"]

_PIPE: Final = 1 << 20

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
    with Crew[Batch, Answer](begin, count) as crew:
        while True:
            while crew.idle and (batch := take()) is not None:
                crew.give(batch, batch)
            if not crew.busy:
                return
            for done, answer in crew.answers():
                account(done, answer)


class _Helper(NamedTuple):
    """The ends of the two pipes to a process, whose number ``pid`` is."""

    pid: int
    work: Any
    answers: Any


class Crew(Closing, Generic[Batch, Answer]):
    """Processes that do one batch at a time each; close it, or use it in ``with``.

    ``begin`` is called in each of ``count`` and gives what does a batch, of which it is told
    something.
    """

    def __init__(self, begin: Callable[[], Callable[[Any], Answer]], count: int) -> None:
        self._all: dict[int, _Helper] = {}
        self._poll = select.poll()
        self.idle: list[_Helper] = []
        self.busy: dict[int, Batch] = {}
        try:
            for _ in range(count):
                self._start(begin)
        except BaseException:
            self.close()
            raise

    def _start(self, begin: Callable[[], Callable[[Any], Answer]]) -> None:
        # Pipes, for multiprocessing takes longer to import than most layers to be read.
        work, ours = os.pipe()
        theirs, answers = os.pipe()
        # Each time it is full another process has to run: few times, where that is allowed.
        with suppress(OSError):
            fcntl.fcntl(answers, fcntl.F_SETPIPE_SZ, _PIPE)
        pid = os.fork()
        if pid == 0:
            # Whatever happens, only this function's caller may go on as the parent.
            try:
                for fd in (ours, theirs):
                    os.close(fd)
                for other in self._all.values():
                    os.close(other.work.fileno())
                    os.close(other.answers.fileno())
                _work(begin, work, answers)
            finally:
                os._exit(0)
        for fd in (work, answers):
            os.close(fd)
        helper = _Helper(pid, os.fdopen(ours, "wb"), os.fdopen(theirs, "rb"))
        self._all[theirs] = helper
        self._poll.register(theirs, select.POLLIN)
        self.idle.append(helper)

    def give(self, batch: Batch, said: Any) -> None:
        """Have an idle process do ``batch``, which it is told as ``said``."""
        helper = self.idle.pop()
        self.busy[helper.answers.fileno()] = batch
        try:
            _say(helper.work, said)
        except BrokenPipeError:
            raise _killed() from None

    def answers(self) -> Iterator[tuple[Batch, Answer]]:
        """Wait until some are done; what they did, and what came of it."""
        for fd, _ in self._poll.poll():
            helper = self._all[fd]
            try:
                answer = pickle.load(helper.answers)
            except (EOFError, pickle.UnpicklingError):
                raise _killed() from None
            if isinstance(answer, Exception):
                raise answer
            self.idle.append(helper)
            yield self.busy.pop(fd), answer

    def close(self) -> None:
        """Leave no process behind, whether all is done or not."""
        for helper in self._all.values():
            # Something may be left in the buffer for one that was killed.
            with suppress(BrokenPipeError):
                helper.work.close()
            helper.answers.close()
        for helper in self._all.values():
            if self.busy:
                os.kill(helper.pid, signal.SIGKILL)
            os.waitpid(helper.pid, 0)


def _killed() -> OperationFailed:
    return OperationFailed(
        "a process that did part of the work was killed",
        hint="is there enough memory? Run it again",
    )


def _say(pipe: Any, what: object) -> None:
    pickle.dump(what, pipe, pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def _work(begin: Callable[[], Callable[[Any], Any]], work: int, answers: int) -> None:
    """A helper's life: it ends when its parent closes the pipe, or dies."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(work, "rb") as asked, open(answers, "wb") as told:
        do = begin()
        while True:
            try:
                batch = pickle.load(asked)
            except EOFError:
                return
            answer: Any
            try:
                answer = do(batch)
            except Exception as error:
                answer = error
            try:
                _say(told, answer)
            except BrokenPipeError:
                return
