"""Snapshots of a top: what it held at a time, to go back to.

They are beside the top, TOP.snapshots/LABEL, each with the top and the index of hard links
that is in its work directory.  A snapshot is copied aside and renamed, so it is there whole
or not at all; going back exchanges the top in one step.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from overlay import syscalls, workdir
from overlay.errors import Refused, TopInUse, UsageError
from overlay.inuse import top_in_use
from overlay.text import printable
from overlay.topcopy import copy_tops

__all__ = ["Snapshot", "remove", "roll_back", "snapshots", "take"]

_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
_ASIDE: Final = ".new"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot by its label; ``taken`` in seconds since the epoch."""

    label: str
    taken: float


def snapshots(top: str) -> list[Snapshot]:
    """The snapshots of a top, oldest first."""
    try:
        with os.scandir(_place(top)) as entries:
            found = [
                Snapshot(entry.name, entry.stat().st_mtime)
                for entry in entries
                if not entry.name.endswith(_ASIDE)
            ]
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda each: (each.taken, each.label))


def take(top: str, label: str | None = None, *, work: str | None = None) -> Snapshot:
    """Copy what a top holds now; TopInUse while it is mounted, Refused for a label in use."""
    top = _existing(top)
    label = label or time.strftime("%Y-%m-%dT%H:%M:%S")
    _check(label)
    with _resting(top):
        place = os.path.join(_place(top), label)
        if os.path.lexists(place):
            raise Refused(f"there is a snapshot {label} of {printable(top)} already")
        aside = place + _ASIDE
        try:
            _copied(top, work or workdir.beside(top), aside)
            now = time.time()
            os.utime(aside, (now, now))
            _synced(aside)
            os.rename(aside, place)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        _synced(_place(top))
    return Snapshot(label, now)


def roll_back(top: str, label: str | None = None, *, work: str | None = None) -> Snapshot:
    """Make a top what it was at a snapshot, by default the latest; what it holds now is lost.

    UsageError where there is none.  If it cannot be finished, the same call goes on.
    """
    top = _existing(top)
    chosen = _chosen(top, label)
    below = work or workdir.beside(top)
    aside = top + ".rollback" + _ASIDE
    with _resting(top):
        try:
            _copied_back(os.path.join(_place(top), chosen.label), aside)
            _synced(aside)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        # The index says whose it is, so an old one would be refused, not believed.
        shutil.rmtree(below, ignore_errors=True)
        made = os.path.join(aside, "top")
        syscalls.renameat2(
            syscalls.AT_FDCWD, made, syscalls.AT_FDCWD, top, syscalls.RENAME_EXCHANGE
        )
        if os.path.isdir(os.path.join(aside, "work")):
            os.rename(os.path.join(aside, "work"), below)
        _synced(os.path.dirname(top))
        shutil.rmtree(aside)
    return chosen


def remove(top: str, label: str) -> None:
    """Remove a snapshot; UsageError where there is none."""
    chosen = _chosen(_existing(top), label)
    place = os.path.join(_place(top), chosen.label)
    aside = place + _ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(place, aside)  # half of a snapshot is none
    shutil.rmtree(aside)


def _existing(top: str) -> str:
    if not os.path.isdir(top):
        raise UsageError(f"there is no top {printable(top)}", errno=errno.ENOENT)
    return os.path.realpath(top)


def _place(top: str) -> str:
    return os.path.realpath(top) + ".snapshots"


def _check(label: str) -> None:
    if not _LABEL.fullmatch(label) or label.endswith(_ASIDE):
        raise UsageError(f"{label!r} is no label", hint="letters, digits, dots, dashes, colons")


def _chosen(top: str, label: str | None) -> Snapshot:
    found = snapshots(top)
    if label is not None:
        found = [each for each in found if each.label == label]
    if not found:
        what = "no snapshot" if label is None else f"no snapshot {label}"
        raise UsageError(
            f"there is {what} of {printable(top)}", hint="fallthru snapshot --list tells them"
        )
    return found[-1]


def _copied(top: str, work: str, place: str) -> None:
    """The top, and the index if it has one, as ``place``/top and ``place``/work."""
    shutil.rmtree(place, ignore_errors=True)
    os.makedirs(place, mode=0o700)
    sources, index = [top], os.path.join(work, "index")
    if os.path.isdir(index):
        sources.append(index)
    copy_tops(sources, place, [os.path.join(place, "index")])
    os.rename(os.path.join(place, os.path.basename(top)), os.path.join(place, "top"))
    if len(sources) > 1:
        os.mkdir(os.path.join(place, "work"), 0o700)
        os.rename(os.path.join(place, "index"), os.path.join(place, "work", "index"))


def _copied_back(snapshot: str, place: str) -> None:
    shutil.rmtree(place, ignore_errors=True)
    os.mkdir(place, 0o700)
    sources = [os.path.join(snapshot, name) for name in ("top", "work")]
    present = [path for path in sources if os.path.isdir(path)]
    copy_tops(present, place, [os.path.join(place, "work", "index")])


@contextmanager
def _resting(top: str) -> Iterator[None]:
    """While nobody else copies the top, and no overlay uses it."""
    os.makedirs(_place(top), mode=0o700, exist_ok=True)
    fd = os.open(_place(top), _DIRECTORY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TopInUse(
                f"another run is copying the top {printable(top)}", hint="wait until it is done"
            ) from None
        if top_in_use(top):
            raise TopInUse(
                f"the top {printable(top)} is mounted",
                hint="unmount it, or stop its root, first",
                errno=errno.EBUSY,
            )
        for name in os.listdir(fd):
            if name.endswith(_ASIDE):  # a run that was killed left it
                shutil.rmtree(os.path.join(_place(top), name))
        yield
    finally:
        os.close(fd)


def _synced(path: str) -> None:
    fd = os.open(path, _DIRECTORY)
    try:
        syscalls.syncfs(fd)
    finally:
        os.close(fd)
