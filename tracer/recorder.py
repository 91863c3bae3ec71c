"""``trace record``: a session whose spans go to a trace directory, until a command ends."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from overlay.errors import FallthruError, UsageError
from overlay.text import printable
from tracer.session import Session
from tracer.tracefile import TraceWriter

if TYPE_CHECKING:
    import pyarrow as pa

    from tracer.schema import RunMetadata

__all__ = ["Gated", "Outcome", "record"]

#: A part is closed after this many rows or seconds: what a crash can cost.
_PART_ROWS = 1 << 18
_PART_SECONDS = 10.0
_CHECK_SECONDS = 0.25


@dataclass(frozen=True)
class Outcome:
    """What a recording came to.  ``status`` is the command's exit status, shell fashion."""

    metadata: RunMetadata
    status: int
    failure: FallthruError | None


class Gated:
    """A child process that waits to be released before it becomes ``argv``.

    So that it can be put under observation before its first instruction.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = list(argv)
        gate_read, self._gate = os.pipe()
        self._report, report_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._gate)
            os.close(self._report)
            self._become(gate_read, report_write)
        os.close(gate_read)
        os.close(report_write)
        self._pidfd = os.pidfd_open(self.pid)
        self._status: int | None = None

    def _become(self, gate: int, report: int) -> None:
        try:
            if os.read(gate, 1):  # nothing: the parent gave up
                os.execvp(self._argv[0], self._argv)
        except OSError as error:
            os.write(report, str(error.errno).encode())
        finally:
            os._exit(127)

    def release(self) -> None:
        """Let it run.  Raises :class:`UsageError` when there is no such program."""
        os.write(self._gate, b"x")
        os.close(self._gate)
        self._gate = -1
        failed = os.read(self._report, 16)  # closed by exec when that works
        if failed:
            self.wait(None)
            raise UsageError(
                f"{printable(self._argv[0])} cannot be run",
                hint="give the command after --, as a shell would find it",
                errno=int(failed),
            )

    def wait(self, seconds: float | None) -> bool:
        """Whether it has ended, after waiting for that at most ``seconds``."""
        if self._status is None:
            ready, _, _ = select.select([self._pidfd], [], [], seconds)
            if ready:
                _, status = os.waitpid(self.pid, 0)
                code = os.waitstatus_to_exitcode(status)
                self._status = 128 - code if code < 0 else code
        return self._status is not None

    @property
    def status(self) -> int:
        """Its exit status; 128 + N when signal N ended it."""
        return self._status if self._status is not None else 0

    def close(self) -> None:
        """Take back what it holds; a child that was never released ends."""
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1
        self.wait(None)
        os.close(self._report)
        os.close(self._pidfd)


@contextmanager
def _stop_signals(child: Gated | None) -> Iterator[list[int]]:
    """SIGINT and SIGTERM end a recording; with a command they are the command's business.

    Ctrl-C reaches the command by itself, being in the same foreground group; SIGTERM
    is passed on.  Either way the recording ends when the command does.
    """
    got: list[int] = []

    def note(number: int, _frame: object) -> None:
        if child is None:
            got.append(number)
        elif number == signal.SIGTERM:
            os.kill(child.pid, number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield got
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def record(
    directory: str,
    *,
    mounts: Sequence[str] = (),
    pids: Sequence[int] = (),
    cgroup: str | None = None,
    command: Sequence[str] = (),
    everyone: bool = False,
    started: Callable[[], None] = lambda: None,
) -> Outcome:
    """Record into ``directory`` until ``command`` ends, or SIGINT or SIGTERM without one.

    With a command only its process tree is traced, unless ``everyone``, ``pids`` or
    ``cgroup`` say otherwise; without one ``started`` is called once everything is seen.
    A trace that cannot be continued (disk full) is reported in the outcome; the
    command is never disturbed by it.
    """
    writer = TraceWriter(directory)
    child = Gated(command) if command else None
    try:
        watched = list(pids)
        if child and not everyone and not watched and not cgroup:
            watched = [child.pid]
        session = Session(mounts, watched, cgroup, command=command)
        with _stop_signals(child) as signals, session:
            if child:
                child.release()
            else:
                started()
            failure = _write_until_done(session, writer, child, signals)
        if failure is None:
            failure = _write(writer, session.drain(), session)
        return Outcome(session.metadata(), child.status if child else 0, failure)
    except BaseException:
        writer.abandon()
        raise
    finally:
        if child:
            child.close()


def _write_until_done(
    session: Session, writer: TraceWriter, child: Gated | None, signals: list[int]
) -> FallthruError | None:
    import pyarrow as pa

    failure = None
    pending: list[pa.Table] = []
    since = time.monotonic()
    while True:
        if child:
            done = child.wait(_CHECK_SECONDS)
        else:
            time.sleep(_CHECK_SECONDS)
            done = bool(signals)
        if failure is None:
            pending.append(session.drain())
            rows = sum(table.num_rows for table in pending)
            due = rows >= _PART_ROWS or time.monotonic() - since >= _PART_SECONDS
            if rows and (due or done):
                failure = _write(writer, pa.concat_tables(pending), session)
                pending = []
                since = time.monotonic()
        if done:
            return failure


def _write(writer: TraceWriter, table: pa.Table, session: Session) -> FallthruError | None:
    try:
        writer.write(table, session.metadata())
    except FallthruError as error:
        return error
    return None
