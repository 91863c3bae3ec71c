"""What the tests of commit, merge and archives share: whole trees, with their hard links."""

from __future__ import annotations

import os
import shutil
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tests.conftest import Layers
from tests.rawoverlay import overlay
from tests.treediff import Tree, snapshot

__all__ = ["STUBS", "change", "groups", "shown", "whole", "without_directory_times"]

STUBS = {"metacopy": "on", "redirect_dir": "on", "index": "on"}


def change(layers: Layers) -> tuple[Tree, set[frozenset[bytes]]]:
    """Fill a bottom, and change it through a top in all the ways there are; what is shown then."""
    bottom = layers.bottom
    for name in ("d/file", "d/e/deep", "gone/x", "gone/y", "moved/z", "type"):
        (bottom / name).parent.mkdir(parents=True, exist_ok=True)
        (bottom / name).write_text(name)
    os.link(bottom / "d/file", bottom / "d/other name")
    os.link(bottom / "gone/x", bottom / "other x")
    with overlay(layers.mnt, [bottom], layers.top, layers.work, STUBS) as mnt:
        (mnt / "d/file").write_text("content for two names")
        (mnt / "d/e/deep").chmod(0o600)
        shutil.rmtree(mnt / "gone")
        (mnt / "other x").unlink()
        (mnt / "gone").mkdir()
        (mnt / "gone/new").write_text("new")
        (mnt / "moved").rename(mnt / "elsewhere")
        (mnt / "elsewhere/z").rename(mnt / "z")
        (mnt / "type").unlink()
        (mnt / "type").mkdir()
        return whole(mnt), groups(mnt)


def whole(root: Path) -> Tree:
    """Everything below ``root``, directories with their times."""
    base = os.fsencode(root)
    tree = snapshot(root)
    for path, thing in tree.items():
        if stat.S_ISDIR(thing.ftype):
            tree[path] = replace(thing, times=os.lstat(base + b"/" + path).st_mtime_ns)
    return tree


def without_directory_times(tree: Tree) -> Tree:
    return {
        path: replace(thing, times=None) if thing.ftype == stat.S_IFDIR else thing
        for path, thing in tree.items()
    }


def groups(root: Path) -> set[frozenset[bytes]]:
    """Which names are one file."""
    found: dict[tuple[int, int], set[bytes]] = defaultdict(set)
    base = os.fsencode(root)
    for directory, _, files in os.walk(base):
        for name in files:
            path = os.path.join(directory, name)
            st = os.lstat(path)
            if st.st_nlink > 1:
                found[st.st_dev, st.st_ino].add(os.path.relpath(path, base))
    return {frozenset(names) for names in found.values() if len(names) > 1}


def shown(layers: Layers, stack: Sequence[Path], options: dict[str, str]) -> Tree:
    """What bottoms show together, seen through an empty top."""
    empty, work = layers.base / "empty", layers.base / "emptywork"
    for directory in (empty, work):
        directory.mkdir()
    try:
        with overlay(layers.mnt, stack, empty, work, options):
            return whole(layers.mnt)
    finally:
        shutil.rmtree(empty)
        shutil.rmtree(work)


def plain(root: Path) -> Iterator[str]:
    """Attributes of an overlay that are left on a tree that should have none."""
    for directory, dirs, files in os.walk(root):
        for name in dirs + files:
            path = os.path.join(directory, name)
            for attribute in os.listxattr(path, follow_symlinks=False):
                if ".overlay." in attribute:
                    yield f"{path}: {attribute}"
