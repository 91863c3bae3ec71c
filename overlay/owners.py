"""Who uses a top, and who keeps a mount busy: asked only once something was refused.

Both questions mean a walk through /proc, which costs milliseconds and grows with the
machine, so nothing on the way of a successful mount or unmount asks them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from overlay import mountinfo, syscalls

__all__ = [
    "Process",
    "mount_namespaces",
    "overlay_using",
    "overlays_in_use",
    "processes_using",
]


@dataclass(frozen=True, slots=True)
class Process:
    """A process: ``comm`` is its command name, at most 15 bytes."""

    pid: int
    comm: str

    def __str__(self) -> str:
        return f"{self.comm} ({self.pid})"


def overlay_using(directory: str) -> tuple[mountinfo.OverlayMount, Process | None] | None:
    """The overlay that has ``directory`` as top or work, in whatever mount namespace.

    The process is None when the overlay is in the caller's own namespace, else some
    process of the namespace it is in.  None when it cannot be found, as for a detached
    mount, which no mountinfo shows.
    """
    try:
        wanted = os.stat(directory)
    except OSError:
        return None
    for process, entries in mount_namespaces():
        for mount in mountinfo.overlays(entries):
            for used in (mount.top, mount.work):
                if used is not None and _is_file(used, process, wanted):
                    return mount, process
    return None


def _is_file(path: str, process: Process | None, wanted: os.stat_result) -> bool:
    # Another namespace's path means something below that namespace's root; or here, where
    # whoever mounted it stepped into it, as `fallthru run` does.
    for seen in (path,) if process is None else (f"/proc/{process.pid}/root{path}", path):
        try:
            if os.path.samestat(os.stat(seen), wanted):
                return True
        except OSError:
            continue
    return False


def mount_namespaces() -> Iterator[tuple[Process | None, list[mountinfo.MountEntry]]]:
    """The mounts of every mount namespace, each with a process in it; None for the caller's."""
    yield None, mountinfo.read()
    seen = {_namespace("self")}
    for pid in _pids():
        namespace = _namespace(pid)
        if namespace is None or namespace in seen:
            continue
        seen.add(namespace)
        try:
            yield Process(pid, _comm(pid)), mountinfo.read(pid)
        except OSError:
            continue  # it ended, or is not ours to look at


def processes_using(device: int) -> list[Process]:
    """The processes with a file, directory or root on the file system ``device`` (st_dev)."""
    users = []
    for pid in _pids():
        if any(_on_device(link, device) for link in _links(pid)):
            users.append(Process(pid, _comm(pid)))
    return users


def overlays_in_use(devices: Collection[int]) -> set[int]:
    """Those of ``devices`` (st_dev) that are overlays some process has a directory or file on."""
    found: set[int] = set()
    for pid in _pids():
        for link in _links(pid):
            if len(found) == len(devices):
                return found
            try:
                device = os.stat(link).st_dev
                # The number of an overlay that went may be another file system's now.
                if device in devices and syscalls.statfs_type(link) == syscalls.OVERLAYFS_MAGIC:
                    found.add(device)
            except OSError:
                continue  # closed meanwhile
    return found


def _links(pid: int) -> Iterator[str]:
    yield f"/proc/{pid}/cwd"
    yield f"/proc/{pid}/root"
    yield f"/proc/{pid}/exe"
    for table in ("fd", "map_files"):
        try:
            entries = os.listdir(f"/proc/{pid}/{table}")
        except OSError:
            continue
        yield from (f"/proc/{pid}/{table}/{entry}" for entry in entries)


def _on_device(link: str, device: int) -> bool:
    try:
        return os.stat(link).st_dev == device
    except OSError:
        return False


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _namespace(pid: int | str) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return None


def _comm(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return "?"
