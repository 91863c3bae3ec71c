"""Watching the bottoms of one overlay while it lives, where the kernel does not keep them.

Two things wake it: a change of the mount table (poll(2) on /proc/self/mountinfo), after
which the holds are looked at again, and a change of a file (:mod:`overlay.fanotify`).
What is seen is noted, so that ``status`` calls the overlay tainted from then on.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from overlay import mountinfo, readonlyusers
from overlay.errors import EnvironmentLacks
from overlay.fanotify import Watch
from overlay.layer import Layer
from overlay.status import OverlayStatus, survey
from overlay.taint import Taint
from overlay.text import printable

__all__ = ["Seen", "watch"]

_LOOK_AGAIN: Final = 5000  # ms


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing that happened to ``bottom`` (as status names it), as a sentence."""

    bottom: str
    what: str
    time: float


def watch(mount_point: str) -> Iterator[Seen | None]:
    """What happens to the bottoms of the overlay at ``mount_point``, until it is unmounted.

    The first item, None, says that nothing will be missed from now on.  UsageError where
    there is no overlay; EnvironmentLacks where its bottoms cannot be watched.
    """
    mount = mountinfo.overlay_at(mount_point)
    told: set[tuple[str, str]] = set()
    with ExitStack() as stack:
        table = stack.enter_context(open("/proc/self/mountinfo", "rb"))
        (state,) = survey([mount])
        watches = [
            (bottom.path, bottom.name, _watched(stack, bottom.path, mount))
            for bottom in state.bottoms
            if bottom.state is None or not bottom.state.really_read_only
        ]
        readonlyusers.note(mount, [b.state for b in state.bottoms if b.state is not None])
        poll = select.poll()
        poll.register(table, select.POLLPRI | select.POLLERR)
        for _, _, each in watches:
            poll.register(each.fd, select.POLLIN)
        yield None
        while True:
            for path, name, each in watches:
                yield from _changes(mount, path, name, each, told)
            now = _at(mount)
            if now is None:
                return
            for bottom in now.bottoms:
                for taint in bottom.taints:
                    if taint.kind != "file" and (bottom.path, taint.kind) not in told:
                        told.add((bottom.path, taint.kind))
                        yield Seen(bottom.name, taint.what, taint.seen)
            # Not every way to make a file system read-write shows in the mount table.
            poll.poll(_LOOK_AGAIN)


def _watched(stack: ExitStack, path: str, mount: mountinfo.OverlayMount) -> Watch:
    layer = stack.enter_context(Layer.open(path))
    if os.fstat(layer.fd).st_dev == os.makedev(*mount.dev):
        raise EnvironmentLacks(
            f"the bottom {printable(path)} cannot be watched: the overlay itself covers it",
            hint="bind-mount it elsewhere first, and name that as the bottom",
        )
    try:
        watching = Watch(layer.fd)
    except OSError as error:
        raise EnvironmentLacks(
            f"the bottom {printable(path)} cannot be watched",
            hint="it takes root, Linux 5.9, and a file system with file handles",
            errno=error.errno or 0,
        ) from None
    stack.callback(watching.close)
    return watching


def _changes(
    mount: mountinfo.OverlayMount, path: str, name: str, watching: Watch, told: set[tuple[str, str]]
) -> Iterator[Seen]:
    for event in watching.events():
        what = f"{printable(event.path) or 'it'} was {event.act}{_by(event.pid)}"
        now = time.time()
        if (path, "file") not in told:
            told.add((path, "file"))
            readonlyusers.remember_taints(mount.dev, [(path, Taint("file", what, now))])
        yield Seen(name, what, now)


def _by(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return f" by {printable(file.read().rstrip(chr(10)))} ({pid})"
    except OSError:
        return f" by process {pid}" if pid else ""  # which ended


def _at(mount: mountinfo.OverlayMount) -> OverlayStatus | None:
    """The overlay's state; None once it is mounted nowhere in this namespace any more."""
    here = [each for each in mountinfo.overlays() if each.dev == mount.dev]
    if not here or here[0].top != mount.top:
        return None
    return survey(here[:1])[0]
