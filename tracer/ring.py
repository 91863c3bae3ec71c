"""Reading a BPF ring buffer as one block of memory.

libbpf calls back for every record, which costs microseconds each in Python.  All
our records have one size, so whatever has arrived is copied in one piece and decoded
as an array (layout: ``kernel/bpf/ringbuf.c``; one consumer).
"""

from __future__ import annotations

import mmap
import select

import numpy as np
import numpy.typing as npt

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
        busy = np.flatnonzero(heads & _BUSY)
        ready = int(busy[0]) if busy.size else waiting
        rows = self._copy(consumed, ready * self._stride).reshape(ready, self._stride)
        taken: bytes = rows[(heads[:ready] & _DISCARDED) == 0, _HEADER:].tobytes()
        self._consumed[0] = consumed + ready * self._stride
        return taken

    def _heads(self, position: int, count: int) -> npt.NDArray[np.uint32]:
        """The first word of so many records.  (No array may keep the mapping in use.)"""
        ring = np.frombuffer(self._data, np.uint32, self._size // 4, self._page)
        places = (position + np.arange(count, dtype=np.int64) * self._stride) % self._size
        return ring[places // 4]

    def _copy(self, position: int, length: int) -> npt.NDArray[np.uint8]:
        """Bytes of the ring, joined where it wraps."""
        start = position % self._size
        first = min(length, self._size - start)
        end = self._page + start + first
        joined = self._data[self._page + start : end]
        if first < length:
            joined += self._data[self._page : self._page + length - first]
        return np.frombuffer(joined, np.uint8)

    def close(self) -> None:
        self._poll.close()
        self._consumed.release()
        self._produced.release()
        self._consumer.close()
        self._data.close()
