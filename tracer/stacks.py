"""User-space stacks as names: who, in the program, made the call.

The kernel gives return addresses.  What they mean is known only while the process is
there, so they are looked up as soon as they arrive.
"""

from __future__ import annotations

import os
import struct
import sys
from bisect import bisect_right
from dataclasses import dataclass, field

from overlay.bpf.loading import Map
from overlay.text import printable
from tracer.elfsymbols import Symbols

__all__ = ["Stacks"]

#: Files whose symbols are remembered, and processes whose mappings are.
_FILES, _PROCESSES = 256, 256
#: What a process has mapped is its own choice: nothing of it may make us wait.
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass
class _Process:
    """Where a process has files mapped: sorted by start."""

    starts: list[int] = field(default_factory=list)
    maps: list[tuple[int, int, str]] = field(default_factory=list)  # end, offset, path


class Stacks:
    """The stacks in the map ``table`` by number and process: functions, the outermost first."""

    def __init__(self, table: Map) -> None:
        self._table = table
        self._known: dict[tuple[int, int], str | None] = {}
        self._processes: dict[int, _Process] = {}
        self._symbols: dict[tuple[int, int], Symbols] = {}

    def learn(self, pairs: set[tuple[int, int]]) -> None:
        """Look up those of ``pairs`` (number of the stack, process) that are new."""
        for number, pid in pairs - self._known.keys():
            self._known[number, pid] = self._named(number, pid) if number >= 0 else None

    def name(self, number: int, pid: int) -> str | None:
        """``main;work;open``; None where there is no stack."""
        return self._known.get((number, pid))

    def _named(self, number: int, pid: int) -> str | None:
        try:
            raw = self._table[number.to_bytes(4, sys.byteorder)]
        except KeyError:
            return None
        addresses = [one for one in struct.unpack(f"={len(raw) // 8}Q", raw) if one]
        # A return address may be the first of the next function: look before it.
        frames = [self._frame(pid, at - (place > 0)) for place, at in enumerate(addresses)]
        return ";".join(reversed(frames)) or None

    def _frame(self, pid: int, address: int) -> str:
        process = self._process(pid, address)
        place = bisect_right(process.starts, address) - 1
        if place < 0 or address >= process.maps[place][0]:
            return "[unknown]"
        _, offset, path = process.maps[place]
        if not path.startswith("/"):
            return path or "[anonymous]"  # made at run time: a compiler's own code
        offset += address - process.starts[place]
        symbols = self._file(pid, path)
        name = symbols.name(offset) if symbols else None
        return name or f"{printable(os.path.basename(path))}+{offset:#x}".replace(";", ":")

    def _process(self, pid: int, address: int) -> _Process:
        known = self._processes.get(pid)
        if known is not None:
            place = bisect_right(known.starts, address) - 1
            if place >= 0 and address < known.maps[place][0]:
                return known
        if len(self._processes) >= _PROCESSES:
            self._processes.clear()
        found = self._processes[pid] = _mapped(pid)
        return found

    def _file(self, pid: int, path: str) -> Symbols | None:
        try:
            # Seen as the process sees it, be it in a container.
            fd = os.open(f"/proc/{pid}/root{path}", _OPEN)
        except OSError:
            return None
        try:
            status = os.fstat(fd)
            key = (status.st_dev, status.st_ino)
            if key not in self._symbols:
                if len(self._symbols) >= _FILES:
                    self._symbols.clear()
                self._symbols[key] = Symbols(fd)
            return self._symbols[key]
        finally:
            os.close(fd)


def _mapped(pid: int) -> _Process:
    found = _Process()
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                bounds, access, offset, _, _, *path = line.rstrip("\n").split(maxsplit=5)
                if "x" not in access:
                    continue
                low, high = (int(one, 16) for one in bounds.split("-"))
                found.starts.append(low)
                found.maps.append((high, int(offset, 16), path[0] if path else ""))
    except OSError:
        pass  # it has ended
    return found
