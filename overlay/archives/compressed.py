"""Streams that are compressed and digested on their way: gzip, zstd, or neither."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from typing import Any, BinaryIO, Final

from overlay.errors import OperationFailed

__all__ = ["Compression", "Digesting", "compressing", "decompressed", "guess"]

_MAGIC: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


class Compression(StrEnum):
    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


class Digesting(io.RawIOBase):
    """Passes bytes on and keeps their SHA-256 and number."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._hash.update(data)
        self.size += len(data)
        self._file.write(data)
        return len(data)

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        self._hash.update(data)
        self.size += len(data)
        buffer[: len(data)] = data
        return len(data)

    @property
    def digest(self) -> str:
        """As the OCI specification writes it: ``sha256:`` and 64 hexadecimal digits."""
        return "sha256:" + self._hash.hexdigest()

    def drain(self) -> None:
        """Read to the end, so that the digest is that of everything."""
        while self.read(1 << 20):
            pass


@contextmanager
def compressing(file: BinaryIO, compression: Compression) -> Iterator[BinaryIO]:
    """A stream to write to, whose bytes come to ``file`` compressed, the same each time."""
    with ExitStack() as stack:
        if compression is Compression.GZIP:
            # No name and no time in the header; level 6 is what gzip itself takes.
            packed = gzip.GzipFile("", "wb", 6, file, mtime=0)
            yield stack.enter_context(packed)  # type: ignore[misc]
        elif compression is Compression.ZSTD:
            import pyarrow

            sink = pyarrow.PythonFile(file, "w")
            yield stack.enter_context(pyarrow.CompressedOutputStream(sink, "zstd"))
        else:
            yield file


def guess(head: bytes) -> Compression:
    """How a stream that begins so is compressed."""
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return Compression(name)
    return Compression.NONE


@contextmanager
def decompressed(file: BinaryIO) -> Iterator[BinaryIO]:
    """What a stream holds, by its first bytes; OperationFailed while it is read, if broken."""
    buffered = io.BufferedReader(file, 1 << 18)  # type: ignore[type-var]
    compression = guess(buffered.peek(4)[:4])
    try:
        if compression is Compression.GZIP:
            with gzip.GzipFile(fileobj=buffered, mode="rb") as unpacked:
                yield unpacked  # type: ignore[misc]
        elif compression is Compression.ZSTD:
            import pyarrow

            source = pyarrow.PythonFile(buffered, "r")
            with pyarrow.CompressedInputStream(source, "zstd") as unpacked:
                yield unpacked
        else:
            yield buffered
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise OperationFailed(f"the archive is broken: {error}") from error
