"""What must not be changed by a commit: the layers of live overlays, and what is read-only.

Overlayfs does not see its bottoms change (document L256): results are undefined.  Every
mount namespace is looked at, for a container's overlay relies on its layers as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from overlay import owners
from overlay.differences.changes import Difference, Kind
from overlay.errors import Refused
from overlay.layer import Layer
from overlay.mountinfo import OverlayMount, overlays
from overlay.text import printable

__all__ = ["LiveLayers", "require_writable"]


class LiveLayers:
    """Where the layers of live overlays lie in ``tree``.  Refused if it lies in one itself."""

    def __init__(self, tree: Layer) -> None:
        self._tree = tree
        self._inside: list[tuple[bytes, OverlayMount]] = []
        mine = os.fstat(tree.fd)
        above = set(_climb("", os.path.realpath(tree.path)))
        for layer, root, mount in _live():
            found = _relative(layer, root, (mine.st_dev, mine.st_ino))
            if found is not None:
                self._inside.append((found, mount))
            elif _identity(root + layer) in above:
                raise _refused(tree.path, mount)

    def refuse(self, difference: Difference) -> None:
        """Refused if a change is in a live layer, or takes away what one lies in."""
        path = difference.path
        removes = difference.change.kind in (Kind.DELETED, Kind.REPLACED)
        for layer, mount in self._inside:
            inside = not layer or path == layer or path.startswith(layer + b"/")
            if inside or (removes and layer.startswith(path + b"/")):
                raise _refused(os.path.join(self._tree.path, os.fsdecode(path)), mount)


def _refused(path: str, mount: OverlayMount) -> Refused:
    return Refused(
        f"{printable(path)} is part of the live overlay at {printable(mount.mount_point)}",
        hint="unmount it first, or write to a new directory with -o",
    )


def _live() -> Iterator[tuple[str, str, OverlayMount]]:
    """The layers of every live overlay, where its namespace's root is, and the overlay."""
    for process, entries in owners.mount_namespaces():
        root = "" if process is None else f"/proc/{process.pid}/root"
        for mount in overlays(entries):
            for layer in (*mount.bottoms, *mount.data_bottoms, *filter(None, [mount.top])):
                if layer.startswith("/"):
                    yield layer, root, mount


def _identity(path: str) -> tuple[int, int] | None:
    try:
        st = os.stat(path)
    except OSError:
        return None
    return st.st_dev, st.st_ino


def _climb(root: str, path: str) -> Iterator[tuple[int, int]]:
    """A directory and those above it, on the same file system."""
    device = None
    while True:
        found = _identity(root + path)
        if found is None or (device is not None and found[0] != device):
            return
        device = found[0]
        yield found
        if path == "/":
            return
        path = os.path.dirname(path)


def _relative(layer: str, root: str, tree: tuple[int, int]) -> bytes | None:
    """Where in the directory ``tree`` a layer lies; None if it does not."""
    names = layer.strip("/").split("/")
    for depth, found in enumerate(_climb(root, layer.rstrip("/") or "/")):
        if found == tree:
            return os.fsencode("/".join(names[len(names) - depth :])) if depth else b""
    return None


def require_writable(tree: Layer) -> None:
    """Refused unless the tree can be written."""
    if os.fstatvfs(tree.fd).f_flag & os.ST_RDONLY:
        raise Refused(
            f"{printable(tree.path)} is read-only, and is meant to stay so",
            hint="write to a new directory with -o",
        )
