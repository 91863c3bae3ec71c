"""One file of a trace: whole under its name, or not there.

It is written under a hidden name, synced, and renamed, so that a recorder killed at any
moment leaves only readable files.
"""

from __future__ import annotations

import os
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from overlay.errors import OperationFailed
from overlay.outfile import sync_directory
from overlay.text import printable

if TYPE_CHECKING:
    import pyarrow as pa

    from tracer.schema import RunMetadata

__all__ = ["PartFile", "Stored", "footer_intact"]

#: Numbers that come again and again, besides the categories.
_REPEATING = ("pid", "tid", "uid", "size", "bytes", "errno")

#: Parquet has checksums of its pages and none of the footer, without which a flipped bit may
#: show as other rows.  That one is before the footer, where readers of Parquet never look.
_SEAL = b"fallthru"


@dataclass(frozen=True)
class Stored:
    """A file of the trace, its size in bytes, and its rows."""

    path: str
    size: int
    rows: int


class PartFile:
    """A file of the trace in the making; leaving ``with`` before :meth:`commit` drops it.

    Raises :class:`OperationFailed` when it cannot be stored (disk full).
    """

    def __init__(self, directory: str, name: str, metadata: RunMetadata) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from tracer.schema import PHASES, SCHEMA, schema_with

        categories = [one.name for one in SCHEMA if pa.types.is_dictionary(one.type)]
        self._directory = directory
        self._final = os.path.join(directory, name)
        self._aside = os.path.join(directory, f".{name}")
        self._rows = 0
        try:
            self._file = open(self._aside, "x+b")  # noqa: SIM115  (closed by commit, or on leaving)
            self._writer = pq.ParquetWriter(
                self._file,
                schema_with(metadata),
                compression="zstd",
                write_page_checksum=True,
                # Times hardly ever repeat: dictionaries of them are memory and nothing else.
                use_dictionary=[*_REPEATING, *categories],
                column_encoding=dict.fromkeys(("ts", "dur", *PHASES), "DELTA_BINARY_PACKED"),
            )
        except OSError as error:
            raise self._failed(error) from error

    def append(self, table: pa.Table) -> None:
        """Add these rows, as a row group of their own."""
        from tracer.schema import SCHEMA

        try:
            self._writer.write_table(table.cast(SCHEMA).combine_chunks())
        except OSError as error:
            raise self._failed(error) from error
        self._rows += table.num_rows

    def commit(self) -> Stored:
        """Have it on disk under its name."""
        try:
            self._writer.close()
            self._file.flush()
            start, footer = _footer(self._file)
            self._file.seek(start)
            self._file.write(_seal(footer) + footer)
            self._file.flush()
            os.fsync(self._file.fileno())
            size = os.fstat(self._file.fileno()).st_size
            self._file.close()
            os.rename(self._aside, self._final)
            sync_directory(self._directory)
        except OSError as error:
            raise self._failed(error) from error
        return Stored(self._final, size, self._rows)

    def __enter__(self) -> PartFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._file.closed:
            # Closing flushes, which fails again on a full disk.
            with suppress(OSError):
                self._writer.close()
            with suppress(OSError):
                self._file.close()
        with suppress(FileNotFoundError):
            os.unlink(self._aside)

    def _failed(self, error: OSError) -> OperationFailed:
        return OperationFailed(
            f"the trace in {printable(self._directory)} cannot be continued",
            hint="what was written so far is kept and readable",
            errno=error.errno or 0,
        )


def footer_intact(file: BinaryIO) -> bool:
    """Whether the footer of a part is what was written; parts of older versions cannot tell."""
    start, footer = _footer(file)
    file.seek(max(start - len(_seal(footer)), 0))
    found = file.read(len(_seal(footer)))
    return not found.startswith(_SEAL) or found == _seal(footer)


def _seal(footer: bytes) -> bytes:
    return _SEAL + struct.pack("<I", zlib.crc32(footer))


def _footer(file: BinaryIO) -> tuple[int, bytes]:
    """Where a Parquet file's footer begins, and all from there, its length and the magic too."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 8, 0))
    length = int.from_bytes(file.read(4), "little")
    start = max(size - 8 - length, 0)
    file.seek(start)
    return start, file.read()
