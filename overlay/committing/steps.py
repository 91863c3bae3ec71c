"""The steps of a commit, kept from the survey that finds them to be applied after it.

Otherwise all layers would have to be compared once more.  They are in a file without a name
on the work directory's file system, some hundreds at a time, each lot packed by the process
that found it and unpacked by the one that prepares it.
"""

from __future__ import annotations

import os
import pickle
import zlib
from collections.abc import Callable, Generator
from typing import NamedTuple, TypeVar

from overlay.closing import Closing
from overlay.differences.difference import Difference
from overlay.helpers import cores
from overlay.orderedpool import Budget, Result, Task, ordered
from overlay.selection import Selection

__all__ = ["Kept", "Removal", "Step", "pack", "steps"]

Answer = TypeVar("Answer")


class Removal(NamedTuple):
    """Something that has to go.  A difference is many times as large."""

    path: bytes
    was_dir: bool


Step = Difference | Removal


def steps(found: list[Difference], selection: Selection) -> list[Step]:
    """What differences mean for a commit; what goes is told even if it is not chosen."""
    told: list[Step] = []
    for each in found:
        if each.now is None:
            told.append(Removal(each.path, each.was is not None and each.was.is_dir))
        elif selection.takes(each.path):
            told.append(each)
    return told


def pack(told: list[Step]) -> bytes:
    """Steps as :meth:`Kept.add` takes them; empty if there are none."""
    if not told:
        return b""
    return zlib.compress(pickle.dumps(told, pickle.HIGHEST_PROTOCOL), 1)


class Kept(Closing):
    """Packed steps, in their order."""

    def __init__(self, directory: int) -> None:
        """Nothing yet; ``directory`` is an open one on a file system with room."""
        self._lots: list[tuple[int, int]] | None = []
        self._end = 0
        self._fd = -1
        try:
            self._fd = os.open(
                ".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory
            )
        except OSError:
            self._lots = None

    @property
    def complete(self) -> bool:
        """Whether all is here; if there was no room for it, the layers have to be asked again."""
        return self._lots is not None

    def close(self) -> None:
        """Forget them."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._lots = None

    def add(self, packed: bytes) -> None:
        """Keep what comes next."""
        if self._lots is None or not packed:
            return
        self._lots.append((self._end, len(packed)))
        left = packed
        try:
            while left:
                written = os.pwrite(self._fd, left, self._end)
                left, self._end = left[written:], self._end + written
        except OSError:
            self.close()

    def chosen(self, choose: Callable[[list[Step]], Answer]) -> Generator[Answer]:
        """What ``choose`` makes of the steps, some hundreds at a time, in their order."""
        assert self._lots is not None
        replay = _Replay(self._fd, self._lots, choose)
        return ordered(replay, None, cores())


class _Replay:
    """Packed steps by lots, for a pool."""

    def __init__(
        self, fd: int, lots: list[tuple[int, int]], choose: Callable[[list[Step]], object]
    ) -> None:
        self._fd = fd
        self._lots = lots
        self._choose = choose

    def own_process(self) -> None:
        """Nothing is different there."""

    def walk(self, what: tuple[int, int] | None, budget: Budget) -> list[Result | Task]:
        if what is None and len(self._lots) > 1:
            return [Task(lot) for lot in self._lots]
        budget.left = 0  # the next lot is somebody else's
        # One lot alone is not worth a process.
        return [self._lot(*lot) for lot in (self._lots if what is None else [what])]

    def _lot(self, offset: int, size: int) -> Result:
        packed = b""
        while len(packed) < size:
            more = os.pread(self._fd, size - len(packed), offset + len(packed))
            if not more:
                raise EOFError("the kept steps of a commit end too early")
            packed += more
        # Only this process and those it forked can have written them.
        return Result(self._choose(pickle.loads(zlib.decompress(packed))))
