"""Whether a bottom changed under an overlay: what is known at the mount, and compared later.

A hold can be taken away (``blockdev --setrw``) and given back, and a bottom without one
can be written between two looks.  So what cannot be undone is kept too: how much was ever
written to the block device, and how the image file was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Self

from overlay.guard import BottomState, Hold
from overlay.text import human_bytes, printable

__all__ = ["Evidence", "Taint"]


@dataclass(frozen=True, slots=True)
class Taint:
    """What happened to a bottom, and when that was first seen (seconds since the epoch).

    ``kind`` is ``hold``, ``device``, ``image`` or ``file``; each is told once.
    """

    kind: str
    what: str
    seen: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """A bottom at the time an overlay began to rely on it.

    ``sectors`` (of 512 bytes) had been written to its block device since the device came;
    None where others may write to it rightfully.  ``held``: fallthru keeps it read-only, by
    the device or file system of one of ``numbers``.  ``file`` is the image's (device, inode,
    size, mtime in ns).
    """

    path: str
    hold: Hold
    device: tuple[int, int] | None
    sectors: int | None
    held: bool
    numbers: set[tuple[int, int]]
    image: str | None
    file: tuple[int, int, int, int] | None

    @classmethod
    def of(cls, state: BottomState, *, held: bool = False) -> Self:
        """What ``state`` is now, to be compared with later."""
        device = state.device if state.super_read_only else None
        return cls(
            path=state.path,
            hold=state.hold,
            device=state.device,
            sectors=None if device is None else _sectors_written(device),
            held=held,
            numbers=state.numbers,
            image=state.image,
            file=None if state.image is None else _file(state.image),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data that :meth:`from_json` takes."""
        return {**asdict(self), "hold": self.hold.value, "numbers": sorted(self.numbers)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """What :meth:`to_json` gave."""
        device, file = value["device"], value["file"]
        return cls(
            path=value["path"],
            hold=Hold(value["hold"]),
            device=None if device is None else (device[0], device[1]),
            sectors=value["sectors"],
            held=value["held"],
            numbers={(major, minor) for major, minor in value["numbers"]},
            image=value["image"],
            file=None if file is None else (file[0], file[1], file[2], file[3]),
        )

    def changes(self, now: BottomState) -> Iterator[tuple[str, str]]:
        """(kind, what) of all in which ``now`` differs, so that the bottom may have changed."""
        if now.hold.strength < self.hold.strength:
            yield "hold", f"it was held by its {self.hold.value}, and is not now: {now.reason}"
        if self.sectors is not None and self.device is not None:
            written = _sectors_written(self.device)
            if written is not None and written > self.sectors:
                size = human_bytes((written - self.sectors) * 512)
                yield "device", f"{size} were written to its block device"
        if self.file is not None and self.image is not None:
            file = _file(self.image)
            # Another inode: the image was replaced by name, and the overlay has the old one.
            if file is not None and file[:2] == self.file[:2] and file != self.file:
                yield "image", f"the image {printable(self.image)} was written to"


def _sectors_written(device: tuple[int, int]) -> int | None:
    try:
        with open(f"/sys/dev/block/{device[0]}:{device[1]}/stat", encoding="ascii") as file:
            return int(file.read().split()[6])  # Documentation/block/stat.rst
    except (OSError, IndexError, ValueError):
        return None


def _file(path: str) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
