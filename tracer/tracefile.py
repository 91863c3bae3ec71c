"""Writing a trace: Parquet parts that are whole or not there, rotated when they are full.

docs/trace-format.md describes them.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from overlay.errors import NoPrivilege, OperationFailed, Refused, UsageError
from overlay.outfile import sync_directory
from overlay.text import printable
from tracer.partfile import PartFile, Stored

if TYPE_CHECKING:
    import pyarrow as pa

    from tracer.schema import RunMetadata

__all__ = ["OutputNotEmpty", "Rotation", "TraceWriter"]

#: Rows that are put together at a time where pieces become a part.
_STEP_ROWS = 1 << 14


class OutputNotEmpty(Refused):
    """The directory for a new trace already holds something."""


@dataclass(frozen=True)
class Rotation:
    """When a part is full: at ``size`` bytes, ``rows`` or after ``seconds``, whichever is first.

    Only the newest ``keep`` parts stay, besides the one that is being filled.
    """

    size: int | None = None
    seconds: float | None = None
    rows: int | None = 1 << 18
    keep: int | None = None


class TraceWriter:
    """Writes a new trace into ``directory``, which must be empty or not exist yet.

    Rows come in pieces, each a file of its own that a crash cannot touch.  When a part is
    full its pieces become one file (:meth:`close_part`).

    Raises :class:`OutputNotEmpty`, :class:`UsageError` (no directory, or no parent), or
    :class:`NoPrivilege`.  Nothing is recorded before it is known to be writable.
    """

    def __init__(self, directory: str, rotation: Rotation | None = None) -> None:
        self.directory = directory
        self.rows = 0
        self.rotation = rotation or Rotation()
        self._number = 0
        self._removed = 0
        self._opened = time.monotonic()
        self._pieces: list[Stored] = []
        self._closed: deque[Sequence[Stored]] = deque()
        self._made = False
        try:
            if not os.path.isdir(directory):
                os.mkdir(directory)
                self._made = True
            if os.listdir(directory):
                raise OutputNotEmpty(
                    f"{printable(directory)} is not empty",
                    hint="name a new directory: a trace is never mixed with another",
                )
            probe = os.path.join(directory, ".part")
            os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            os.unlink(probe)
        except OSError as error:
            raise _unwritable(directory, error) from error

    def write(self, table: pa.Table, metadata: RunMetadata) -> str:
        """Add a whole part with these rows; returns its path.

        Raises :class:`OperationFailed` when it cannot be stored; the parts before
        it stay as they are.
        """
        stored = self._store(f"part-{self._number:05}.parquet", table, metadata)
        self._closed.append([stored])
        self._number += 1
        return stored.path

    def add(self, table: pa.Table, metadata: RunMetadata) -> None:
        """Add a piece of the part that is open.  Raises like :meth:`write`."""
        if not self._pieces:
            self._opened = time.monotonic()
        name = f"part-{self._number:05}.{len(self._pieces):05}.parquet"
        self._pieces.append(self._store(name, table, metadata))

    def _store(self, name: str, table: pa.Table, metadata: RunMetadata) -> Stored:
        with PartFile(self.directory, name, replace(metadata, removed=self._removed)) as file:
            file.append(table)
            stored = file.commit()
        self.rows += stored.rows
        return stored

    @property
    def size(self) -> int:
        """Bytes that the trace takes on disk."""
        return sum(one.size for files in (*self._closed, self._pieces) for one in files)

    @property
    def full(self) -> bool:
        """Whether the open part should be closed now."""
        if not self._pieces:
            return False
        limit = self.rotation
        return (
            (limit.size is not None and sum(one.size for one in self._pieces) >= limit.size)
            or (limit.rows is not None and sum(one.rows for one in self._pieces) >= limit.rows)
            or (limit.seconds is not None and time.monotonic() - self._opened >= limit.seconds)
        )

    def close_part(self, metadata: RunMetadata) -> Iterator[None]:
        """Make one file of the open part's pieces, with ``metadata``, step by step.

        Between steps pieces of the next part may be added.  Where it fails (a full disk, a
        damaged piece) the pieces stay as they are: they are the part.
        """
        if not self._pieces:
            return
        pieces, self._pieces = self._pieces, []
        name = f"part-{self._number:05}.parquet"
        self._number += 1
        keep = self.rotation.keep
        old = [] if keep is None else [*self._closed][: max(len(self._closed) + 1 - keep, 0)]
        removed = self._removed + sum(one.rows for files in old for one in files)
        part: Sequence[Stored] = pieces
        try:
            if len(pieces) == 1 and not old:
                part = [self._renamed(pieces[0], name)]
            else:
                with PartFile(self.directory, name, replace(metadata, removed=removed)) as file:
                    for table in _joined(pieces):
                        file.append(table)
                        yield
                    part = [file.commit()]
                _unlink(pieces)
        except OperationFailed:
            pass
        self._closed.append(part)
        for files in old:
            self._closed.popleft()
            _unlink(files)
        self._removed = removed

    def _renamed(self, piece: Stored, name: str) -> Stored:
        final = os.path.join(self.directory, name)
        try:
            os.rename(piece.path, final)
            sync_directory(self.directory)
        except OSError as error:
            raise OperationFailed(f"{printable(piece.path)} cannot be renamed") from error
        return replace(piece, path=final)

    def abandon(self) -> None:
        """Leave nothing behind when recording never began; parts that exist stay."""
        if self._made and not self._closed and not self._pieces:
            with suppress(OSError):
                os.rmdir(self.directory)


def _joined(pieces: Sequence[Stored]) -> Iterator[pa.Table]:
    """The rows of the pieces, in tables of a size that compresses well."""
    import pyarrow as pa

    from tracer.parts import PartError, read_part
    from tracer.schema import SCHEMA

    waiting: list[pa.Table] = []
    for piece in pieces:
        try:
            _, table = read_part(piece.path, SCHEMA.names)
        except PartError as error:
            raise OperationFailed(f"{printable(piece.path)}: {error}") from error
        assert table is not None  # columns were asked for
        waiting.append(table)
        if sum(one.num_rows for one in waiting) >= _STEP_ROWS:
            yield pa.concat_tables(waiting).unify_dictionaries()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).unify_dictionaries()


def _unlink(files: Sequence[Stored]) -> None:
    for one in files:
        with suppress(OSError):
            os.unlink(one.path)


def _unwritable(directory: str, error: OSError) -> Exception:
    number = error.errno or 0
    message = f"no trace can be written to {printable(directory)}"
    if number in (errno.EACCES, errno.EPERM):
        return NoPrivilege(message, hint="name a directory you may write to", errno=number)
    if number in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
        return UsageError(message, hint="its parent must be a directory", errno=number)
    return OperationFailed(message, hint="name another directory", errno=number)
