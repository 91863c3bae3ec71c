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
_FORMAT: Final = 2  # of a note; to be counted up when an older fallthru could not use it
_NOTED: Final = ("name", "pid", "started", "since", "group", "address", "ready")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}")


@dataclass(frozen=True, slots=True)
class Standing:
    """A root that runs: its first process, since when (epoch), and its place in the network.

    ``started`` is when the process was, in clock ticks since the boot.  Not ``ready``: it is
    being started, or was when that was killed.  ``newer``: a newer fallthru started it, and
    may have noted more than is understood here.
    """

    name: str
    pid: int
    started: int
    since: float
    group: str | None = None
    address: str | None = None
    ready: bool = True
    newer: bool = False

    @classmethod
    def from_note(cls, name: str, note: dict[str, Any]) -> Self:
        # The first notes had no number.
        if note.get("format", 1) > _FORMAT:
            return cls(name, int(note.get("pid", 0)), 0, float(note.get("since", 0)), newer=True)
        return cls(**{key: value for key, value in note.items() if key in _NOTED})

    def to_note(self) -> dict[str, Any]:
        return {"format": _FORMAT, **{key: getattr(self, key) for key in _NOTED}}

    @property
    def lives(self) -> bool:
        """Whether it is whole and its first process there; of a newer fallthru's that is hoped."""
        return self.newer or (self.ready and self.has_process)

    @property
    def has_process(self) -> bool:
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
        standing = Standing.from_note(name, note)
        if standing.lives:
            found[name] = standing
        else:
            killed.append(name)
    if killed and os.geteuid() == 0:
        from overlay.roots import named as roots  # which has all that it takes to make one

        found.update({standing.name: standing for standing in roots.take_up(killed)})
    return found


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since the boot; None if it is gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            # One line, and it comes in one piece.
            fields = os.read(fd, 4096).rpartition(b")")[2].split()
        finally:
            os.close(fd)
    except OSError:
        return None
    # Fields from the third on (proc(5)): the state, and the 22nd, starttime.
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
