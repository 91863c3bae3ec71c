"""A top written to a file, as an OCI layer: complete and on the disk, or not at all.

It stands apart from what reads archives, which would take half as long to import as a layer
of some thousand entries to be written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from overlay import syscalls
from overlay.archives.compressed import Compression, Digesting, compressing
from overlay.archives.tarparts import write_top
from overlay.errors import Refused
from overlay.layer import Layer
from overlay.marks import MarkFamily
from overlay.newtree import beside
from overlay.staging import open_bottom
from overlay.text import printable
from overlay.view import View

__all__ = ["Exported", "export_tar", "top_view"]


@dataclass(frozen=True, slots=True)
class Exported:
    """An archive: ``digest`` of its ``size`` bytes, ``diff_id`` of the tar within.

    ``sockets`` were left out, which a tar cannot hold.
    """

    path: str
    digest: str
    diff_id: str
    size: int
    entries: int
    sockets: int


def export_tar(
    top: str,
    destination: str,
    *,
    bottoms: Sequence[str] = (),
    data_bottoms: Sequence[str] = (),
    family: str = "trusted",
    compression: Compression = Compression.NONE,
    progress: Callable[[int], None] | None = None,
) -> Exported:
    """Write a top as an OCI layer.  The same top always gives the same bytes.

    The bottoms are needed where something of the top reads from them.  Refused if the file
    exists already, and for what a tar cannot say.
    """
    with (
        top_view(top, bottoms, data_bottoms, family) as view,
        _new_file(destination) as file,
    ):
        whole = Digesting(file)
        with compressing(whole, compression) as packed:  # type: ignore[arg-type]
            inner = whole if compression is Compression.NONE else Digesting(packed)
            # Small headers one by one would be a call each.
            with _Gathered(inner) as gathered:
                entries, sockets = write_top(view, gathered.write, progress)
        return Exported(destination, whole.digest, inner.digest, whole.size, entries, sockets)


@contextmanager
def top_view(
    top: str, bottoms: Sequence[str], data_bottoms: Sequence[str], family: str
) -> Iterator[View]:
    """A top over those bottoms that it may read from."""
    with ExitStack() as stack:
        upper = stack.enter_context(Layer.open(top, private=True))
        lower = [stack.enter_context(open_bottom(path)) for path in bottoms]
        data = [stack.enter_context(open_bottom(path)) for path in data_bottoms]
        yield View([upper, *lower], MarkFamily(family), data)


class _Gathered:
    """Collects small writes."""

    def __init__(self, file: Digesting) -> None:
        self._file = file
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size >= 1 << 18:
            self.flush()

    def flush(self) -> None:
        self._file.write(b"".join(self._parts))
        self._parts.clear()
        self._size = 0

    def __enter__(self) -> _Gathered:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self.flush()


@contextmanager
def _new_file(path: str) -> Iterator[BinaryIO]:
    """A file that appears complete and on the disk, or not at all."""
    name = os.fsencode(os.path.basename(os.path.abspath(path)))
    with beside(path) as (parent, fd):
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(b"file", flags, 0o666, dir_fd=fd), "w+b", buffering=0) as file:
            yield file
            os.fsync(file.fileno())
        try:
            syscalls.renameat2(fd, b"file", parent, name, syscalls.RENAME_NOREPLACE)
        except FileExistsError:
            raise Refused(f"{printable(path)} exists already") from None
        os.fsync(parent)
