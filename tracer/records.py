"""Records as the probes send them: their layouts, which mirror ``tracer/probes/common.h``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "F_CLONED",
    "F_COPIED",
    "F_DATA_ONLY",
    "F_DONE",
    "F_EXACT",
    "F_FAILED",
    "F_METACOPY",
    "F_MISSED",
    "F_UNSEEN",
    "PATH_IN_RECORD",
    "RECORD_SIZE",
    "SPAN",
    "Batch",
    "Change",
    "MountRecord",
    "has_mounts",
    "split",
]

RECORD_SIZE = 512
PATH_IN_RECORD = 320
_CHUNK = 480

REC_SPAN, REC_PATH, REC_MOUNT, REC_ATTACH = 1, 2, 3, 4
F_DONE, F_DATA_ONLY, F_CLONED, F_METACOPY, F_UNSEEN = 1, 2, 4, 16, 32
F_EXACT, F_COPIED, F_FAILED, F_MISSED = 64, 128, 256, 512

SPAN = np.dtype(
    [
        ("kind", "u4"),
        ("flags", "u4"),
        ("id", "u8"),
        ("start", "u8"),
        ("create_end", "u8"),
        ("data_end", "u8"),
        ("sync", "u8"),
        ("link_start", "u8"),
        ("end", "u8"),
        ("size", "u8"),
        ("blocks", "u8"),
        ("dirtied", "u8"),
        ("cgroup", "u8"),
        ("parent", "u8"),
        ("call_flags", "u8"),
        ("entries", "u8"),
        ("what", "u4"),
        ("outcome", "u4"),
        ("stack", "i4"),
        ("layers", "u4"),
        ("mount", "u4"),
        ("tid", "u4"),
        ("pid", "u4"),
        ("uid", "u4"),
        ("nr", "u4"),
        ("ret", "i4"),
        ("mode", "u4"),
        ("magic", "u4"),
        ("path_len", "u4"),
        ("pages", "u4"),
        ("comm", "S16"),
        # V, not S: numpy would strip bytes that happen to be zero.
        ("path", f"V{PATH_IN_RECORD}"),
    ]
)
_PATH = np.dtype(
    [
        ("kind", "u4"),
        ("number", "u4"),
        ("id", "u8"),
        ("length", "u4"),
        ("pad", "u4", 3),
        ("path", f"V{_CHUNK}"),
    ]
)
_ATTACH = np.dtype(
    [
        ("kind", "u4"),
        ("pid", "u4"),
        ("when", "u8"),
        ("mount", "u4"),
        ("pad", "u4"),
        ("rest", "V488"),
    ]
)
_NO_MOUNT = 0xFFFFFFFF
_MOUNT = np.dtype(
    [
        ("kind", "u4"),
        ("mount", "u4"),
        ("dev", "u4"),
        ("top_dev", "u4"),
        ("metacopy", "u4"),
        ("pid", "u4"),
        ("layers", "u4"),
        ("fresh", "u4"),
        ("names", "S16", 8),
        ("when", "u8"),
        ("rest", "V344"),
    ]
)


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
class Batch:
    """What one reading of the ring gave."""

    spans: npt.NDArray[np.void]
    long_paths: Mapping[int, bytes]
    mounts: tuple[MountRecord, ...]
    changes: tuple[Change, ...]


def has_mounts(raw: bytes) -> bool:
    """Whether there is news of mounts among the records."""
    return bool((np.frombuffer(raw, SPAN)["kind"] >= REC_MOUNT).any())


def split(raw: bytes) -> Batch:
    """Sort the records by kind; ``raw`` is any number of whole records."""
    every = np.frombuffer(raw, SPAN)
    kinds = every["kind"]
    chunks: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
    mounts: list[MountRecord] = []
    changes: list[Change] = []
    if (kinds != REC_SPAN).any():
        for row in np.frombuffer(raw, _PATH)[kinds == REC_PATH]:
            part = row["path"].tobytes()[: min(int(row["length"]), _CHUNK)]
            chunks[int(row["id"])].append((int(row["number"]), part))
        for row in np.frombuffer(raw, _MOUNT)[kinds == REC_MOUNT]:
            mounts.append(_mount(row))
        for row in np.frombuffer(raw, _ATTACH)[kinds == REC_ATTACH]:
            gone = int(row["mount"])
            changes.append(
                Change(int(row["pid"]), int(row["when"]), None if gone == _NO_MOUNT else gone)
            )
    # One that was lost leaves a path that is too short, seen later.
    long_paths = {
        ident: b"".join(part for _, part in sorted(parts)) for ident, parts in chunks.items()
    }
    return Batch(every[kinds == REC_SPAN], long_paths, tuple(mounts), tuple(changes))


def _mount(row: np.void) -> MountRecord:
    dev = int(row["dev"])
    names = [name.decode("ascii", "replace") for name in row["names"]]
    return MountRecord(
        number=int(row["mount"]),
        dev=(dev >> 20, dev & 0xFFFFF),
        pid=int(row["pid"]),
        metacopy=bool(row["metacopy"]),
        layers=tuple(name for name in names[: int(row["layers"])] if name),
        mounted=int(row["when"]) if row["fresh"] else None,
    )


assert SPAN.itemsize == _PATH.itemsize == _MOUNT.itemsize == RECORD_SIZE
