"""The overlays of this machine in the document's terms, from mountinfo alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from overlay import guard, mountinfo
from overlay.profiles import profile_of_source
from overlay.text import printable

__all__ = ["OverlayStatus", "survey"]


@dataclass(frozen=True, slots=True)
class OverlayStatus:
    """One overlay: the mount, its profile (None when something else mounted it), its bottoms.

    ``bottoms`` has the state of each bottom, data-only ones last; None for one whose
    directory cannot be reached any more.
    """

    mount: mountinfo.OverlayMount
    profile: str | None
    read_only: bool
    bottoms: tuple[tuple[str, guard.BottomState | None], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``; paths as :func:`overlay.text.printable` shows them."""
        mount = self.mount
        return {
            "mount_point": printable(mount.mount_point),
            "profile": self.profile,
            "read_only": self.read_only,
            "top": None if mount.top is None else printable(mount.top),
            "work": None if mount.work is None else printable(mount.work),
            "bottoms": [
                {
                    "path": printable(path),
                    "fstype": state.fstype if state else None,
                    "hold": state.hold.value if state else None,
                    "really_read_only": bool(state and state.really_read_only),
                    "reason": state.reason if state else "it cannot be reached",
                }
                for path, state in self.bottoms
            ],
            "marks": mount.family,
            "options": {key: printable(value) for key, value in mount.options.items()},
            "device": f"{mount.dev[0]}:{mount.dev[1]}",
        }


def survey(mounts: Iterable[mountinfo.OverlayMount] | None = None) -> list[OverlayStatus]:
    """The state of ``mounts`` (default: every overlay in this mount namespace)."""
    entries = mountinfo.read()
    chosen = mountinfo.overlays(entries) if mounts is None else mounts
    return [_status(mount, entries) for mount in chosen]


def _status(mount: mountinfo.OverlayMount, entries: list[mountinfo.MountEntry]) -> OverlayStatus:
    return OverlayStatus(
        mount=mount,
        profile=profile_of_source(mount.source),
        read_only=mount.top is None or "ro" in mount.vfs_options or "ro" in mount.options,
        bottoms=tuple(
            (path, _bottom(path, entries)) for path in (*mount.bottoms, *mount.data_bottoms)
        ),
    )


def _bottom(path: str, entries: list[mountinfo.MountEntry]) -> guard.BottomState | None:
    if not os.path.isabs(path):
        return None  # named relative to a directory that only the mounting process knew
    try:
        return guard.assess(path, entries)
    except OSError:
        return None
