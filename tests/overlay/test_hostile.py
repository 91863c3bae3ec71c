"""Layers that no overlay made: the kernel's answer is ours, or a named refusal is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from overlay.layer import Layer
from overlay.marks import HostileMark
from tests.conftest import Layers, make_layers
from tests.overlay.test_changes import OPTIONS, age, changes
from tests.rawoverlay import overlay
from tests.treediff import check_diff, snapshot

PATHS = ["a", "b", "a/a", "a/b", "b/a", "b/b", "a/a/a"]
THINGS = st.tuples(
    st.sampled_from(["bottom", "middle", "top"]),
    st.sampled_from(PATHS),
    st.sampled_from(["dir", "dir", "dir", "file", "empty", "link", "whiteout", "fifo"]),
)
VALUES = st.one_of(
    st.sampled_from(
        [
            *(b"", b"y", b"x", b"/", b"/a", b"/b", b"/a/b", b"/b/a", b"a", b"b", b"..", b"."),
            *(b"/..", b"/../../etc", b"/a/../b", b"a/b", b"//a", b"/a/", b"/link", b"/etc"),
            *(b"\0\4\0\0", b"\0\5\0\0", b"\7\4\0\0", b"x" * 4096, b"/" + b"n" * 255),
        ]
    ),
    st.binary(max_size=80),
)
MARKS = st.tuples(
    st.sampled_from(["bottom", "middle", "top"]),
    st.sampled_from(PATHS),
    st.sampled_from(["opaque", "redirect", "redirect", "metacopy", "whiteout", "origin", "impure"]),
    VALUES,
)


def build(base: Path, things: Sequence[tuple[str, str, str]]) -> None:
    for layer, path, kind in things:
        target = base / layer / path
        try:
            if kind == "dir":
                target.mkdir()
            elif kind in ("file", "empty"):
                with target.open("x") as file:  # never into a fifo that is there
                    file.write(f"{layer}:{path}" if kind == "file" else "")
            elif kind == "link":
                target.symlink_to("../../secret")
            elif kind == "whiteout":
                os.mknod(target, 0o020000, 0)
            else:
                os.mkfifo(target)
        except OSError:
            continue  # its parent is no directory, or something is there


def mark(base: Path, marks: Sequence[tuple[str, str, str, bytes]]) -> None:
    for layer, path, name, value in marks:
        try:
            attribute = f"trusted.overlay.{name}"
            os.setxattr(base / layer / path, attribute, value, follow_symlinks=False)
        except OSError:
            continue  # nothing there


def test_hostile_layers_are_read_as_the_kernel_reads_them(tmpfs_dir: Path) -> None:
    examples = iter(range(10**6))

    @settings(
        max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(st.lists(THINGS, max_size=25), st.lists(MARKS, max_size=8))
    @example([("bottom", "a", "dir"), ("top", "b", "dir")], [("top", "b", "redirect", b"/../a")])
    @example([("bottom", "a", "file"), ("top", "a", "file")], [("top", "a", "metacopy", b"")])
    def one(things: list[tuple[str, str, str]], marks: list[tuple[str, str, str, bytes]]) -> None:
        base = tmpfs_dir / str(next(examples))
        base.mkdir()
        layers = make_layers(base)
        for name in ("middle", "secret", "empty", "empty.work"):
            (base / name).mkdir()
        (base / "secret" / "a").write_text("secret")
        build(base, sorted(things, key=lambda thing: len(thing[1])))
        for name in ("bottom", "middle", "top"):
            age(base / name)
        mark(base, marks)
        judge(layers)
        shutil.rmtree(base)

    one()


def judge(layers: Layers) -> None:
    """Where the kernel shows both trees whole, the diff is right; else it may refuse."""
    bottoms = [layers.base / "middle", layers.bottom]
    # What the diff reads, and what it refuses to, is decided before the kernel touches anything.
    try:
        found = changes(layers.top, bottoms)
    except HostileMark:
        found = None
    try:
        empty = layers.base / "empty"
        with overlay(layers.mnt, bottoms, empty, layers.base / "empty.work", OPTIONS["stubs"]):
            old = snapshot(layers.mnt)
        with overlay(layers.mnt, bottoms, layers.top, layers.work, OPTIONS["stubs"]):
            new = snapshot(layers.mnt)
    except OSError:
        return
    if found is not None:
        check_diff(found, old, new)


def test_a_symlink_for_a_layers_directory_is_not_followed(layers: Layers) -> None:
    (layers.base / "secret").mkdir()
    (layers.base / "secret" / "f").write_text("secret")
    (layers.bottom / "d").mkdir()
    (layers.top / "d").symlink_to(layers.base / "secret")
    (found,) = changes(layers.top, [layers.bottom])
    assert (found.path, found.ftype, found.old_ftype) == (b"d", "symlink", "directory")
    with Layer.open(str(layers.top)) as layer:
        assert [entry.path for entry in layer.walk()] == [b"d"]
