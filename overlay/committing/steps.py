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
from typing import Any, Final, NamedTuple, TypeVar

from overlay.closing import Closing
from overlay.differences.comparing import Aspect
from overlay.differences.difference import Difference, Kind
from overlay.helpers import cores
from overlay.orderedpool import Budget, Result, Task, ordered
from overlay.selection import Selection
from overlay.view import Node, Place

__all__ = ["BOTTOM", "Kept", "Removal", "Showing", "Step", "pack", "steps"]

#: The number of the bottom that is changed, in the view of all layers.
BOTTOM: Final = 1

Answer = TypeVar("Answer")


class Removal(NamedTuple):
    """Something that has to go.  A difference is many times as large."""

    path: bytes
    was_dir: bool


class Showing(NamedTuple):
    """Something that the bottom has to show: ``now``.

    ``over_directory``: a directory is there.  ``attributes_only``: it can be done to the
    bottom's own file or directory, for its content is the same, and it has no other name.
    """

    path: bytes
    now: Node
    over_directory: bool
    attributes_only: bool


Step = Showing | Removal


def steps(found: list[Difference], selection: Selection) -> list[Step]:
    """What differences mean for a commit; what goes is told even if it is not chosen."""
    told: list[Step] = []
    for each in found:
        was = each.was
        over_directory = was is not None and was.is_dir
        if each.now is None:
            told.append(Removal(each.path, over_directory))
        elif selection.takes(each.path):
            told.append(Showing(each.path, each.now, over_directory, _attributes_only(each)))
    return told


def _attributes_only(difference: Difference) -> bool:
    was, change = difference.was, difference.change
    if was is None or change.kind is not Kind.CHANGED or Aspect.CONTENT in change.what:
        return False
    return was.places[0].layer == BOTTOM and was.st.st_nlink == 1


def pack(told: list[Step]) -> bytes:
    """Steps as :meth:`Kept.add` takes them; empty if there are none."""
    if not told:
        return b""
    # Each named tuple would take a call of a Python function to be packed.
    plain = [tuple(each) if isinstance(each, Removal) else _flat(each) for each in told]
    return zlib.compress(pickle.dumps(plain, pickle.HIGHEST_PROTOCOL), 1)


def _flat(step: Showing) -> tuple[Any, ...]:
    path, (st, marks, places, data), over_directory, attributes_only = step
    where = [tuple(place) for place in places]
    return path, over_directory, attributes_only, st, marks, where, data and tuple(data)


def _unpack(packed: bytes) -> list[Step]:
    told: list[Step] = []
    # Only this process and those it forked can have written them.
    for plain in pickle.loads(zlib.decompress(packed)):
        if len(plain) == 2:
            told.append(Removal(*plain))
            continue
        path, over_directory, attributes_only, st, marks, where, data = plain
        places = tuple([Place(*place) for place in where])
        now = Node(st, marks, places, data and Place(*data))
        told.append(Showing(path, now, over_directory, attributes_only))
    return told


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
        return Result(self._choose(_unpack(packed)))
