"""Limits by cgroup v2: one group for each root, gone with it.

The groups are in ``fallthru/`` at the top of the hierarchy.  A machine that has version 2
only beside version 1, without the controllers, cannot limit; its groups then only gather
the processes, which also makes sure that all of them end.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from overlay import mountinfo
from overlay.errors import EnvironmentLacks, OperationFailed

__all__ = ["Group", "Limits", "hierarchy", "make"]

_PARENT: Final = "fallthru"
_PATIENCE: Final = 10.0  # seconds
_POLL: Final = 0.005
_CPU_PERIOD: Final = 100_000  # µs, the kernel's default


@dataclass(frozen=True, slots=True)
class Limits:
    """What a root may use: bytes of memory, processors, processes; None for all there is."""

    memory: int | None = None
    cpus: float | None = None
    processes: int | None = None

    def settings(self) -> dict[str, str]:
        """The control files and what to write to them."""
        found = {}
        if self.memory is not None:
            found["memory.max"] = str(self.memory)
        if self.cpus is not None:
            found["cpu.max"] = f"{int(self.cpus * _CPU_PERIOD)} {_CPU_PERIOD}"
        if self.processes is not None:
            found["pids.max"] = str(self.processes)
        return found


@dataclass(frozen=True, slots=True)
class Group:
    """A control group, by its directory."""

    path: str

    def add(self, pid: int) -> None:
        """Put a process, and what it will start, into the group."""
        _write(os.path.join(self.path, "cgroup.procs"), str(pid))

    def remove(self) -> None:
        """Remove the group and what is left in it; nothing happens where it is gone."""
        with suppress(OSError):
            _write(os.path.join(self.path, "cgroup.kill"), "1")  # since 5.14
        # The last processes may be on their way out, and are counted until they are gone.
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                os.rmdir(self.path)
                break
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise OperationFailed(
                        f"the control group {self.path} cannot be removed", errno=error.errno or 0
                    ) from None
            time.sleep(_POLL)
        with suppress(OSError):
            os.rmdir(os.path.dirname(self.path))


def hierarchy() -> str | None:
    """Where cgroup v2 is mounted, None where it is not."""
    for entry in mountinfo.read():
        if entry.fstype == "cgroup2" and entry.root == "/":
            return entry.mount_point
    return None


def make(name: str, limits: Limits) -> Group | None:
    """A group with these limits; None where there is no cgroup v2 and nothing to limit.

    EnvironmentLacks where a limit cannot be set.
    """
    settings = limits.settings()
    top = hierarchy()
    if top is None:
        if settings:
            raise EnvironmentLacks(
                "there is no cgroup v2, so nothing can be limited",
                hint="mount -t cgroup2 cgroup2 /sys/fs/cgroup",
            )
        return None
    needed = {key.partition(".")[0] for key in settings}
    with open(os.path.join(top, "cgroup.controllers"), encoding="ascii") as file:
        missing = needed - set(file.read().split())
    if missing:
        raise EnvironmentLacks(
            f"cgroup v2 has no {' and no '.join(sorted(missing))} controller here",
            hint="version 1 has them: boot with systemd.unified_cgroup_hierarchy=1 "
            "or cgroup_no_v1=all",
        )
    parent = os.path.join(top, _PARENT)
    group = Group(os.path.join(parent, name))
    try:
        for directory in (top, parent):
            os.makedirs(directory, exist_ok=True)
            for controller in sorted(needed):
                _write(os.path.join(directory, "cgroup.subtree_control"), f"+{controller}")
        with suppress(FileExistsError):
            os.mkdir(group.path)
        for key, value in settings.items():
            _write(os.path.join(group.path, key), value)
    except OSError as error:
        group.remove()
        if not settings and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return None
        raise OperationFailed(
            f"the control group {group.path} cannot be made", errno=error.errno or 0
        ) from None
    return group


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
