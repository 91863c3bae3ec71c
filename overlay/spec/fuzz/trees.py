"""What a union shows, as a whole, in comparable form; and how two of them differ."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from overlay.layer import Layer
from overlay.linkindex import IndexedView, LinkIndex
from overlay.marks import MarkFamily, visible_xattrs
from overlay.spec.observe import errno_name, shown
from overlay.text import printable
from overlay.view import Node, View
from overlay.workdir import beside

__all__ = ["Difference", "Seen", "Tree", "differences", "engine_tree", "kind_of", "mounted_tree"]

_READ_AT_MOST: Final = 1 << 20

T = TypeVar("T")


class Seen(NamedTuple):
    """What must be equal of one file.  What cannot be looked at is the errno's name.

    ``size`` and ``links`` are 0 for directories; ``time`` is the modification time in ns,
    -1 for "since the start", because only times that are set by hand can be equal.
    """

    mode: int
    owner: tuple[int, int]
    size: int
    links: int
    device: int
    time: int
    content: bytes | str | None
    xattrs: dict[str, bytes] | str


#: By path, as ``./d/a``; a file that cannot even be looked up is the errno's name.
Tree = dict[bytes, Seen | str]

_KINDS: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def kind_of(found: Seen | str | None) -> str:
    """``file``, ``directory``, …, ``device``; ``nothing``, or an errno's name."""
    if found is None:
        return "nothing"
    return found if isinstance(found, str) else _KINDS.get(stat.S_IFMT(found.mode), "device")


def _seen(st: os.stat_result, started: int, content: bytes | str | None, xattrs: object) -> Seen:
    kind = stat.S_IFMT(st.st_mode)
    size, links = (0, 0) if kind == stat.S_IFDIR else (st.st_size, st.st_nlink)
    assert isinstance(xattrs, dict | str)
    return Seen(
        st.st_mode,
        (st.st_uid, st.st_gid),
        size,
        links,
        st.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
        st.st_mtime_ns if st.st_mtime_ns < started else -1,
        content,
        xattrs,
    )


def mounted_tree(root: str, started: int) -> Tree:
    """Everything in a mount, by the calls that everybody uses.  ``started`` is a time in ns."""
    tree: Tree = {}
    pending = [b"."]
    base = os.fsencode(root)
    while pending:
        relative = pending.pop()
        path = base + b"/" + relative
        st = _or_errno(lambda path=path: os.lstat(path))  # type: ignore[misc]
        if isinstance(st, str):
            tree[relative] = st
            continue
        content: bytes | str | None = None
        if stat.S_ISREG(st.st_mode):
            content = _or_errno(lambda path=path: _content(path))  # type: ignore[misc]
        elif stat.S_ISLNK(st.st_mode):
            content = _or_errno(lambda path=path: os.readlink(path))  # type: ignore[misc]
        elif stat.S_ISDIR(st.st_mode):
            names = _or_errno(lambda path=path: os.listdir(os.fsencode(path)))  # type: ignore[misc]
            if isinstance(names, str):
                content = names
            else:
                pending += [relative + b"/" + name for name in names]
        xattrs = _or_errno(lambda path=path: _xattrs(path))  # type: ignore[misc]
        tree[relative] = _seen(st, started, content, xattrs)
    return tree


def _or_errno(look: Callable[[], T]) -> T | str:
    try:
        return look()
    except OSError as error:
        return errno_name(error)


def _content(path: bytes) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(fd, _READ_AT_MOST)
    finally:
        os.close(fd)


def _xattrs(path: bytes) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def engine_tree(
    bottoms: tuple[str, ...], top: Path, started: int, family: MarkFamily = MarkFamily.TRUSTED
) -> Tree:
    """What the layers show, looked at without the engine: nothing is copied up."""
    with ExitStack() as stack:
        layers = [stack.enter_context(Layer.open(path)) for path in (str(top), *bottoms)]
        view = View(layers, family)
        if Path(beside(str(top)), "index").is_dir():
            work = stack.enter_context(Layer.open(beside(str(top))))
            index = LinkIndex.open(work.fd, layers[1:], len(layers), family)
            if index is not None:
                stack.callback(index.close)
                view = IndexedView(layers, family, (), index)
        return _view_tree(view, started)


def _view_tree(view: View, started: int) -> Tree:
    tree: Tree = {}
    pending: list[tuple[bytes, Node]] = [(b".", view.root())]
    while pending:
        path, node = pending.pop()
        tree[path] = _seen_in(view, node, started)
        if node.is_dir:
            with view.open(node) as directory:
                for name in directory.names():
                    child = directory.lookup(name)
                    if child is not None:
                        pending.append((path + b"/" + name, child))
    return tree


def _seen_in(view: View, node: Node, started: int) -> Seen:
    place = node.places[0]
    layer = view.layers[place.layer]
    content: bytes | str | None = None
    with layer.parent(place.path) as (fd, name):
        xattrs = visible_xattrs(fd, name or None, view.family)
        if stat.S_ISLNK(node.st.st_mode):
            content = os.fsencode(os.readlink(name, dir_fd=fd))
    if stat.S_ISREG(node.st.st_mode):
        assert node.data is not None
        fd = view.open_data(node.data)
        content = os.read(fd, _READ_AT_MOST)
        os.close(fd)
    return _seen(node.st, started, content, xattrs)


# ------------------------------------------------------------------------- differences


@dataclass(frozen=True, slots=True)
class Difference:
    """One aspect in which two sides differ: ``subject`` is ``file mode``, ``rename directory``…"""

    path: bytes
    subject: str
    expected: str
    seen: str

    @property
    def text(self) -> str:
        """What the catalogue's patterns match."""
        return f"{self.subject}: {self.expected} -> {self.seen}"

    @property
    def reversed(self) -> Difference:
        """The same with the sides changed."""
        return Difference(self.path, self.subject, self.seen, self.expected)


def differences(expected: Tree, seen: Tree) -> Iterator[Difference]:
    """Every aspect of every file, by path."""
    for path in sorted(expected.keys() | seen.keys()):
        mine, theirs = expected.get(path), seen.get(path)
        if mine != theirs:
            yield from _between(path, mine, theirs)


def _between(
    path: bytes, mine: Seen | str | None, theirs: Seen | str | None
) -> Iterator[Difference]:
    kinds = kind_of(mine), kind_of(theirs)
    if kinds[0] != kinds[1] or isinstance(mine, str | None) or isinstance(theirs, str | None):
        yield Difference(path, "entry", *kinds)
        return
    for aspect in ("mode", "owner", "size", "links", "device", "time", "content"):
        both = getattr(mine, aspect), getattr(theirs, aspect)
        if both[0] != both[1]:
            yield Difference(path, f"{kinds[0]} {aspect}", *(_told(aspect, one) for one in both))
    ours, other = mine.xattrs, theirs.xattrs
    if isinstance(ours, str) or isinstance(other, str):
        if ours != other:
            yield Difference(path, f"{kinds[0]} xattrs", *(_told_all(one) for one in (ours, other)))
        return
    for name in sorted(ours.keys() | other.keys()):
        values = ours.get(name), other.get(name)
        if values[0] != values[1]:
            told = ("absent" if one is None else shown(one) for one in values)
            yield Difference(path, f"{kinds[0]} xattr {name}", *told)


def _told_all(xattrs: dict[str, bytes] | str) -> str:
    return xattrs if isinstance(xattrs, str) else f"{len(xattrs)} attributes"


def _told(aspect: str, value: object) -> str:
    if aspect == "mode":
        assert isinstance(value, int)
        return stat.filemode(value)
    if aspect == "owner":
        assert isinstance(value, tuple)
        return f"{value[0]}:{value[1]}"
    if aspect == "time":
        assert isinstance(value, int)
        return "now" if value < 0 else f"{value // 10**9}.{value % 10**9:09}"
    if isinstance(value, bytes):
        return printable(shown(value))
    return str(value)
