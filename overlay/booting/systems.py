"""Whether a system can boot on an overlay, without booting it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from overlay.booting.files import TOOLS, Maker, State, files, state
from overlay.errors import UsageError
from overlay.text import printable

__all__ = ["Finding", "check"]

_IMAGES = ("initrd.img-", "initramfs-")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that it takes, whether it is there, and what to do if not."""

    what: str
    good: bool
    remedy: str


def check(root: str, maker: Maker) -> list[Finding]:
    """All that a boot takes of the system at ``root``, in the order in which to mend it."""
    if not os.path.isdir(root):
        raise UsageError(f"{printable(root)} is not a directory")
    found = [*_programs(root), *_files(root, maker)]
    return [*found, *_images(root, maker)]


def _programs(root: str) -> Iterator[Finding]:
    for package in sorted(set(TOOLS.values())):
        wanted = [name for name, where in TOOLS.items() if where == package]
        missing = [name for name in wanted if not _has_program(root, name)]
        yield Finding(
            f"{', '.join(missing or wanted)}: {'missing' if missing else 'there'}",
            not missing,
            f"apt-get install {package}",
        )


def _has_program(root: str, name: str) -> bool:
    places = ("usr/sbin", "usr/bin", "sbin", "bin")
    return any(os.path.lexists(os.path.join(root, place, name)) for place in places)


def _files(root: str, maker: Maker) -> Iterator[Finding]:
    states = {file.path: state(root, file) for file in files(maker)}
    for path, found in states.items():
        says = {
            State.CURRENT: "of this version",
            State.DIFFERENT: "of another version, or changed",
            State.MISSING: "missing",
        }[found]
        yield Finding(
            f"{printable(os.path.join(root, path))}: {says}",
            found is State.CURRENT,
            "fallthru boot install" + ("" if root == "/" else f" --root {shlex.quote(root)}"),
        )


def _images(root: str, maker: Maker) -> Iterator[Finding]:
    """Each initramfs, by its time: to look into it takes longer than to make it."""
    ours = [os.path.join(root, file.path) for file in files(maker)]
    newest = max((os.stat(path).st_ctime for path in ours if os.path.exists(path)), default=None)
    directory = os.path.join(root, "boot")
    try:
        names = sorted(name for name in os.listdir(directory) if name.startswith(_IMAGES))
    except OSError:
        names = []
    for name in names:
        path = os.path.join(directory, name)
        good = newest is not None and os.stat(path).st_mtime >= newest
        says = "made since" if good else "made before the hook was there"
        yield Finding(f"{printable(path)}: {says}", good, maker.command)
    if not names:
        yield Finding(f"an initramfs in {printable(directory)}: missing", False, maker.command)
