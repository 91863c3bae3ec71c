"""Which roots there are and which of them run: cheap to ask, with a thousand running.

That a root runs, until the next boot, is noted in /run/fallthru/roots, with its first
process.  A process is known by its number and the time it started, so that no other is ever
taken for it; a note without its process is of a root that was killed, and what that left is
taken up by the next command.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, Final, Self

from overlay import runstate
from overlay.errors import NoPrivilege, UsageError

__all__ = ["DIRECTORY", "Standing", "check_name", "names", "standings", "start_time"]

DIRECTORY: Final = "/var/lib/fallthru/roots"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}")


@dataclass(frozen=True, slots=True)
class Standing:
    """A root that runs: its first process, since when (epoch), and its place in the network.

    ``started`` is when the process was, in clock ticks since the boot.
    """

    name: str
    pid: int
    started: int
    since: float
    group: str | None = None
    address: str | None = None

    @classmethod
    def from_note(cls, note: dict[str, Any]) -> Self:
        return cls(**{key: value for key, value in note.items() if key != "boot"})

    @property
    def lives(self) -> bool:
        return start_time(self.pid) == self.started


def check_name(name: str) -> None:
    """UsageError unless ``name`` is a host name's first label, or a few of them."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a root", hint="letters, digits, dots and dashes, at most 63"
        )


def names() -> list[str]:
    """All roots that were created, sorted."""
    try:
        return sorted(name for name in os.listdir(DIRECTORY) if _NAME.fullmatch(name))
    except FileNotFoundError:
        return []
    except PermissionError:
        raise NoPrivilege("roots by name are root's", hint="run as root") from None


def standings() -> dict[str, Standing]:
    """The roots that run, by name; what killed ones left is taken up."""
    found = {}
    killed = []
    for name, note in runstate.load("roots").items():
        standing = Standing.from_note(note)
        if standing.lives:
            found[name] = standing
        else:
            killed.append(name)
    if killed and os.geteuid() == 0:
        from overlay import roots  # which has all that it takes to make one

        roots.take_up(killed)
    return found


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since the boot; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    # Fields from the third on (proc(5)): the state, and the 22nd, starttime.
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
