"""What the unions and cgroups that the kernel numbers are called.

The probes know a union by its superblock and a cgroup by its inode; people know them by
path.  Names are looked up when they are needed: a union may be mounted, moved, or
only be seen in another mount namespace, while tracing.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from overlay import mountinfo
from overlay.errors import UsageError
from overlay.mountinfo import MountEntry
from overlay.text import printable
from tracer.containers import container_of, owners

if TYPE_CHECKING:
    from tracer.news import Change, MountRecord

__all__ = ["Cgroups", "MountWatch", "Unions", "cgroup_root", "device_of", "union_devices"]

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
    """Mount points by the numbers that the probes gave to unions.

    A union is found in mountinfo by its device number, which the kernel gives to another
    once the union is gone.  A union announces itself before it is attached anywhere; so
    whatever mountinfo showed belongs to the newest union with its number once the
    announcements up to then have been learnt: call :meth:`learn` after :meth:`look_for`,
    and ask for names then.  ``all_lives``: unions that came, changed or went are of interest
    also where nothing traced happened in them.
    """

    def __init__(self, clock_offset: int = 0, *, all_lives: bool = True) -> None:
        self._all_lives = all_lives
        self._clock_offset = clock_offset
        self._records: dict[int, MountRecord] = {}
        self._gone: dict[int, int] = {}
        self._remounts: dict[int, list[tuple[int, MountEntry]]] = {}
        self._by_device: dict[tuple[int, int], list[int]] = {}
        self._found: dict[int, MountEntry] = {}
        self._owners: dict[int, str] = {}
        self._used: set[int] = set()
        self._tried: dict[int, float] = {}

    def learn(self, records: Iterable[MountRecord], changes: Sequence[Change] = ()) -> None:
        """Note unions as they appear, change and go, and where those are that have no name yet."""
        makers = [os.getpid(), *{change.pid for change in changes}]
        for record in records:
            self._records[record.number] = record
            self._by_device.setdefault(record.dev, []).append(record.number)
            makers.append(record.pid)
        self._resolve(self._records, makers)
        if changes:
            self._follow(changes)

    def _follow(self, changes: Sequence[Change]) -> None:
        """Which of the unions that were found have other options now, or are no more."""
        for change in changes:
            if change.gone is not None:
                self._gone.setdefault(change.gone, change.when)
        missing = {
            entry.dev: number
            for number, entry in self._found.items()
            if number not in self._gone and self._by_device[entry.dev][-1] == number
        }
        makers = [change.pid for change in changes]
        for pid in _namespaces(makers) if missing else ():
            try:
                entries = mountinfo.read(pid)
            except OSError:
                continue
            for entry in entries:
                if entry.fstype == "overlay" and entry.dev in missing:
                    self._compare(missing.pop(entry.dev), entry)
            if not missing:
                return
        # What mountinfo shows is as of now, and newer than the change that made us look.
        self._gone.update(dict.fromkeys(missing.values(), time.monotonic_ns()))

    def _compare(self, number: int, entry: MountEntry) -> None:
        remounts = self._remounts.get(number, [])
        before = remounts[-1][1] if remounts else self._found[number]
        if entry.mount_point == before.mount_point and _options(entry) != _options(before):
            self._remounts[number] = [*remounts, (time.monotonic_ns(), entry)]

    def look_for(self, numbers: Iterable[int]) -> None:
        """Search all mount namespaces for those of ``numbers`` that have no name yet."""
        now = time.monotonic()
        self._used.update(numbers)
        wanted = [
            number
            for number in self._used & self._records.keys() - self._found.keys()
            if now - self._tried.get(number, float("-inf")) >= _PATIENCE
        ]
        self._resolve(wanted, _namespaces(self._records[number].pid for number in wanted))
        self._tried.update(dict.fromkeys(wanted, now))

    def name(self, number: int) -> str | None:
        """Where the union is mounted (printable); None if that was never seen."""
        entry = self._found.get(number)
        return printable(entry.mount_point) if entry else None

    def _resolve(self, numbers: Iterable[int], pids: Iterable[int]) -> None:
        # Only the newest union with a device number can still be there.
        missing = {
            self._records[number].dev: number
            for number in numbers
            if number not in self._found
            and self._by_device[self._records[number].dev][-1] == number
        }
        fresh = {}
        for pid in pids if missing else ():
            try:
                entries = mountinfo.read(pid)
            except OSError:
                continue
            # The mount of the whole union, if there is one, rather than a bind of a part.
            for entry in sorted(entries, key=lambda one: one.root != "/"):
                if entry.fstype == "overlay" and entry.dev in missing:
                    number = missing.pop(entry.dev)
                    self._assign(number, entry)
                    top = dict(entry.super_options).get("upperdir", "")
                    fresh[number] = (entry.mount_point, top)
            if not missing:
                break
        # Engines forget containers that are to be removed when they end.
        self._owners |= owners(fresh)

    def _assign(self, number: int, entry: MountEntry) -> None:
        """``entry`` is the union's, and so not an earlier one's that was taken for it."""
        for earlier in self._by_device[entry.dev][:-1]:
            if self._found.get(earlier) == entry:
                del self._found[earlier]
        self._found[number] = entry

    def metadata(self, counted: Iterable[int] = ()) -> dict[str, dict[str, Any]]:
        """For the trace: the unions that spans belong to, or operations that were ``counted``, or
        that came, changed or went meanwhile: options, layers and times by mount point."""
        described = {}
        came = {number for number, one in self._records.items() if one.mounted is not None}
        told = {*self._used, *counted}
        if self._all_lives:
            told |= came | self._gone.keys() | self._remounts.keys()
        for number in sorted(told & self._found.keys()):
            entry, record = self._found[number], self._records[number]
            one: dict[str, Any] = {
                "options": _options(entry),
                "top": record.layers[0] if record.layers else None,
                "bottoms": list(record.layers[1:]),
            }
            if number in self._owners:
                one["container"] = self._owners[number]
            if record.mounted is not None:
                one["mounted_ns"] = record.mounted + self._clock_offset
            if number in self._gone:
                one["unmounted_ns"] = self._gone[number] + self._clock_offset
            if self._remounts.get(number):
                one["remounted"] = [
                    {"ns": when + self._clock_offset, "options": _options(entry)}
                    for when, entry in self._remounts[number]
                ]
            described[printable(entry.mount_point)] = one
        return described


def _options(entry: MountEntry) -> str:
    """The options of the union, which a remount changes."""
    pairs = (f"{key}={value}" if value else key for key, value in entry.super_options)
    return printable(",".join(pairs))


def cgroup_root() -> str | None:
    """Where cgroup2 is mounted, if it is."""
    for entry in mountinfo.read():
        if entry.fstype == "cgroup2":
            return entry.mount_point
    return None


class MountWatch:
    """Tells when mounts of this process's namespace were attached, changed or detached."""

    def __init__(self) -> None:
        self._file = os.open("/proc/thread-self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLPRI)

    def changed(self) -> bool:
        """Whether they have, since the last call."""
        return bool(self._poll.poll(0))

    def __enter__(self) -> MountWatch:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


class Cgroups:
    """Cgroup paths below the cgroup2 root, by inode number, which is the kernel's id."""

    def __init__(self) -> None:
        self._root = cgroup_root()
        self._paths: dict[int, str] = {}
        self._containers: dict[int, str | None] = {}
        self._tried: dict[int, float] = {}

    def learn(self, idents: Collection[int]) -> None:
        """Look up those that are new while they are there: a container's goes when it ends."""
        now = time.monotonic()
        missing = [
            ident
            for ident in idents
            if ident not in self._paths and now - self._tried.get(ident, float("-inf")) >= _PATIENCE
        ]
        if missing:
            self._read()
            self._tried.update(dict.fromkeys(missing, now))
        for ident in idents:
            if ident in self._paths and ident not in self._containers:
                self._containers[ident] = container_of(self._paths[ident])

    def name(self, ident: int) -> str | None:
        self.learn((ident,))
        return self._paths.get(ident)

    def container(self, ident: int) -> str | None:
        """What the engine calls the container that it is, or is in."""
        self.learn((ident,))
        return self._containers.get(ident)

    def _read(self) -> None:
        if self._root is None:
            return
        for directory, _, _ in os.walk(self._root):
            try:
                ident = os.stat(directory).st_ino
            except FileNotFoundError:
                continue
            below = os.path.relpath(directory, self._root)
            self._paths[ident] = "/" if below == "." else "/" + printable(below)
