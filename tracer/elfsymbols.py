"""Function names in an ELF file, by address: as much as naming a caller takes."""

from __future__ import annotations

import mmap
import os
import struct
from bisect import bisect_right

import numpy as np
import numpy.typing as npt

__all__ = ["Symbols"]

_SECTION = struct.Struct("=IIQQQQIIQQ")
_SEGMENT = struct.Struct("=IIQQQQQQ")
_SYMTAB, _DYNSYM, _LOAD = 2, 11, 1
_SYMBOL = np.dtype(
    [("name", "u4"), ("info", "u1"), ("other", "u1"), ("section", "u2"), ("value", "u8"),
     ("size", "u8")]
)  # fmt: skip
_FUNCTION = 2
#: More than any library has; what claims more is not read.
_LARGEST = 1 << 30


class Symbols:
    """The functions of a 64-bit ELF file of this machine's byte order.

    A file that is none, or is damaged, has no functions: it came with a traced process.
    """

    def __init__(self, fd: int) -> None:
        self._names: list[bytes] = []
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._segments: list[tuple[int, int, int]] = []
        try:
            self._read(fd)
        except (OSError, ValueError, struct.error, IndexError):
            self._starts = []

    def name(self, offset: int) -> str | None:
        """The function at ``offset`` in the file; None where there is none."""
        for start, size, address in self._segments:
            if start <= offset < start + size:
                return self._at(offset - start + address)
        return None

    def _at(self, address: int) -> str | None:
        place = bisect_right(self._starts, address) - 1
        if place < 0 or address >= self._ends[place]:
            return None
        return self._names[place].decode("ascii", "replace")

    def _read(self, fd: int) -> None:
        if not 64 <= os.fstat(fd).st_size <= _LARGEST:
            return
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as raw:
            if raw[:5] != b"\x7fELF\x02":
                return
            (segments, sections) = struct.unpack_from("=QQ", raw, 32)
            size, count, section_size, section_count = struct.unpack_from("=HHHH", raw, 54)
            for number in range(count):
                kind, _, offset, address, _, length, _, _ = _SEGMENT.unpack_from(
                    raw, segments + number * size
                )
                if kind == _LOAD:
                    self._segments.append((offset, length, address))
            heads = [
                _SECTION.unpack_from(raw, sections + number * section_size)
                for number in range(section_count)
            ]
            tables = [head for head in heads if head[1] in (_SYMTAB, _DYNSYM)]
            if tables:
                # The full table, where the file was not stripped of it, has the dynamic one's, too.
                best = min(tables, key=lambda head: head[1])
                self._take(raw, best, heads[best[6]])

    def _take(self, raw: mmap.mmap, table: tuple[int, ...], strings: tuple[int, ...]) -> None:
        count = table[5] // _SYMBOL.itemsize
        found: npt.NDArray[np.void] = np.frombuffer(
            raw[table[4] : table[4] + count * _SYMBOL.itemsize], _SYMBOL
        )
        found = found[((found["info"] & 15) == _FUNCTION) & (found["section"] != 0)]
        found = found[np.argsort(found["value"], kind="stable")]
        text = raw[strings[4] : strings[4] + strings[5]]
        self._starts = found["value"].tolist()
        sizes = np.maximum(found["size"].astype(np.int64), 1)
        self._ends = (found["value"].astype(np.int64) + sizes).tolist()
        self._names = [text[start : text.index(b"\0", start)] for start in found["name"].tolist()]
