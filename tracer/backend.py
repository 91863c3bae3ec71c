"""What a backend is, and the one that needs only tracepoints.

A backend hooks into the kernel and delivers records (``tracer/records.py``); the
session above it knows nothing of how they were gathered.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from overlay import syscalls
from tracer.program import RING_BYTES, Filters, Program, build

__all__ = ["Backend", "Tracepoints", "clock_offset"]


class Backend(Protocol):
    """Something that sees copyups.

    It works from construction until :meth:`close`.  ``lost`` counts records that found
    no room, ``unmatched`` copyups that were begun but never seen to end.
    """

    name: str

    def add_pid(self, pid: int) -> None:
        """Trace this process and its children, too; only where processes were asked for."""

    def wait(self, seconds: float) -> None:
        """Until something should be read soon, or for ``seconds``."""

    def take(self) -> bytes:
        """Whole records that have arrived since the last call."""

    @property
    def hooks(self) -> frozenset[str]:
        """The tracepoints or functions it is attached to."""

    @property
    def lost(self) -> int: ...

    @property
    def unmatched(self) -> int: ...

    def detach(self) -> None:
        """Hook nothing any more; what was seen can still be taken."""

    def close(self) -> None: ...


#: Places in the map ``state`` (``enum`` in probes/tracepoints.c).
_LOST, _UNMATCHED, _FS_TYPE, _CURSOR = range(4)


class Tracepoints:
    """Raw tracepoints: works where kprobes and trampolines are not to be had.

    Raises the errors of :func:`tracer.program.build`.
    """

    name = "tracepoint"

    def __init__(self, filters: Filters) -> None:
        with ThreadPoolExecutor(1) as pool:
            building = pool.submit(build, filters)
            # The compiler works outside Python; what reading needs is loaded meanwhile.
            from tracer.records import RECORD_SIZE
            from tracer.ring import Ring

            self._program: Program = building.result()
        self._state = self._program.bpf[b"state"]
        self._counts: tuple[int, int] | None = None
        try:
            self._fill(filters)
            self._find_unions()
            self._ring = Ring(self._program.bpf[b"ring"].map_fd, RING_BYTES, RECORD_SIZE)
        except BaseException:
            self._program.detach()
            raise

    def _fill(self, filters: Filters) -> None:
        for name, keys in (("wanted", filters.devices), ("tree", filters.pids)):
            table = self._program.bpf[name.encode()]
            for key in keys:
                table[table.Key(key)] = table.Leaf(1)
        if filters.cgroup:
            directory = os.open(filters.cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._program.bpf[b"cgroups"][0] = directory
            finally:
                os.close(directory)

    def _find_unions(self) -> None:
        """Have the probes find every overlay superblock, in whatever mount namespace.

        They see what fsopen() gives us, which leads to the file system type, which has
        a list of them.  A long list takes several calls.
        """
        while True:
            fs = syscalls.fsopen("overlay")
            os.close(fs)
            if not self._value(_CURSOR):
                return

    def _value(self, place: int) -> int:
        return int(self._state[self._state.Key(place)].value)

    def add_pid(self, pid: int) -> None:
        table: Any = self._program.bpf[b"tree"]
        table[table.Key(pid)] = table.Leaf(1)

    def wait(self, seconds: float) -> None:
        self._ring.wait(seconds)

    def take(self) -> bytes:
        return self._ring.take()

    @property
    def hooks(self) -> frozenset[str]:
        return self._program.attached

    @property
    def lost(self) -> int:
        return self._counts[0] if self._counts else self._value(_LOST)

    @property
    def unmatched(self) -> int:
        return self._counts[1] if self._counts else self._value(_UNMATCHED)

    def detach(self) -> None:
        for name in self._program.attached:
            self._program.bpf.detach_raw_tracepoint(name.encode())

    def close(self) -> None:
        if self._counts is None:
            self._counts = (self._value(_LOST), self._value(_UNMATCHED))
            self._ring.close()
            self._program.detach()


def clock_offset() -> int:
    """Nanoseconds from CLOCK_MONOTONIC, which the probes read, to CLOCK_REALTIME."""
    # The shortest of a few looks is the one that nothing interrupted.
    looks = []
    for _ in range(8):
        before = time.monotonic_ns()
        now = time.time_ns()
        after = time.monotonic_ns()
        looks.append((after - before, now - (before + after) // 2))
    return min(looks)[1]
