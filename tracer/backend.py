"""What a backend is, and ours: probes at trampolines, kprobes or tracepoints.

A backend hooks into the kernel and delivers records (``tracer/records.py``); the
session above it knows nothing of how they were gathered.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from overlay import syscalls
from overlay.bpf.loading import Map
from overlay.errors import EnvironmentLacks, UsageError
from tracer.hooks import BACKENDS, BEYOND_TMPFS, DROPS, EXITS, FINDER
from tracer.kinds import KINDS
from tracer.latencies import Latency, read_latencies
from tracer.news import RECORD_SIZE
from tracer.preemption import preempts
from tracer.program import COPYUPS, RINGS, Filters, Options, Program, build
from tracer.ring import Ring

if TYPE_CHECKING:
    from tracer.news import MountRecord

__all__ = ["Backend", "Probes", "clock_offset", "open_backend"]


class Backend(Protocol):
    """Something that sees copyups.

    It works from construction until :meth:`close`.  ``lost`` counts records that found
    no room and, at most, events that the kernel kept from it, ``unmatched`` copyups that were
    begun but never seen to end.
    """

    name: str

    def add_pid(self, pid: int) -> None:
        """Trace this process and its children, too; only where processes were asked for."""

    def prepare_for(self, unions: Iterable[MountRecord]) -> None:
        """Do what it takes to see the copyups of these, which are new."""

    def wait(self, seconds: float) -> None:
        """Until something should be read soon, or for ``seconds``."""

    def take(self) -> bytes:
        """Whole records that have arrived since the last call."""

    def stacks(self) -> Map:
        """Callers' stacks by the numbers in the records."""

    @property
    def sees_mounts(self) -> bool:
        """Whether it tells of mounts that are attached, changed or detached."""

    @property
    def unseen(self) -> tuple[str, ...]:
        """The kinds of :data:`tracer.kinds.KINDS` that it cannot see."""

    def latencies(self) -> list[Latency]:
        """How long everything has taken until now that it sees."""

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


#: Places in the map ``state`` (``enum`` in probes/state.c).
_LOST, _UNMATCHED, _FS_TYPE, _CURSOR = range(4)
_ONE = b"\1"
#: With these the end of a system call tells nothing that is not known without it.
_WITHOUT_EXITS = {"ctime_ns_xchg", "percpu_alloc_percpu"}


class Probes:
    """Our own probes, at whatever ``name`` (of :data:`tracer.hooks.BACKENDS`) hooks.

    Raises the errors of :func:`tracer.program.build`.
    """

    def __init__(self, name: str, filters: Filters, options: Options = COPYUPS) -> None:
        self.name = name
        self._program: Program = build(name, filters, options)
        self._state = self._program.maps["state"]
        self._counts: tuple[int, int] | None = None
        self._left = b""
        self._latencies: list[Latency] = []
        try:
            self._fill(filters)
            if name == "tracepoint":
                self._find_unions()
                self._program.let_go(FINDER)
                if not self.hooks >= _WITHOUT_EXITS:
                    self._program.take_up(EXITS)
            maps = self._program.maps
            self._ring = Ring(maps["ring"].fd, RINGS["ring"], RECORD_SIZE)
            self._spare = Ring(maps["spare"].fd, RINGS["spare"], RECORD_SIZE)
        except BaseException:
            self._program.close()
            raise

    def _fill(self, filters: Filters) -> None:
        for device in filters.devices:
            self._program.maps["wanted"][_u32(device)] = _ONE
        for pid in filters.pids:
            self.add_pid(pid)
        for uid in filters.uids:
            self._program.maps["users"][_u32(uid)] = _ONE
        if filters.cgroup:
            directory = os.open(filters.cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._program.maps["cgroups"][_u32(0)] = _u32(directory)
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
        return int.from_bytes(self._state[_u32(place)], sys.byteorder)

    def add_pid(self, pid: int) -> None:
        self._program.maps["tree"][_u32(pid)] = _ONE

    def prepare_for(self, unions: Iterable[MountRecord]) -> None:
        if self.name != "tracepoint":
            return
        for one in unions:
            top = one.layers[0] if one.layers else ""
            if top != "tmpfs":
                self._program.take_up(BEYOND_TMPFS)
            # With metacopy a file may go up twice in a call, the second time without an end.
            if one.metacopy or DROPS.get(top) not in self.hooks:
                self._program.take_up(EXITS)

    def wait(self, seconds: float) -> None:
        self._ring.wait(seconds)

    def take(self) -> bytes:
        left, self._left = self._left, b""
        return self._ring.take() + self._spare.take() + left

    def stacks(self) -> Map:
        return self._program.maps["stacks"]

    @property
    def sees_mounts(self) -> bool:
        return self.name != "tracepoint" or "sys_exit" in self.hooks

    @property
    def unseen(self) -> tuple[str, ...]:
        return KINDS[1:] if self.name == "tracepoint" else ()

    def latencies(self) -> list[Latency]:
        table = self._program.maps.get("latencies")
        return read_latencies(table) if table else self._latencies

    @property
    def hooks(self) -> frozenset[str]:
        return frozenset(self._program.attached)

    @property
    def lost(self) -> int:
        return self._counts[0] if self._counts else self._value(_LOST) + self._program.missed

    @property
    def unmatched(self) -> int:
        return self._counts[1] if self._counts else self._value(_UNMATCHED)

    def detach(self) -> None:
        self._program.detach()
        if self._counts is None:
            self._left += self._complete()

    def _complete(self) -> bytes:
        """The records of directories that were waiting for what they went up for."""
        from tracer.records import F_DONE

        spans = self._program.maps["spans"]
        records = [spans[key][-RECORD_SIZE:] for key in [*spans.keys()]]
        return b"".join(one for one in records if int.from_bytes(one[4:8], sys.byteorder) & F_DONE)

    def close(self) -> None:
        if self._counts is None:
            self._counts = (self.lost, self.unmatched)
            self._latencies = self.latencies()
            self._ring.close()
            self._spare.close()
            self._program.close()


def _u32(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder)


def open_backend(name: str | None, filters: Filters, options: Options = COPYUPS) -> Probes:
    """The backend called ``name``, or without a name the best that works here.

    Raises :class:`UsageError` for a name that is none, and the errors of
    :func:`tracer.program.build`, the last backend's if none works.
    """
    if name is not None:
        if name not in BACKENDS:
            raise UsageError(f"no backend is called {name}", hint=f"they are {', '.join(BACKENDS)}")
        return Probes(name, filters, options)
    *better, last = BACKENDS
    if preempts():
        better.reverse()
    for one in better:
        try:
            return Probes(one, filters, options)
        except EnvironmentLacks:
            continue  # `trace doctor` tells why
    return Probes(last, filters, options)


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
