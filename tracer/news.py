"""What the probes say of mounts: unions that there are, and that something was mounted.

Read before a traced command may run, hence without numpy, which takes as long to import as
loading the probes does.  Layouts mirror ``tracer/probes/common.h``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

__all__ = [
    "CGROUP_AT",
    "RECORD_SIZE",
    "REC_ATTACH",
    "REC_MOUNT",
    "REC_PATH",
    "REC_SPAN",
    "Change",
    "MountRecord",
    "News",
    "cgroups_in",
    "news_in",
]

RECORD_SIZE: Final = 512
REC_SPAN, REC_PATH, REC_MOUNT, REC_ATTACH = 1, 2, 3, 4

#: Where a span has its cgroup.
CGROUP_AT: Final = 88
_LAYERS: Final = 8
_MOUNT = struct.Struct("=4x7I" + "16s" * _LAYERS + "Q")
_ATTACH = struct.Struct("=4xIQI")
_NO_MOUNT: Final = 0xFFFFFFFF


@dataclass(frozen=True)
class MountRecord:
    """A union as the kernel knows it: its number in the spans, its device, its layers.

    ``mounted`` is when (CLOCK_MONOTONIC, ns), if that was seen.
    """

    number: int
    dev: tuple[int, int]
    pid: int
    metacopy: bool
    layers: tuple[str, ...]  # file system types, top first
    mounted: int | None = None


@dataclass(frozen=True)
class Change:
    """``pid`` attached, changed or detached a mount at ``when`` (CLOCK_MONOTONIC, ns); it may
    have been the end of the union ``gone``."""

    pid: int
    when: int
    gone: int | None


@dataclass(frozen=True)
class News:
    """All of it in one reading of the ring."""

    mounts: tuple[MountRecord, ...]
    changes: tuple[Change, ...]


def news_in(raw: bytes) -> News | None:
    """The news among these records, any number of whole ones; None if there are none."""
    kinds = memoryview(raw).cast("I")[:: RECORD_SIZE // 4].tolist()
    if max(kinds, default=REC_SPAN) < REC_MOUNT:
        return None
    at = [(kind, place * RECORD_SIZE) for place, kind in enumerate(kinds) if kind >= REC_MOUNT]
    return News(
        tuple(_mount(raw, place) for kind, place in at if kind == REC_MOUNT),
        tuple(_change(raw, place) for kind, place in at if kind == REC_ATTACH),
    )


def cgroups_in(raw: bytes) -> set[int]:
    """The cgroups of the spans among these records."""
    kinds = memoryview(raw).cast("I")[:: RECORD_SIZE // 4].tolist()
    idents = memoryview(raw).cast("Q")[CGROUP_AT // 8 :: RECORD_SIZE // 8].tolist()
    return {ident for kind, ident in zip(kinds, idents, strict=True) if kind == REC_SPAN}


def _mount(raw: bytes, place: int) -> MountRecord:
    number, dev, _, metacopy, pid, layers, fresh, *names, when = _MOUNT.unpack_from(raw, place)
    told = (name.partition(b"\0")[0].decode("ascii", "replace") for name in names[:layers])
    return MountRecord(
        number=number,
        dev=(dev >> 20, dev & 0xFFFFF),
        pid=pid,
        metacopy=bool(metacopy),
        layers=tuple(name for name in told if name),
        mounted=when if fresh else None,
    )


def _change(raw: bytes, place: int) -> Change:
    pid, when, gone = _ATTACH.unpack_from(raw, place)
    return Change(pid, when, None if gone == _NO_MOUNT else gone)
