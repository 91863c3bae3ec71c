"""Writing a trace: Parquet parts that are whole or not there.

A part is written under a hidden name, synced, and renamed, so that a recorder killed
at any moment leaves only readable parts.  docs/trace-format.md describes them.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from overlay.errors import NoPrivilege, OperationFailed, Refused, UsageError
from overlay.text import printable

if TYPE_CHECKING:
    import pyarrow as pa

    from tracer.schema import RunMetadata

__all__ = ["OutputNotEmpty", "TraceWriter"]


class OutputNotEmpty(Refused):
    """The directory for a new trace already holds something."""


class TraceWriter:
    """Writes a new trace into ``directory``, which must be empty or not exist yet.

    Raises :class:`OutputNotEmpty`, :class:`UsageError` (no directory, or no parent), or
    :class:`NoPrivilege`.  Nothing is recorded before it is known to be writable.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.parts = 0
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
        """Add a part with these rows; returns its path.

        Raises :class:`OperationFailed` when it cannot be stored; the parts before
        it stay as they are.
        """
        import pyarrow.parquet as pq

        from tracer.schema import SCHEMA, schema_with

        final = os.path.join(self.directory, f"part-{self.parts:05}.parquet")
        aside = os.path.join(self.directory, f".part-{self.parts:05}.parquet")
        try:
            with open(aside, "xb") as file:
                with pq.ParquetWriter(
                    file, schema_with(metadata), compression="zstd", write_page_checksum=True
                ) as writer:
                    writer.write_table(table.cast(SCHEMA).combine_chunks())
                file.flush()
                os.fsync(file.fileno())
            os.rename(aside, final)
            self._sync_directory()
        except OSError as error:
            if os.path.exists(aside):
                os.unlink(aside)
            raise OperationFailed(
                f"the trace in {printable(self.directory)} cannot be continued",
                hint="what was written so far is kept and readable",
                errno=error.errno or 0,
            ) from error
        self.parts += 1
        return final

    def abandon(self) -> None:
        """Leave nothing behind when recording never began; parts that exist stay."""
        if self._made and not self.parts:
            with suppress(OSError):
                os.rmdir(self.directory)

    def _sync_directory(self) -> None:
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _unwritable(directory: str, error: OSError) -> Exception:
    number = error.errno or 0
    message = f"no trace can be written to {printable(directory)}"
    if number in (errno.EACCES, errno.EPERM):
        return NoPrivilege(message, hint="name a directory you may write to", errno=number)
    if number in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
        return UsageError(message, hint="its parent must be a directory", errno=number)
    return OperationFailed(message, hint="name another directory", errno=number)
