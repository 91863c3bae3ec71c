"""The layer of a shared index: fallthrus of whole bottoms, made and made anew.

Nothing in it is opaque: it is the only merged bottom of the overlays that use it.  Bottom
files with several names have one stub with as many names as the bottoms show.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Sequence

from overlay import mountinfo, owners
from overlay.errors import OperationFailed, Refused
from overlay.hardlinks import kept_quiet, make_one_file
from overlay.layer import VANISHED, open_beneath, scan
from overlay.markvalues import escape_attribute, visible_xattrs
from overlay.priming.bottomlist import FAMILY, visible
from overlay.priming.crew import fill_all
from overlay.priming.fallthrus import Filled, Filler, Link, Task
from overlay.staging import remove_tree
from overlay.text import printable
from overlay.view import Node, View

__all__ = ["make_layer", "refresh", "require_unused"]

Progress = Callable[[int], None]
FileId = tuple[int, int]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def make_layer(dirfd: int, name: bytes, view: View, jobs: int, progress: Progress | None) -> None:
    """Make the layer of what ``view`` shows, as the directory ``name`` of ``dirfd``."""
    os.mkdir(name, 0o700, dir_fd=dirfd)
    filler = Filler(view, dirfd, dirfd, opaque=False, recursive=True)
    filled = fill_all(filler, [Task(view.root().places, b"", name)], jobs, progress)
    _check(filled)
    for links in _groups(filled.links).values():
        make_one_file(filler, links)


def _check(filled: Filled) -> None:
    for task, reason in filled.failed:
        raise OperationFailed(f"{printable(task.path or b'/')} cannot be indexed: {reason}")


def _groups(links: Sequence[Link]) -> dict[FileId, list[Link]]:
    # In the order of the paths, so that the stub's redirect is always the same.
    groups: dict[FileId, list[Link]] = defaultdict(list)
    for link in sorted(links, key=lambda each: each.path):
        groups[link.file].append(link)
    return groups


def require_unused(layer: str) -> None:
    """Refused while an overlay has ``layer`` as a bottom, in whatever mount namespace."""
    wanted = os.stat(layer)
    for process, entries in owners.mount_namespaces():
        root = "" if process is None else f"/proc/{process.pid}/root"
        for mount in mountinfo.overlays(entries):
            if any(_is_file(root + path, wanted) for path in mount.bottoms):
                where = "" if process is None else f" in the mount namespace of {process}"
                shown = printable(mount.mount_point)
                raise Refused(
                    f"the overlay at {shown}{where} uses the shared index",
                    hint=f"fallthru umount {shown}, or make another index",
                )


def _is_file(path: str, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), wanted)
    except OSError:
        return False


# --------------------------------------------------------------------- refreshing it


def refresh(
    root: int, name: bytes, view: View, changed: set[bytes], jobs: int, progress: Progress | None
) -> None:
    """Make the directories ``changed`` of the layer ``name`` anew, in place."""
    tasks = []
    for path in sorted(changed):
        node = view.find(view.root(), path) if path else view.root()
        if node is None or not node.is_dir:
            continue  # gone, or hidden by something else: its parent knows
        target = name + b"/" + path if path else name
        try:
            fd = open_beneath(root, target, _DIRECTORY)
        except OSError as error:
            if error.errno not in VANISHED:
                raise
            continue  # new: it is made with its parent, which has changed as well
        try:
            kept = _empty(fd, view, node)
        finally:
            os.close(fd)
        above = b"/" + path if path else b""
        tasks.append(Task(node.places, above, target, skip=kept))
    filler = Filler(view, root, root, opaque=False, recursive=True)
    filled = fill_all(filler, tasks, jobs, progress)
    _check(filled)
    groups = _groups(filled.links)
    there = _names_elsewhere(root, name, view, groups, {task.target for task in tasks})
    for file, links in groups.items():
        if file in there:
            _add_names(root, there[file], links)
        else:
            make_one_file(filler, links)


def _empty(fd: int, view: View, node: Node) -> frozenset[bytes]:
    """Remove what is in a directory but subdirectories that still are; returns their names."""
    with visible(view, node.places) as sources:
        wanted = {name for name, st, _ in sources if stat.S_ISDIR(st.st_mode)}
    kept = set()
    for name, st in list(scan(fd)):
        if not stat.S_ISDIR(st.st_mode):
            os.unlink(name, dir_fd=fd)
        elif name in wanted:
            kept.add(name)
        else:
            remove_tree(fd, name)
    for attribute in visible_xattrs(fd, None, FAMILY):
        os.removexattr(fd, escape_attribute(attribute, FAMILY))
    # Neither may its group rub off on what is made in it; it is dressed anew at the end.
    os.fchown(fd, os.geteuid(), os.getegid())
    os.fchmod(fd, 0o700)
    return frozenset(kept)


def _names_elsewhere(
    root: int, name: bytes, view: View, groups: dict[FileId, list[Link]], done: set[bytes]
) -> dict[FileId, bytes]:
    """One name in the layer of each file that also has names in unchanged directories.

    A name cannot come or go without the file's ctime, so a file whose names changed has
    none there.
    """
    found: dict[FileId, bytes] = {}
    wanted = {file for file, links in groups.items() if len(links) < links[0].nlink}
    pending = [(name, view.root())] if wanted else []
    while pending:
        target, node = pending.pop()
        with view.open(node) as directory, visible(view, node.places) as sources:
            for entry, st, _ in sources:
                if stat.S_ISDIR(st.st_mode):
                    child = directory.lookup(entry)
                    if child is not None and child.is_dir:
                        pending.append((target + b"/" + entry, child))
                elif target not in done and (st.st_dev, st.st_ino) in wanted:
                    path = target + b"/" + entry
                    if _exists(root, path):
                        found[st.st_dev, st.st_ino] = path
    return found


def _exists(root: int, path: bytes) -> bool:
    above, _, name = path.rpartition(b"/")
    try:
        fd = open_beneath(root, above, _DIRECTORY)
    except OSError:
        return False
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def _add_names(root: int, existing: bytes, links: list[Link]) -> None:
    above, _, name = existing.rpartition(b"/")
    source = open_beneath(root, above, _DIRECTORY)
    try:
        for link in links:
            directory, _, new = link.target.rpartition(b"/")
            with kept_quiet(root, directory) as there:
                os.link(name, new, src_dir_fd=source, dst_dir_fd=there, follow_symlinks=False)
    finally:
        os.close(source)
