"""Whole trees as values, read with os.walk alone: the oracle that diffs are judged by."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from overlay.differences.changes import Aspect, Change, Kind

__all__ = ["Tree", "check_diff", "snapshot"]


@dataclass(frozen=True)
class Thing:
    """Everything about one entry that a diff may report."""

    ftype: int
    mode: int
    owner: tuple[int, int]
    times: int | None
    xattrs: tuple[tuple[str, bytes], ...]
    content: object


Tree = dict[bytes, Thing]


def snapshot(root: Path) -> Tree:
    """Every entry below ``root``, its content read in full."""
    base = os.fsencode(root)
    tree: Tree = {}
    for directory, dirs, files in os.walk(base):
        for name in dirs + files:
            path = os.path.join(directory, name)
            tree[os.path.relpath(path, base)] = _thing(path)
    return tree


def _thing(path: bytes) -> Thing:
    st = os.lstat(path)
    content: object = None
    if stat.S_ISREG(st.st_mode):
        content = (st.st_size, Path(os.fsdecode(path)).read_bytes())
    elif stat.S_ISLNK(st.st_mode):
        content = os.readlink(path)
    elif stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
        content = st.st_rdev
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return Thing(
        ftype=stat.S_IFMT(st.st_mode),
        mode=stat.S_IMODE(st.st_mode),
        owner=(st.st_uid, st.st_gid),
        times=None if stat.S_ISDIR(st.st_mode) else st.st_mtime_ns,
        xattrs=tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names),
        content=content,
    )


def check_diff(changes: Iterable[Change], old: Tree, new: Tree) -> None:
    """Assert that the changes turn ``old`` into ``new``, and that not one is superfluous."""
    tree = dict(old)
    last: bytes | None = None
    for change in changes:
        path = change.path
        assert last is None or path > last, "in byte order, and nothing twice"
        last = path
        if change.kind is Kind.CHANGED:
            _apply_change(tree, change, new)
            continue
        if change.kind is Kind.ADDED:
            assert path not in tree
        else:
            assert path in tree
        if change.kind is Kind.DELETED:
            gone = _below(tree, path)
            assert change.gone == len(gone)
            assert change.gone_bytes == sum(_length(tree[each]) for each in gone)
            _remove(tree, path)
            continue
        assert change.size == _length(new[path])
        _apply_new(tree, change, old, new)
    assert tree == new


def _apply_change(tree: Tree, change: Change, new: Tree) -> None:
    before, after = tree[change.path], new[change.path]
    assert before.ftype == after.ftype
    assert change.what
    assert (change.old_size, change.size) == (_length(before), _length(after))
    for aspect in change.what:
        value = getattr(after, aspect)
        assert value != getattr(before, aspect), f"{change} claims {aspect}"
        before = replace(before, **{aspect.value: value})
    tree[change.path] = before


def _apply_new(tree: Tree, change: Change, old: Tree, new: Tree) -> None:
    path = change.path
    is_dir = stat.S_ISDIR(new[path].ftype)
    if change.kind is Kind.REPLACED:
        if is_dir and stat.S_ISDIR(tree[path].ftype) and change.moved_from is None:
            # Another directory of that name: what it has and lacks is listed.
            differs = {a for a in Aspect if getattr(tree[path], a) != getattr(new[path], a)}
            assert change.what == differs
        else:
            assert change.moved_from is not None or tree[path].ftype != new[path].ftype
            _remove(tree, path)
    if change.moved_from is not None and is_dir:
        for each in _below(old, change.moved_from):
            tree[path + each.removeprefix(change.moved_from)] = old[each]
    elif change.moved_from is not None:
        assert old[change.moved_from].content == new[path].content
    tree[path] = new[path]


def _below(tree: Tree, path: bytes) -> list[bytes]:
    return [each for each in tree if each == path or each.startswith(path + b"/")]


def _remove(tree: Tree, path: bytes) -> None:
    for each in _below(tree, path):
        del tree[each]


def _length(thing: Thing) -> int:
    return thing.content[0] if isinstance(thing.content, tuple) else 0
