"""Reading a BPF ring buffer as one block of memory.

libbpf calls back for every record, which costs microseconds each in Python.  All
our records have one size, so whatever has arrived is copied in one piece, to be decoded
as an array (layout: ``kernel/bpf/ringbuf.c``; one consumer).
"""

from __future__ import annotations

import mmap
import select

from overlay.closing import Closing

__all__ = ["Ring"]

_BUSY = 1 << 31
_DISCARDED = 1 << 30
_HEADER = 8


class Ring(Closing):
    """The consumer's side of the ring buffer map ``map_fd`` of ``size`` bytes.

    Every record must have ``record_size`` bytes (a multiple of 8).
    """

    def __init__(self, map_fd: int, size: int, record_size: int) -> None:
        if record_size % 8:
            raise ValueError("records of a ring buffer are aligned to 8 bytes")
        page = mmap.PAGESIZE
        self._size = size
        self._stride = record_size + _HEADER
        self._consumer = mmap.mmap(map_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # The kernel would map the data twice in a row, so that no record seems to wrap; that
        # counts twice as memory of ours, and all is copied out anyway.
        self._data = mmap.mmap(map_fd, page + size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._page = page
        # Words that both sides use at once: a memoryview moves them whole.
        self._consumed = memoryview(self._consumer)[:8].cast("Q")
        self._produced = memoryview(self._data)[:8].cast("Q")
        self._words = memoryview(self._data)[page:].cast("I")
        self._poll = select.epoll()
        self._poll.register(map_fd, select.EPOLLIN)

    def wait(self, seconds: float) -> None:
        """Until the kernel signals a record, or for ``seconds``."""
        self._poll.poll(seconds)

    def take(self) -> bytes:
        """All complete records that have arrived, one after another, and frees their room."""
        consumed = self._consumed[0]
        waiting = (self._produced[0] - consumed) // self._stride
        if not waiting:
            return b""
        # The headers first: what is complete by them may be copied afterwards.
        heads = self._heads(consumed, waiting)
        # A record that is being written blocks those behind it.
        ready = next((place for place, head in enumerate(heads) if head & _BUSY), waiting)
        rows = memoryview(self._copy(consumed, ready * self._stride))
        starts = range(0, len(rows), self._stride)
        taken = b"".join(
            rows[start + _HEADER : start + self._stride]
            for start, head in zip(starts, heads, strict=False)
            if not head & _DISCARDED
        )
        self._consumed[0] = consumed + ready * self._stride
        return taken

    def _heads(self, position: int, count: int) -> list[int]:
        """The first word of so many records."""
        heads: list[int] = []
        step = self._stride // 4
        while missing := count - len(heads):
            first = (position + len(heads) * self._stride) % self._size // 4
            heads += self._words[first : first + missing * step : step].tolist()
        return heads

    def _copy(self, position: int, length: int) -> bytes:
        """Bytes of the ring, joined where it wraps."""
        start = position % self._size
        first = min(length, self._size - start)
        end = self._page + start + first
        joined = self._data[self._page + start : end]
        if first < length:
            joined += self._data[self._page : self._page + length - first]
        return joined

    def close(self) -> None:
        self._poll.close()
        self._consumed.release()
        self._produced.release()
        self._words.release()
        self._consumer.close()
        self._data.close()
