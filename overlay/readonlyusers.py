"""The overlays that rely on a bottom being read-only, and the kernel made to keep it so.

The document counts the read-only users of a file system in its superblock, which "can only
be mounted read-write if its read-only users count is zero" (L263–L268).  Here the count is
taken from the kernel's own list of mounts whenever it is needed, so no crash can make it
wrong.  What gives it force are holds (:mod:`overlay.holding`): while there are users, the
kernel refuses every read-write mount and remount.  A hold is released when no overlay relies
on it any more, in whatever mount namespace or behind whatever descriptor, even one that
something else mounted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from overlay import guard, holding, mountinfo, owners, runstate
from overlay.errors import EnvironmentLacks, NoPrivilege
from overlay.guard import BottomState
from overlay.inuse import top_in_use
from overlay.preflight import Directory, OpenLayers
from overlay.taint import Evidence, Taint

__all__ = [
    "Reliance",
    "any_read_only",
    "note",
    "reconcile",
    "reliances",
    "relied_on",
    "remember_taints",
]

Device = tuple[int, int]

_FORMAT = 2  # of what is noted of an overlay; to be counted up with every change
_YOUNG = 60  # seconds


@dataclass(frozen=True, slots=True)
class Reliance:
    """What one overlay relies on: its bottoms' evidence, and what happened to them since.

    ``dev`` is the overlay's own device number, ``since`` its mount in seconds since the
    epoch.  ``top_file`` is the (st_dev, st_ino) of the top, None where nothing is held for it.
    ``taints`` are (path of the bottom, taint).
    """

    dev: Device
    since: float
    top: str
    bottoms: tuple[Evidence, ...]
    top_file: tuple[int, int] | None = None
    taints: tuple[tuple[str, Taint], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "since": self.since,
            "top": self.top,
            "top_file": self.top_file,
            "bottoms": [evidence.to_json() for evidence in self.bottoms],
            "taints": [[path, taint.kind, taint.what, taint.seen] for path, taint in self.taints],
        }

    @classmethod
    def from_json(cls, name: str, value: dict[str, Any]) -> Reliance:
        return cls(
            dev=_parsed(name),
            since=value["since"],
            top=value["top"],
            top_file=value["top_file"] and (value["top_file"][0], value["top_file"][1]),
            bottoms=tuple(Evidence.from_json(each) for each in value["bottoms"]),
            taints=tuple(
                (path, Taint(kind, what, seen)) for path, kind, what, seen in value["taints"]
            ),
        )


def _name(device: Device) -> str:
    return f"{device[0]}:{device[1]}"


def _parsed(name: str) -> Device:
    major, _, minor = name.partition(":")
    return int(major), int(minor)


def any_read_only(layers: OpenLayers) -> bool:
    """Whether there is something to rely on: one cheap system call for every bottom."""
    return any(map(_is_read_only, _lower(layers)))


def _lower(layers: OpenLayers) -> tuple[Directory, ...]:
    return layers.bottoms if layers.index is None else (layers.index, *layers.bottoms)


def _is_read_only(bottom: Directory) -> bool:
    return bottom.image is not None or bool(os.fstatvfs(bottom.fd).f_flag & os.ST_RDONLY)


@contextmanager
def relied_on(
    layers: OpenLayers, *, enforce: bool, lsm: bool, require: bool
) -> Iterator[Callable[[int], int]]:
    """While an overlay is made of ``layers``: hold its read-only bottoms, and note it all.

    Yields what to pass the new overlay's descriptor through.  If the body fails, what was
    held for it is released.  With ``require``, Refused for a bottom that nothing holds; with
    ``lsm``, EnvironmentLacks where it takes BPF LSM and there is none.  A caller who is not
    the machine's root can hold and note nothing.
    """
    with runstate.locked("devices") as held:
        lacking: EnvironmentLacks | None = None
        if lsm and held is None:
            raise NoPrivilege("only root of the machine can hold a bottom", hint="run as root")
        try:
            if enforce and held is not None:
                for bottom in filter(_is_read_only, _lower(layers)):
                    try:
                        holding.hold(held, bottom, _state(bottom), load=lsm or require)
                    except EnvironmentLacks as error:
                        if lsm:
                            raise
                        lacking = error
            if require:
                for bottom in _lower(layers):
                    guard.require_read_only(_state(bottom), lacking)
            yield lambda tree: tree if held is None else _noted(tree, layers)
        except BaseException:
            if held is not None:
                _release_unused(held)
            raise


def _state(bottom: Directory, entries: Sequence[mountinfo.MountEntry] | None = None) -> BottomState:
    if bottom.image is not None:
        return guard.of_image(bottom.image, bottom.image.recorded)
    return guard.assess_open(bottom.fd, bottom.path, entries)


def _noted(tree: int, layers: OpenLayers) -> int:
    """``tree``, once what the overlay there relies on is kept to compare with later."""
    try:
        device = os.fstat(tree).st_dev
        dev = (os.major(device), os.minor(device))
        relied = [bottom for bottom in _lower(layers) if _is_read_only(bottom)]
        entries = mountinfo.read() if any(bottom.image is None for bottom in relied) else []
        held = holding.held()
        states = [_state(bottom, entries) for bottom in relied]
        evidence = tuple(
            Evidence.of(state, held=not held.isdisjoint(state.numbers)) for state in states
        )
        top = (layers.top.stat.st_dev, layers.top.stat.st_ino)
        reliance = Reliance(dev, time.time(), layers.top.path, evidence, top)
        with runstate.locked("overlays") as notes:
            if notes is not None:
                runstate.put(notes, _name(dev), reliance.to_json())
    except BaseException:
        os.close(tree)
        raise
    return tree


def note(mount: mountinfo.OverlayMount, states: Sequence[BottomState]) -> None:
    """Keep how the bottoms of a mounted overlay are now, if nothing is kept of it yet."""
    evidence = tuple(Evidence.of(state) for state in states)
    with runstate.locked("overlays") as notes:
        known = reliances().get(mount.dev)
        if notes is None or (known is not None and known.top == mount.top):
            return
        new = Reliance(mount.dev, time.time(), mount.top or "", evidence)
        runstate.put(notes, _name(mount.dev), new.to_json())


def reliances() -> dict[Device, Reliance]:
    """What is noted of overlays, by their device number; some may have gone since."""
    return {
        _parsed(name): Reliance.from_json(name, note)
        for name, note in runstate.load("overlays").items()
        if note.get("format") == _FORMAT  # else another version of fallthru wrote it
    }


def remember_taints(dev: Device, seen: Sequence[tuple[str, Taint]]) -> None:
    """Add to what happened to the bottoms of an overlay; nothing without privilege."""
    if not seen:
        return
    with runstate.locked("overlays") as notes:
        known = reliances().get(dev)
        if notes is None or known is None:
            return
        old = {(path, taint.kind) for path, taint in known.taints}
        new = tuple(each for each in seen if (each[0], each[1].kind) not in old)
        if new:
            taints = known.taints + new
            runstate.put(notes, _name(dev), replace(known, taints=taints).to_json())


def reconcile() -> None:
    """Release the holds that no overlay relies on any more, and forget overlays that went.

    It looks at every mount namespace, and at every process where that does not settle it.
    """
    with runstate.locked("devices") as held:
        if held is not None:
            _release_unused(held)


def _release_unused(held: int) -> None:
    holding.release(held, _relied())


def _relied() -> set[Device]:
    """The numbers below the bottoms of all live overlays; notes of others are dropped."""
    relied: set[Device] = set()
    live: set[tuple[Device, str]] = set()
    for process, entries in owners.mount_namespaces():
        root = "" if process is None else f"/proc/{process.pid}/root"
        for overlay in mountinfo.overlays(entries):
            live.add((overlay.dev, overlay.top or ""))
            relied |= _numbers_below(overlay, entries, root)
    # Device numbers are used again, so an overlay is known by its top as well.
    known = reliances()
    for reliance in known.values():
        # From within a root of its own, an overlay's bottoms may be out of sight.
        if (reliance.dev, reliance.top) in live:
            for bottom in reliance.bottoms:
                relied |= bottom.numbers if bottom.held else set()
    gone = [each for each in known.values() if (each.dev, each.top) not in live]
    relying = {os.makedev(*each.dev): each for each in gone if any(b.held for b in each.bottoms)}
    used = owners.overlays_in_use(relying) if relying else set()
    detached = {number for number in used if _may_live(relying[number])}
    for device in detached:
        for each in relying[device].bottoms:
            relied |= each.numbers if each.held else set()
    old = [each.dev for each in gone if os.makedev(*each.dev) not in detached and _is_old(each)]
    strange = {
        _parsed(name): note.get("format", 0) > _FORMAT
        for name, note in runstate.load("overlays").items()
        if _parsed(name) not in known
    }
    if any(strange.values()):
        # What a newer fallthru relies on is not known here, so nothing is let go.
        relied |= holding.held()
    with runstate.locked("overlays") as notes:
        if notes is not None:
            for dev in (*old, *(dev for dev, newer in strange.items() if not newer)):
                runstate.drop(notes, _name(dev))
    return relied


def _may_live(reliance: Reliance) -> bool:
    """Whether an overlay in use that has its number may be it, which no mountinfo shows.

    The number may be another's by now.  But while an overlay lives, its top serves no other.
    """
    try:
        top = os.stat(reliance.top)
        return (top.st_dev, top.st_ino) != reliance.top_file or top_in_use(reliance.top)
    except OSError:
        return True  # it cannot be seen from here


def _is_old(reliance: Reliance) -> bool:
    """Whether its note can be dropped; a young overlay may be about to get its place."""
    return any(each.held for each in reliance.bottoms) or time.time() - reliance.since > _YOUNG


def _numbers_below(
    overlay: mountinfo.OverlayMount, entries: Sequence[mountinfo.MountEntry], root: str
) -> set[Device]:
    found: set[Device] = set()
    for path in (*overlay.bottoms, *overlay.data_bottoms):
        try:
            state = guard.assess(path, entries, beneath=overlay.mount_id, root=root)
        except OSError:
            continue
        found |= state.numbers
    return found
