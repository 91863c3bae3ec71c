"""The overlays of this machine in the document's terms, and how their bottoms are kept.

Which overlays there are is told by mountinfo alone.  What fallthru noted when it mounted
one (:mod:`overlay.readonlyusers`) only adds what happened to a bottom since.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from overlay import guard, holding, mountinfo, owners, readonlyusers, runstate
from overlay.profiles import profile_of_source
from overlay.taint import Taint
from overlay.text import printable

__all__ = ["BottomStatus", "OverlayStatus", "survey"]


@dataclass(frozen=True, slots=True)
class BottomStatus:
    """One bottom of an overlay.

    ``path`` is as mountinfo has it; ``state`` is None where that cannot be reached any
    more.  ``users`` counts the overlays, in all mount namespaces that can be seen, with a
    bottom on its file system.  ``held``: fallthru made the kernel keep it.  ``taints``
    are what happened to it since the overlay was mounted.
    """

    path: str
    state: guard.BottomState | None
    users: int
    held: bool
    taints: tuple[Taint, ...]

    @property
    def name(self) -> str:
        """The directory, or the image or block device that was attached."""
        return (self.state.image if self.state else None) or self.path

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``; times in UTC."""
        state = self.state
        return {
            "path": printable(self.name),
            "image": bool(state and state.image),
            "fstype": state.fstype if state else None,
            "hold": state.hold.value if state else None,
            "held_by_fallthru": self.held,
            "really_read_only": bool(state and state.really_read_only),
            "reason": state.reason if state else "it cannot be reached",
            "users": self.users,
            "tainted": [
                {"what": taint.what, "seen": _utc(taint.seen).isoformat()} for taint in self.taints
            ],
        }


@dataclass(frozen=True, slots=True)
class OverlayStatus:
    """One overlay: the mount, its profile (None when something else mounted it), its bottoms.

    ``bottoms`` has data-only ones last.  ``booted``: the machine booted on it.
    """

    mount: mountinfo.OverlayMount
    profile: str | None
    read_only: bool
    bottoms: tuple[BottomStatus, ...]
    booted: bool

    @property
    def index(self) -> BottomStatus | None:
        """The shared index: the only merged layer of ours over data-only bottoms."""
        merged, data = len(self.mount.bottoms), self.mount.data_bottoms
        return self.bottoms[0] if self.profile and data and merged == 1 else None

    @property
    def tainted(self) -> bool:
        """Whether a bottom changed, or could have, under this overlay (L263)."""
        return any(bottom.taints for bottom in self.bottoms)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``; paths as :func:`overlay.text.printable` shows them."""
        mount = self.mount
        return {
            "mount_point": printable(mount.mount_point),
            "profile": self.profile,
            "read_only": self.read_only,
            "tainted": self.tainted,
            "booted": self.booted,
            "top": None if mount.top is None else printable(mount.top),
            "work": None if mount.work is None else printable(mount.work),
            "index": None if self.index is None else printable(self.index.name),
            "bottoms": [each.to_json() for each in self.bottoms if each is not self.index],
            "marks": mount.family,
            "options": {key: printable(value) for key, value in mount.options.items()},
            "device": f"{mount.dev[0]}:{mount.dev[1]}",
        }


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=0)


def survey(mounts: Iterable[mountinfo.OverlayMount] | None = None) -> list[OverlayStatus]:
    """The state of ``mounts`` (default: every overlay in this mount namespace).

    On the way, devices that nobody relies on any more are released, and taints that are
    seen for the first time are noted, as far as the caller may.
    """
    readonlyusers.reconcile()
    entries = mountinfo.read()
    chosen = mountinfo.overlays(entries) if mounts is None else list(mounts)
    users = _users(entries)
    held = holding.held()
    noted = readonlyusers.reliances()
    booted = runstate.load("boot")
    return [_status(mount, entries, users, held, noted, booted) for mount in chosen]


def _users(entries: Sequence[mountinfo.MountEntry]) -> Counter[tuple[int, int] | None]:
    """How many overlays have a bottom on each file system, by its device number."""
    users: Counter[tuple[int, int] | None] = Counter()
    seen: set[tuple[int, int]] = set()
    for process, others in owners.mount_namespaces():
        root = "" if process is None else f"/proc/{process.pid}/root"
        for mount in mountinfo.overlays(entries if process is None else others):
            if mount.dev in seen:
                continue  # the same overlay in another place or namespace
            seen.add(mount.dev)
            states = [_state(path, mount, others, root) for path in _paths(mount)]
            users.update({state.filesystem for state in states if state is not None})
    return users


def _paths(mount: mountinfo.OverlayMount) -> tuple[str, ...]:
    return (*mount.bottoms, *mount.data_bottoms)


def _state(
    path: str,
    mount: mountinfo.OverlayMount,
    entries: Sequence[mountinfo.MountEntry],
    root: str = "",
) -> guard.BottomState | None:
    if not os.path.isabs(path):
        return None  # named relative to a directory that only the mounting process knew
    try:
        return guard.assess(path, entries, beneath=mount.mount_id, root=root)
    except OSError:
        return None


def _status(
    mount: mountinfo.OverlayMount,
    entries: Sequence[mountinfo.MountEntry],
    users: Counter[tuple[int, int] | None],
    held: set[tuple[int, int]],
    noted: dict[tuple[int, int], readonlyusers.Reliance],
    booted: Container[str],
) -> OverlayStatus:
    states = {path: _state(path, mount, entries) for path in _paths(mount)}
    reliance = noted.get(mount.dev)
    if reliance is not None and reliance.top != mount.top:
        reliance = None  # of an overlay that went, whose number this one got
    taints = {} if reliance is None else _taints(reliance, states)
    is_root = f"{mount.dev[0]}:{mount.dev[1]}" in booted
    if is_root and reliance is None:
        # An initramfs holds its bottoms, but notes nothing to compare them with later.
        kept = [state for state in states.values() if state and state.super_read_only]
        readonlyusers.note(mount, kept)
    return OverlayStatus(
        mount=mount,
        profile=profile_of_source(mount.source),
        read_only=mount.top is None or "ro" in mount.vfs_options or "ro" in mount.options,
        bottoms=tuple(
            BottomStatus(
                path=path,
                state=state,
                users=users[state.filesystem] if state and state.filesystem else 1,
                held=state is not None and not held.isdisjoint(state.numbers),
                taints=tuple(taints.get(path, ())),
            )
            for path, state in states.items()
        ),
        booted=is_root,
    )


def _taints(
    reliance: readonlyusers.Reliance, states: dict[str, guard.BottomState | None]
) -> dict[str, list[Taint]]:
    """What was noted, and what is seen now for the first time, by the bottom's path."""
    taints: dict[str, list[Taint]] = {}
    for path, taint in reliance.taints:
        taints.setdefault(path, []).append(taint)
    new = []
    for evidence in reliance.bottoms:
        state = states.get(evidence.path)
        known = {taint.kind for taint in taints.get(evidence.path, ())}
        for kind, what in () if state is None else evidence.changes(state):
            if kind not in known:
                new.append((evidence.path, Taint(kind, what, time.time())))
    for path, taint in new:
        taints.setdefault(path, []).append(taint)
    readonlyusers.remember_taints(reliance.dev, new)
    return taints
