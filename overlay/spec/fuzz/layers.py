"""Layers as data: drawn at random, planted in a directory, harvested from one.

Data, because a finding's layers are shrunk and printed as shell commands.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from overlay import acl
from overlay.marks import MarkFamily, escape_attribute
from overlay.spec.fuzz.steps import ALICE, BOB, DIRECTORIES, LISTS, NAMES, Chooser

__all__ = ["OLD", "Plant", "covered", "draw", "harvest", "plant", "rooted"]

#: When all of a drawn layer was last modified.
OLD: Final = 1_500_000_000 * 10**9 + 987_654_321

_SPECIAL: Final = {
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "device": stat.S_IFCHR,
    "block device": stat.S_IFBLK,
}


@dataclass(frozen=True, slots=True)
class Plant:
    """One entry of a layer, at ``path`` from its root (``.``: the root itself).

    ``kind`` is ``file``, ``dir``, ``symlink``, ``link`` (a further name of an entry
    before it), ``fifo``, ``socket``, ``device`` or ``block device`` (0/0 is a whiteout);
    ``content`` a file's bytes, a symlink's target, or the first name of a link.
    """

    path: str
    kind: str
    content: bytes = b""
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()
    mtime_ns: int = OLD
    device: int = 0


def rooted(plants: Sequence[Plant]) -> tuple[Plant, ...]:
    """The plants without those whose directory, or whose first name, is not among them."""
    kinds = {".": "dir"}
    found = []
    for entry in plants:
        parent = os.path.dirname(entry.path) or "."
        taken = entry.path in kinds and entry.path != "."
        if taken or kinds.get(parent) != "dir":
            continue
        if entry.kind == "link" and os.fsdecode(entry.content) not in kinds:
            continue
        kinds[entry.path] = entry.kind
        found.append(entry)
    return tuple(found)


def plant(root: Path, plants: Sequence[Plant]) -> None:
    """Make a layer in the empty directory ``root``."""
    for entry in plants:
        _make(root, root / entry.path, entry)
    # All is made before anything is dressed: what is made later would inherit access lists.
    for entry in plants:
        if entry.kind == "link":
            continue
        path = root / entry.path
        os.chown(path, *entry.owner, follow_symlinks=False)
        if entry.kind != "symlink":
            os.chmod(path, entry.mode)
        for name, value in entry.xattrs:
            os.setxattr(path, name, value, follow_symlinks=False)
    # A directory comes before what is in it, which changes its time.
    for entry in reversed(plants):
        if entry.kind != "link":
            times = (entry.mtime_ns, entry.mtime_ns)
            os.utime(root / entry.path, ns=times, follow_symlinks=False)


def _make(root: Path, path: Path, entry: Plant) -> None:
    match entry.kind:
        case "dir":
            path.mkdir(exist_ok=entry.path == ".")
        case "file":
            path.write_bytes(entry.content)
        case "symlink":
            os.symlink(entry.content, os.fsencode(path))
        case "link":
            os.link(root / os.fsdecode(entry.content), path, follow_symlinks=False)
        case kind:
            os.mknod(path, _SPECIAL[kind] | 0o600, entry.device)


def harvest(
    root: Path, *, escaped: MarkFamily | None = None, leave: Sequence[str] = ()
) -> tuple[Plant, ...]:
    """What is in a directory, to be planted elsewhere.

    ``escaped``: the directory is a union's, and what looks like marks in it is to be kept
    as it is seen.  ``leave`` are attributes that mean nothing in another place.
    """
    found = []
    names: dict[tuple[int, int], str] = {}
    pending = ["."]
    while pending:
        path = pending.pop()
        st = os.lstat(root / path)
        identity = (st.st_dev, st.st_ino)
        if identity in names:
            found.append(Plant(path, "link", os.fsencode(names[identity])))
            continue
        if stat.S_ISDIR(st.st_mode):
            below = sorted(os.listdir(root / path), reverse=True)
            pending += [os.path.normpath(os.path.join(path, name)) for name in below]
        elif st.st_nlink > 1:
            names[identity] = path
        found.append(_harvested(root / path, path, st, escaped, leave))
    return tuple(found)


def _harvested(
    place: Path, path: str, st: os.stat_result, escaped: MarkFamily | None, leave: Sequence[str]
) -> Plant:
    kind, content, device = "file", b"", 0
    if stat.S_ISDIR(st.st_mode):
        kind = "dir"
    elif stat.S_ISREG(st.st_mode):
        content = place.read_bytes()
    elif stat.S_ISLNK(st.st_mode):
        kind, content = "symlink", os.fsencode(os.readlink(place))
    else:
        kinds = {bits: name for name, bits in _SPECIAL.items()}
        kind, device = kinds[stat.S_IFMT(st.st_mode)], st.st_rdev
    xattrs = []
    try:
        names = [n for n in os.listxattr(place, follow_symlinks=False) if n not in leave]
    except OSError:
        names = []  # a file system without any
    for name in names:
        stored = name if escaped is None else escape_attribute(name, escaped)
        xattrs.append((stored, os.getxattr(place, name, follow_symlinks=False)))
    return Plant(
        path,
        kind,
        content,
        stat.S_IMODE(st.st_mode),
        (st.st_uid, st.st_gid),
        tuple(xattrs),
        st.st_mtime_ns,
        device,
    )


# ---------------------------------------------------------------------- drawn at random


def draw(choose: Chooser, *, links: bool) -> tuple[Plant, ...]:
    """A small layer with every type of file, owners, modes, lists and attributes."""
    found = [Plant(".", "dir", mode=0o777)]
    made = {"."}
    for directory in DIRECTORIES:
        parent = os.path.dirname(directory) or "."
        if parent in made and choose((True, True, True, False)):
            made.add(directory)
            mode = choose((0o755, 0o777, 0o1777, 0o2775, 0o700, 0o770))
            owner = (choose((0, ALICE)), choose((0, ALICE)))
            listed = choose((False, False, False, True))
            xattrs = ((acl.DEFAULT, choose(LISTS[:2])),) if listed else ()
            found.append(Plant(directory, "dir", mode=mode, owner=owner, xattrs=xattrs))
            found += _entries(f"{directory}/", choose)
    found += _entries("", choose)
    found.append(Plant("l", "symlink", choose((b"d", b"a", b"m/n", b"nothing"))))
    found.append(Plant("loop", "symlink", b"loop"))
    return (*found, *(_further_names(found, choose) if links else ()))


def _entries(prefix: str, choose: Chooser) -> list[Plant]:
    drawn = (_entry(prefix + name, choose) for name in NAMES)
    return [entry for entry in drawn if entry is not None]


def _entry(path: str, choose: Chooser) -> Plant | None:
    kind = choose(("file", "file", "file", "file", "none", "symlink", "fifo", "dir"))
    if kind == "none":
        return None
    content = b""
    if kind == "symlink":
        content = choose((b"a", b"b", b"e/a", b"nothing"))
    elif kind == "file":
        content = choose((b"", b"old", b"old content" * 1000))
    owner = (choose((0, ALICE)), choose((0, ALICE, BOB)))
    mode = choose((0o644, 0o600, 0o666, 0o4755, 0o2755, 0o2644, 0o000, 0o777))
    xattrs: tuple[tuple[str, bytes], ...] = ()
    if kind == "file" and choose((False, False, True)):
        name = choose(("user.x", "trusted.x", "trusted.overlay.overlay.opaque"))
        xattrs = ((name, b"y"), (acl.ACCESS, choose(LISTS[:2])))
    return Plant(path, kind, content, mode, owner, xattrs)


def _further_names(plants: Sequence[Plant], choose: Chooser) -> list[Plant]:
    """Second and third names of some files, here and there."""
    directories = {entry.path for entry in plants if entry.kind == "dir"}
    taken = {entry.path for entry in plants}
    found = []
    for entry in plants:
        if entry.kind != "file" or choose((False, True)):
            continue
        for other in choose((("a2",), ("d/b2",), ("b2", "m/a2"), ("s/c2", "d/e/c2"))):
            if (os.path.dirname(other) or ".") in directories and other not in taken:
                taken.add(other)
                found.append(Plant(other, "link", os.fsencode(entry.path)))
    return found


def covered(plants: Sequence[Plant], below: Sequence[Plant], choose: Chooser) -> tuple[Plant, ...]:
    """Let a bottom hide things of the one below it, as a top of an earlier union does.

    A whiteout that hides nothing no driver makes; the kernel's readdir would show it.
    """
    kinds, lower = ({entry.path: entry.kind for entry in layer} for layer in (plants, below))
    merged, opaque, whiteouts = {"."}, set(), []
    for directory in (".", *DIRECTORIES):
        if kinds.get(directory) != "dir" or lower.get(directory) != "dir":
            continue
        if (os.path.dirname(directory) or ".") not in merged:
            continue
        if directory != "." and choose((False, False, True)):
            opaque.add(directory)
            continue
        merged.add(directory)
        for name in NAMES:
            path = os.path.normpath(os.path.join(directory, name))
            if path in lower and path not in kinds and choose((False, True)):
                whiteouts.append(Plant(path, "device", mode=0))
    mark = (MarkFamily.TRUSTED.attribute("opaque"), b"y")
    marked = [
        replace(entry, xattrs=(*entry.xattrs, mark)) if entry.path in opaque else entry
        for entry in plants
    ]
    return (*marked, *whiteouts)
