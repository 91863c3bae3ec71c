"""``trace record``: a session whose spans go to a trace directory, until something ends it."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from overlay.errors import FallthruError
from tracer.gated import Gated
from tracer.session import Session
from tracer.tracefile import Rotation, TraceWriter

if TYPE_CHECKING:
    import pyarrow as pa

    from tracer.schema import RunMetadata

__all__ = ["Limits", "Outcome", "Watcher", "record", "stop_signals"]

#: A piece is written after this many rows or seconds: what a crash can cost, and what
#: waits in memory.
_PIECE_ROWS = 1 << 13
_PIECE_SECONDS = 10.0
_CHECK_SECONDS = 0.25

#: Is shown each table of spans as it arrives, and the session that it came from.
Watcher = Callable[["pa.Table", Session], None]


@dataclass(frozen=True)
class Limits:
    """When a recording ends by itself: after ``seconds``, at so many ``spans`` (exactly), or
    once its files have ``size`` bytes (of which it may write one piece more)."""

    seconds: float | None = None
    spans: int | None = None
    size: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What a recording came to.  ``status`` is the command's exit status, shell fashion;
    ``unsaved`` counts spans that were seen but could not be stored."""

    metadata: RunMetadata
    status: int
    failure: FallthruError | None
    unsaved: int = 0


@contextmanager
def stop_signals(child: Gated | None = None) -> Iterator[int]:
    """A descriptor that becomes readable when SIGINT, SIGTERM or SIGHUP ask to end.

    With a command they are the command's business: Ctrl-C reaches it by itself, being in
    the same foreground group; SIGTERM is passed on.  Either way the recording ends when
    the command does.  A signal that was ignored (nohup) stays so.
    """
    wake, bell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def note(number: int, _frame: object) -> None:
        if child is None:
            os.write(bell, b"x")
        elif number == signal.SIGTERM:
            os.kill(child.pid, number)

    before: dict[signal.Signals, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, note)
    try:
        yield wake
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(wake)
        os.close(bell)


def record(
    directory: str | None,
    *,
    session: Callable[[Sequence[int]], Session],
    command: Sequence[str] = (),
    everyone: bool = False,
    rotation: Rotation | None = None,
    limits: Limits | None = None,
    watchers: Sequence[Watcher] = (),
    started: Callable[[], None] = lambda: None,
) -> Outcome:
    """Record into ``directory`` until ``command`` ends, a limit is reached, or, without a
    command, SIGINT, SIGTERM or SIGHUP.  No ``directory``: only the ``watchers`` see the spans.

    ``session`` makes the session, given the processes to trace: the command, unless
    ``everyone``.  ``started`` is called once everything is seen.  A trace that cannot be
    continued (disk full) is reported in the outcome; the command is never disturbed by it.
    """
    writer = TraceWriter(directory, rotation) if directory is not None else None
    child = Gated(command) if command else None
    try:
        recording = _Recording(
            session([child.pid] if child and not everyone else ()),
            writer,
            limits or Limits(),
            watchers,
        )
        with stop_signals(child) as wake, recording.session:
            if child:
                child.release()
            started()
            recording.run(child or wake)
        recording.finish()
        if child:
            child.wait(None)
        return recording.outcome(child.status if child else 0)
    except BaseException:
        if writer:
            writer.abandon()
        raise
    finally:
        if child:
            child.close()


@dataclass
class _Recording:
    """The spans on their way from the session to the files."""

    session: Session
    writer: TraceWriter | None
    limits: Limits
    watchers: Sequence[Watcher]
    failure: FallthruError | None = None
    _seen: int = 0
    _waiting: list[pa.Table] = field(default_factory=list)
    _closing: Iterator[None] | None = None
    _since: float = field(default_factory=time.monotonic)

    def run(self, until: Any) -> None:
        """Take spans as they come, until the descriptor ``until`` is readable, a limit is
        reached, or the trace cannot be continued."""
        began = self._since = time.monotonic()
        end = None if self.limits.seconds is None else began + self.limits.seconds
        while True:
            wait = _CHECK_SECONDS if self._closing is None else 0.0
            if end is not None:
                wait = max(min(wait, end - time.monotonic()), 0.0)
            over = bool(select.select([until], [], [], wait)[0])
            self._take()
            self._store(over)
            if over or self.failure or self._enough(end):
                return

    def finish(self) -> None:
        """Store what the session has left.  It has ended: the metadata is final."""
        if self.failure is not None or self.writer is None:
            return
        self._take()
        while self._close_on():
            pass
        self._write()
        self._closing = self.writer.close_part(self._metadata())
        while self._close_on():
            pass

    def outcome(self, status: int) -> Outcome:
        unsaved = self._seen - self.writer.rows if self.writer else 0
        return Outcome(self._metadata(), status, self.failure, unsaved)

    def _metadata(self) -> RunMetadata:
        return replace(self.session.metadata(), spans=self._seen)

    def _take(self) -> None:
        table = self.session.drain()
        if self.limits.spans is not None:
            table = table.sort_by("ts").slice(0, self.limits.spans - self._seen)
        self._seen += table.num_rows
        for watcher in self.watchers:
            watcher(table, self.session)
        if self.writer:
            self._waiting.append(table)

    def _store(self, over: bool) -> None:
        if self.writer is None:
            return
        rows = sum(table.num_rows for table in self._waiting)
        if rows >= _PIECE_ROWS or (rows and (over or self._waited())):
            self._write()
        if self._close_on() or self.failure is not None:
            return
        if self.writer.full:
            self._closing = self.writer.close_part(self._metadata())

    def _waited(self) -> bool:
        assert self.writer is not None
        rotation = self.writer.rotation.seconds or _PIECE_SECONDS
        return time.monotonic() - self._since >= min(rotation, _PIECE_SECONDS)

    def _write(self) -> None:
        import pyarrow as pa

        assert self.writer is not None
        table = pa.concat_tables(self._waiting)
        self._waiting = []
        self._since = time.monotonic()
        try:
            self.writer.add(table, self._metadata())
        except FallthruError as error:
            self.failure = error

    def _close_on(self) -> bool:
        """One step of making a part of its pieces; whether there may be more to do."""
        if self._closing is not None and next(self._closing, self) is self:
            self._closing = None
        return self._closing is not None

    def _enough(self, end: float | None) -> bool:
        limits = self.limits
        return (
            (end is not None and time.monotonic() >= end)
            or (limits.spans is not None and self._seen >= limits.spans)
            or (
                (limits.size is not None and self.writer is not None)
                and self.writer.size >= limits.size
            )
        )
