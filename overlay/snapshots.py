"""Snapshots of a top: what it held at a time, to go back to.

They are beside the top, TOP.snapshots/LABEL, each with the top and the index of hard links
that is in its work directory.  A snapshot is copied aside and renamed, so it is there whole
or not at all; going back exchanges the top in one step.  What :mod:`overlay.roots.snapshots`
makes without a copy is in the same place.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from overlay import syscalls, workdir
from overlay.errors import OperationFailed, Refused, TopInUse, UsageError
from overlay.inuse import top_in_use
from overlay.text import printable
from overlay.topcopy import copy_tops

__all__ = [
    "Snapshot",
    "chosen",
    "place_of",
    "remove",
    "remove_any",
    "require_free",
    "require_label",
    "resting",
    "roll_back",
    "snapshots",
    "synced",
    "take",
    "write_note",
]

_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
_ASIDE: Final = ".new"
_NOTE: Final = "snapshot.json"
_FORMAT: Final = 1
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot by its label; ``taken`` in seconds since the epoch.

    ``bottoms`` are those that the root had, where it was of a root by name.  ``stacked``: the
    top itself was put there, as a bottom of that root.
    """

    label: str
    taken: float
    bottoms: tuple[str, ...] | None = None
    stacked: bool = False


def snapshots(top: str) -> list[Snapshot]:
    """The snapshots of a top, oldest first."""
    try:
        with os.scandir(place_of(top)) as entries:
            found = [
                _noted(entry.path, entry.stat().st_mtime)
                for entry in entries
                if not entry.name.endswith(_ASIDE)
            ]
    except FileNotFoundError:
        return []
    whole = [each for each in found if each is not None]
    return sorted(whole, key=lambda each: (each.taken, each.label))


def _noted(place: str, taken: float) -> Snapshot | None:
    """A snapshot with its note; None while the top is still to be put there."""
    label = os.path.basename(place)
    try:
        with open(os.path.join(place, _NOTE), encoding="utf-8") as file:
            note = json.load(file)
        if note["format"] > _FORMAT:
            raise Refused(
                f"the snapshot {printable(label)} was taken by a newer fallthru",
                hint="use that one; nothing was changed",
            )
        bottoms, inode = tuple(note["bottoms"]), note["stacked"]
    except FileNotFoundError:
        return Snapshot(label, taken)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OperationFailed(f"{printable(place)}/{_NOTE} cannot be read: {error!r}") from None
    if inode is not None and os.stat(os.path.join(place, "top")).st_ino != inode:
        return None
    return Snapshot(label, taken, bottoms, inode is not None)


def write_note(place: str, bottoms: Sequence[str], stacked: int | None = None) -> None:
    """Note of which root a snapshot is: on which ``bottoms``.

    ``stacked`` is the inode of the top that is the snapshot, once it is there.
    """
    with open(os.path.join(place, _NOTE), "x", encoding="utf-8") as file:
        json.dump({"format": _FORMAT, "bottoms": list(bottoms), "stacked": stacked}, file)


def take(
    top: str,
    label: str | None = None,
    *,
    work: str | None = None,
    bottoms: Sequence[str] | None = None,
) -> Snapshot:
    """Copy what a top holds now; TopInUse while it is mounted, Refused for a label in use.

    ``bottoms`` are noted, to go back to as well.
    """
    top = _existing(top)
    label = require_label(label)
    with resting(top):
        place = require_free(top, label)
        aside = place + _ASIDE
        try:
            _copied(top, work or workdir.beside(top), aside)
            if bottoms is not None:
                write_note(aside, bottoms)
            now = time.time()
            os.utime(aside, (now, now))
            synced(aside)
            os.rename(aside, place)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        synced(place_of(top))
    return Snapshot(label, now, None if bottoms is None else tuple(bottoms))


def roll_back(top: str, label: str | None = None, *, work: str | None = None) -> Snapshot:
    """Make a top what it was at a snapshot, by default the latest; what it holds now is lost.

    UsageError where there is none.  If it cannot be finished, the same call goes on.
    """
    top = _existing(top)
    snapshot = chosen(top, label)
    _require_copy(snapshot)
    below = work or workdir.beside(top)
    aside = top + ".rollback" + _ASIDE
    with resting(top):
        try:
            _copied_back(os.path.join(place_of(top), snapshot.label), aside)
            synced(aside)
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
        synced(os.path.dirname(top))
        shutil.rmtree(aside)
    return snapshot


def remove(top: str, label: str) -> None:
    """Remove a snapshot; UsageError where there is none."""
    snapshot = chosen(_existing(top), label)
    _require_copy(snapshot)
    remove_any(top, snapshot.label)


def remove_any(top: str, label: str) -> None:
    """:func:`remove` without a look at what needs it."""
    place = os.path.join(place_of(top), label)
    aside = place + _ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(place, aside)  # half of a snapshot is none
    shutil.rmtree(aside)


def _existing(top: str) -> str:
    if not os.path.isdir(top):
        raise UsageError(f"there is no top {printable(top)}", errno=errno.ENOENT)
    return os.path.realpath(top)


def place_of(top: str) -> str:
    """Where the snapshots of a top are."""
    return os.path.realpath(top) + ".snapshots"


def require_label(label: str | None) -> str:
    """A label, by default the time; UsageError for what is none."""
    label = label or time.strftime("%Y-%m-%dT%H:%M:%S")
    if not _LABEL.fullmatch(label) or label.endswith(_ASIDE):
        raise UsageError(f"{label!r} is no label", hint="letters, digits, dots, dashes, colons")
    return label


def require_free(top: str, label: str) -> str:
    """Where a new snapshot goes; Refused if one is there."""
    place = os.path.join(place_of(top), label)
    if os.path.lexists(place):
        raise Refused(f"there is a snapshot {label} of {printable(top)} already")
    return place


def _require_copy(snapshot: Snapshot) -> None:
    if snapshot.stacked:
        raise UsageError(
            f"the snapshot {snapshot.label} is a bottom of a root",
            hint="name the root by its name, not its top",
        )


def chosen(top: str, label: str | None) -> Snapshot:
    """The snapshot of a label, or the latest; UsageError where there is none."""
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
def resting(top: str) -> Iterator[None]:
    """While nobody else copies the top, and no overlay uses it."""
    os.makedirs(place_of(top), mode=0o700, exist_ok=True)
    fd = os.open(place_of(top), _DIRECTORY)
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
                shutil.rmtree(os.path.join(place_of(top), name))
        yield
    finally:
        os.close(fd)


def synced(path: str) -> None:
    """Have everything on the file system of a directory on its disk."""
    fd = os.open(path, _DIRECTORY)
    try:
        syscalls.syncfs(fd)
    finally:
        os.close(fd)
