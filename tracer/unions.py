"""What the unions and cgroups that the kernel numbers are called.

The probes know a union by its superblock and a cgroup by its inode; people know them by
path.  Names are looked up when they are needed: a union may be mounted, moved, or
only be seen in another mount namespace, while tracing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from overlay import mountinfo
from overlay.errors import UsageError
from overlay.mountinfo import MountEntry
from overlay.text import printable

if TYPE_CHECKING:
    from tracer.records import MountRecord

__all__ = ["Cgroups", "Unions", "cgroup_root", "device_of", "union_devices"]

#: A name that could not be found is not looked for again before this time (s) is over.
_PATIENCE = 0.2


def device_of(path: str) -> tuple[int, int]:
    """Device number of the union that ``path`` is in.

    Raises :class:`UsageError` when it is in none.
    """
    try:
        number = os.stat(path).st_dev
    except OSError as error:
        raise UsageError(
            f"no such union: {printable(path)}",
            hint="name a mount point; `fallthru status` lists them",
            errno=error.errno or 0,
        ) from error
    device = (os.major(number), os.minor(number))
    if not any(entry.fstype == "overlay" and entry.dev == device for entry in mountinfo.read()):
        raise UsageError(
            f"{printable(path)} is not in an overlay",
            hint="name a mount point; `fallthru status` lists them",
        )
    return device


def union_devices(paths: Iterable[str]) -> tuple[int, ...]:
    """Device numbers of the unions at ``paths``, as the kernel encodes them inside."""
    return tuple(major << 20 | minor for major, minor in map(device_of, paths))


def _namespaces(first: Iterable[int]) -> Iterator[int]:
    """One process for each mount namespace there is, beginning with ``first``."""
    seen = set()
    others = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    for pid in [os.getpid(), *first, *others]:
        try:
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
        except OSError:
            continue  # it is gone, or not ours to look at
        if namespace not in seen:
            seen.add(namespace)
            yield pid


class Unions:
    """Mount points by the numbers that the probes gave to unions."""

    def __init__(self) -> None:
        self._records: dict[int, MountRecord] = {}
        self._found: dict[int, MountEntry] = {}
        self._used: set[int] = set()
        self._tried: dict[int, float] = {}

    def learn(self, records: Iterable[MountRecord], attached: Iterable[int] = ()) -> None:
        """Note unions as they appear, and see where those are that have no name yet.

        ``attached``: processes that have just attached something to their namespace.
        """
        fresh = {record.number: record for record in records}
        self._records.update(fresh)
        unnamed = {n: one for n, one in self._records.items() if n not in self._found}
        if unnamed:
            makers = [record.pid for record in fresh.values()]
            self._resolve(unnamed, [os.getpid(), *makers, *attached])

    def name(self, number: int) -> str | None:
        """Where the union is mounted (printable); None while it is nowhere to be seen."""
        self._used.add(number)
        record = self._records.get(number)
        if record is not None and number not in self._found:
            now = time.monotonic()
            if now - self._tried.get(number, 0.0) >= _PATIENCE:
                self._resolve({number: record}, _namespaces([record.pid]))
                self._tried[number] = now
        entry = self._found.get(number)
        return printable(entry.mount_point) if entry else None

    def _resolve(self, wanted: dict[int, MountRecord], pids: Iterable[int]) -> None:
        missing = {record.dev: number for number, record in wanted.items()}
        for pid in pids:
            try:
                entries = mountinfo.read(pid)
            except OSError:
                continue
            # The mount of the whole union, if there is one, rather than a bind of a part.
            for entry in sorted(entries, key=lambda one: one.root != "/"):
                if entry.fstype == "overlay" and entry.dev in missing:
                    self._found[missing.pop(entry.dev)] = entry
            if not missing:
                return

    def metadata(self) -> dict[str, dict[str, Any]]:
        """For the trace: options and layers of the unions that were named, by mount point."""
        described = {}
        for number in sorted(self._used & self._found.keys()):
            entry, record = self._found[number], self._records[number]
            options = ",".join(
                f"{key}={value}" if value else key for key, value in entry.super_options
            )
            described[printable(entry.mount_point)] = {
                "options": printable(options),
                "top": record.layers[0] if record.layers else None,
                "bottoms": list(record.layers[1:]),
            }
        return described


def cgroup_root() -> str | None:
    """Where cgroup2 is mounted, if it is."""
    for entry in mountinfo.read():
        if entry.fstype == "cgroup2":
            return entry.mount_point
    return None


class Cgroups:
    """Cgroup paths below the cgroup2 root, by inode number, which is the kernel's id."""

    def __init__(self) -> None:
        self._root = cgroup_root()
        self._paths: dict[int, str] = {}
        self._read_at = float("-inf")

    def name(self, ident: int) -> str | None:
        if ident not in self._paths and time.monotonic() - self._read_at >= _PATIENCE:
            self._read()
        return self._paths.get(ident)

    def _read(self) -> None:
        self._read_at = time.monotonic()
        if self._root is None:
            return
        for directory, _, _ in os.walk(self._root):
            try:
                ident = os.stat(directory).st_ino
            except FileNotFoundError:
                continue
            below = os.path.relpath(directory, self._root)
            self._paths[ident] = "/" if below == "." else "/" + printable(below)
