"""Small trees to begin with, and what each driver shows of them in comparable form."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from overlay import acl
from overlay.layer import Layer
from overlay.linkindex import IndexedView, LinkIndex
from overlay.marks import MarkFamily, set_opaque, visible_xattrs, write_whiteout
from overlay.view import Node, View
from overlay.workdir import beside
from tests.strategies import ALICE, BOB, DIRECTORIES, LISTS, NAMES, Chooser

__all__ = [
    "Tree",
    "add_links",
    "attributes",
    "cover",
    "differing",
    "engine_tree",
    "ignoring",
    "kernel_tree",
    "populate",
]


def attributes(st: os.stat_result, started: int) -> tuple[Any, ...]:
    """What must be equal; times that are not set by hand only as before or after the start."""
    is_dir = stat.S_ISDIR(st.st_mode)
    modified = st.st_mtime_ns if st.st_mtime_ns < started else "now"
    size, links = (0, 0) if is_dir else (st.st_size, st.st_nlink)
    device = st.st_rdev if stat.S_IFMT(st.st_mode) in (stat.S_IFCHR, stat.S_IFBLK) else 0
    return (oct(st.st_mode), st.st_uid, st.st_gid, size, links, device, modified)


#: Path to attributes, content and extended attributes.
Tree = dict[bytes, Any]


def kernel_tree(started: int) -> Tree:
    """Everything in the current directory, which is a mount's root."""
    tree: Tree = {}
    pending = [b"."]
    while pending:
        path = pending.pop()
        st = os.lstat(path)
        content: Any = None
        if stat.S_ISREG(st.st_mode):
            fd = os.open(path, os.O_RDONLY)
            content = os.read(fd, 1 << 20)
            os.close(fd)
        elif stat.S_ISLNK(st.st_mode):
            content = os.readlink(path)
        elif stat.S_ISDIR(st.st_mode):
            names = os.listdir(path)
            pending += [path + b"/" + name for name in names]
        names_here = os.listxattr(path, follow_symlinks=False)
        xattrs = {n: os.getxattr(path, n, follow_symlinks=False) for n in names_here}
        tree[path] = (attributes(st, started), content, xattrs)
    return tree


def engine_tree(bottoms: tuple[str, ...], top: Path, started: int) -> Tree:
    """What the layers show, looked at without the engine: nothing is copied up."""
    family = MarkFamily.TRUSTED
    with ExitStack() as stack:
        layers = [stack.enter_context(Layer.open(path)) for path in (str(top), *bottoms)]
        view = View(layers, family)
        if Path(beside(str(top)), "index").is_dir():
            work = stack.enter_context(Layer.open(beside(str(top))))
            index = LinkIndex.open(work.fd, layers[1:], len(layers), family)
            if index is not None:
                stack.callback(index.close)
                view = IndexedView(layers, family, (), index)
        return _tree(view, started)


def _tree(view: View, started: int) -> Tree:
    tree: Tree = {}
    pending: list[tuple[bytes, Node]] = [(b".", view.root())]
    while pending:
        path, node = pending.pop()
        tree[path] = _seen(view, node, started)
        if node.is_dir:
            with view.open(node) as directory:
                for name in directory.names():
                    child = directory.lookup(name)
                    if child is not None:
                        pending.append((path + b"/" + name, child))
    return tree


def _seen(view: View, node: Node, started: int) -> tuple[Any, ...]:
    place = node.places[0]
    layer = view.layers[place.layer]
    content: Any = None
    with layer.parent(place.path) as (fd, name):
        xattrs = visible_xattrs(fd, name or None, view.family)
        if stat.S_ISLNK(node.st.st_mode):
            content = os.readlink(name, dir_fd=fd)
    if stat.S_ISREG(node.st.st_mode):
        assert node.data is not None
        fd = view.open_data(node.data)
        content = os.read(fd, 1 << 20)
        os.close(fd)
    return attributes(node.st, started), content, xattrs


def ignoring(tree: Tree, *, times: bool, links: bool) -> Tree:
    """A tree without the modification times, or the link counts, of what is no directory."""

    def about(found: tuple[Any, ...]) -> tuple[Any, ...]:
        mode, uid, gid, size, count, device, time = found
        is_file = mode.startswith("0o10")
        return (mode, uid, gid, size, links or count, device, (times and is_file) or time)

    return {path: (about(found), *rest) for path, (found, *rest) in tree.items()}


def differing(mine: Tree, theirs: Tree) -> str:
    lines = []
    for path in sorted(mine.keys() | theirs.keys()):
        if mine.get(path) != theirs.get(path):
            lines.append(f"  {path!r}:\n    engine {mine.get(path)}\n    kernel {theirs.get(path)}")
    return "\n".join(lines)


# ------------------------------------------------------------------ bottoms to begin with

_OLD: Final = 1_500_000_000 * 10**9 + 987_654_321


def populate(root: Path, choose: Chooser) -> None:
    """A small tree with every type of file, owners, modes, lists and attributes."""
    os.chmod(root, 0o777)
    for number, directory in enumerate(DIRECTORIES):
        if (root / directory).parent.is_dir() and choose((True, True, True, False)):
            (root / directory).mkdir()
            for name in NAMES:
                _add(root / directory / name, choose)
            os.chown(root / directory, choose((0, ALICE)), choose((0, ALICE)))
            os.chmod(root / directory, choose((0o755, 0o777, 0o1777, 0o2775, 0o700, 0o770)))
            if choose((False, False, False, True)):
                os.setxattr(root / directory, acl.DEFAULT, choose(LISTS[:2]))
            os.utime(root / directory, ns=(_OLD, _OLD + number))
    for name in NAMES:
        _add(root / name, choose)
    os.symlink(choose(("d", "a", "m/n", "nothing")), root / "l")
    os.symlink("loop", root / "loop")
    os.utime(root / "l", ns=(_OLD, _OLD), follow_symlinks=False)
    os.utime(root / "loop", ns=(_OLD, _OLD), follow_symlinks=False)
    for directory in DIRECTORIES[::-1]:
        if (root / directory).is_dir():
            os.utime(root / directory, ns=(_OLD, _OLD + 1))
    os.utime(root, ns=(_OLD, _OLD))


def add_links(root: Path, choose: Chooser) -> None:
    """Give some files second and third names, here and there."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]
    for path in files:
        if choose((False, True)):
            continue
        times = {directory: os.stat(directory) for directory in (root, *path.parents)}
        for other in choose((("a2",), ("d/b2",), ("b2", "m/a2"), ("s/c2", "d/e/c2"))):
            if (root / other).parent.is_dir() and not os.path.lexists(root / other):
                os.link(path, root / other)
        for directory, st in times.items():
            if directory.is_relative_to(root):
                os.utime(directory, ns=(st.st_atime_ns, st.st_mtime_ns))
    for name in DIRECTORIES:
        if (root / name).is_dir():
            os.utime(root / name, ns=(_OLD, _OLD + 1))


def _add(path: Path, choose: Chooser) -> None:
    kind = choose(("file", "file", "file", "file", "none", "link", "fifo", "dir"))
    if kind == "none":
        return
    if kind == "link":
        os.symlink(choose(("a", "b", "e/a", "nothing")), path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "dir":
        path.mkdir()
    else:
        path.write_bytes(choose((b"", b"old", b"old content" * 1000)))
    os.chown(path, choose((0, ALICE)), choose((0, ALICE, BOB)), follow_symlinks=False)
    if kind != "link":
        os.chmod(path, choose((0o644, 0o600, 0o666, 0o4755, 0o2755, 0o2644, 0o000, 0o777)))
    if kind == "file" and choose((False, False, True)):
        os.setxattr(path, choose(("user.x", "trusted.x", "trusted.overlay.overlay.opaque")), b"y")
        os.setxattr(path, acl.ACCESS, choose(LISTS[:2]))
    os.utime(path, ns=(_OLD, _OLD + 5), follow_symlinks=False)


def cover(root: Path, lower: Path, choose: Chooser) -> None:
    """Let the upper bottom hide things of the lower one, as a top of an earlier union does.

    A whiteout that hides nothing no driver makes; the kernel's readdir would show it.
    """
    family = MarkFamily.TRUSTED
    merged = {"."}
    for directory in (".", *DIRECTORIES):
        if not (root / directory).is_dir() or not (lower / directory).is_dir():
            continue
        if os.path.dirname(directory) not in merged and "/" in directory:
            continue
        st = os.stat(root / directory)
        fd = os.open(root / directory, os.O_RDONLY)
        try:
            if directory != "." and choose((False, False, True)):
                set_opaque(fd, family)
                continue
            merged.add(directory)
            for name in NAMES:
                taken = os.path.lexists(root / directory / name)
                hides = os.path.lexists(lower / directory / name)
                if hides and not taken and choose((False, True)):
                    write_whiteout(fd, name.encode(), family)
            os.utime(fd, ns=(st.st_atime_ns, st.st_mtime_ns))
        finally:
            os.close(fd)
