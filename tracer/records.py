"""Spans as the probes send them: their layouts, which mirror ``tracer/probes/common.h``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.news import CGROUP_AT, REC_PATH, REC_SPAN, RECORD_SIZE

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
    "SPAN",
    "Batch",
    "split",
]

PATH_IN_RECORD = 320
_CHUNK = 480

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


@dataclass(frozen=True)
class Batch:
    """What one reading of the ring gave."""

    spans: npt.NDArray[np.void]
    long_paths: Mapping[int, bytes]


def split(raw: bytes) -> Batch:
    """The spans and their paths; ``raw`` is any number of whole records."""
    every = np.frombuffer(raw, SPAN)
    kinds = every["kind"]
    chunks: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
    if (kinds == REC_PATH).any():
        for row in np.frombuffer(raw, _PATH)[kinds == REC_PATH]:
            part = row["path"].tobytes()[: min(int(row["length"]), _CHUNK)]
            chunks[int(row["id"])].append((int(row["number"]), part))
    # One that was lost leaves a path that is too short, seen later.
    long_paths = {
        ident: b"".join(part for _, part in sorted(parts)) for ident, parts in chunks.items()
    }
    return Batch(every[kinds == REC_SPAN], long_paths)


assert SPAN.itemsize == _PATH.itemsize == RECORD_SIZE
assert SPAN.fields is not None
assert SPAN.fields["cgroup"][1] == CGROUP_AT
