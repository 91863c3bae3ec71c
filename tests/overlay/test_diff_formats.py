"""Diffs of two tops, and in the formats that other programs read."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlay.differences import difftext, mtree
from overlay.differences.changes import Difference, differences
from overlay.layer import Layer
from overlay.marks import MarkFamily
from overlay.view import TwoTops, View
from tests.conftest import Layers
from tests.overlay.test_changes import OPTIONS, Step, age, histories, run, stacked
from tests.rawoverlay import overlay
from tests.treediff import check_diff, snapshot


@pytest.mark.parametrize("kind", sorted(OPTIONS))
def test_two_tops_over_the_same_bottoms(tmpfs_dir: Path, kind: str) -> None:
    examples = iter(range(10**6))
    options = OPTIONS[kind]

    def history(steps: list[list[Step]]) -> None:
        base = tmpfs_dir / str(next(examples))
        base.mkdir()
        layers, stack = stacked(base, steps[:2], options)
        trees = []
        for name, each in (("one", steps[2]), ("two", steps[3])):
            top, work = base / name, base / f"{name}.work"
            top.mkdir()
            work.mkdir()
            with overlay(layers.mnt, stack, top, work, options) as mnt:
                run(mnt, each)
                trees.append(snapshot(mnt))
        family = MarkFamily.USER if kind == "user" else MarkFamily.TRUSTED
        opened = [Layer.open(str(path)) for path in (base / "two", base / "one", *stack)]
        found = [each.change for each in differences(TwoTops(opened, family), checksum=True)]
        check_diff(found, *trees)
        for layer in opened:
            layer.close()
        shutil.rmtree(base)

    histories(3, history, 20)


@contextmanager
def of(layers: Layers) -> Iterator[tuple[View, list[Difference]]]:
    with Layer.open(str(layers.top)) as top, Layer.open(str(layers.bottom)) as bottom:
        view = View([top, bottom], MarkFamily.TRUSTED)
        yield view, list(differences(view))


@pytest.fixture
def texts(layers: Layers) -> Layers:
    for name in ("changed", "gone", "d/gone", "d/kept", "retyped", "end", "name with blanks"):
        (layers.bottom / name).parent.mkdir(exist_ok=True)
        (layers.bottom / name).write_text("".join(f"{name} {n}\n" for n in range(30)))
    (layers.bottom / "binary").write_bytes(b"\0\1" * 99)
    age(layers.bottom)
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mnt:
        lines = (mnt / "changed").read_text().splitlines(keepends=True)
        (mnt / "changed").write_text("".join([*lines[:9], "new\n", *lines[12:]]))
        (mnt / "end").write_text((mnt / "end").read_text() + "no newline")
        (mnt / "name with blanks").write_text("other\n")
        (mnt / "gone").unlink()
        shutil.rmtree(mnt / "d")
        (mnt / "new").write_text("new\nfile\n")
        (mnt / "retyped").unlink()
        (mnt / "retyped").mkdir()
        (mnt / "retyped" / "in").write_text("in\n")
        (mnt / "binary").write_bytes(b"\0\2" * 99)
        (mnt / "binary").chmod(0o600)
    return layers


def test_patch_makes_the_bottom_what_the_union_is(texts: Layers) -> None:
    if shutil.which("patch") is None:
        pytest.skip("needs: patch(1)")
    with of(texts) as (view, found):
        pieces = {each.path: difftext.unified(view, each) for each in found}
    # patch removes files at its end, so that it cannot make a directory of one.
    assert pieces[b"retyped"].splitlines()[0] == b"--- a/retyped"
    text = b"".join(piece for path, piece in pieces.items() if b"retyped" not in path)
    assert b"binary binary: differs\n" in text
    assert "mode binary: 0644 → 0600\n".encode() in text
    copy = texts.base / "copy"
    shutil.copytree(texts.bottom, copy)
    done = subprocess.run(["patch", "-p1", "-d", copy, "-E", "--batch"], input=text, check=False)
    assert done.returncode == 0
    with overlay(texts.mnt, [texts.bottom], texts.top, texts.work, {}) as mnt:
        expected = {path: path.read_bytes() for path in mnt.rglob("*") if path.is_file()}
        made = {mnt / path.relative_to(copy): path for path in copy.rglob("*") if path.is_file()}
        del made[mnt / "retyped"], expected[mnt / "retyped" / "in"]
        assert made.keys() == expected.keys()
        for path, content in expected.items():
            if path.name != "binary":
                assert made[path].read_bytes() == content


def test_mtree_says_what_is_there_now(texts: Layers) -> None:
    os.symlink("to where", texts.top / "a link\n")
    with of(texts) as (view, found):
        lines = [mtree.line(view, each) for each in found]
    assert "# gone: ./gone\n" in lines
    words = dict(word.partition("=")[::2] for word in lines[0].split()[1:])
    assert lines[0].startswith("./a\\040link\\012 ")
    assert words["link"] == "to\\040where"
    new = next(line for line in lines if line.startswith("./new "))
    st = (texts.top / "new").stat()
    assert f"time={st.st_mtime_ns // 10**9}.{st.st_mtime_ns % 10**9:09}" in new
    assert (
        f"sha256digest={hashlib.sha256(b'new' + bytes([10]) + b'file' + bytes([10])).hexdigest()}"
        in new
    )
    assert "size=9" in new
    if shutil.which("bsdtar") is not None:
        text = (mtree.HEADER + "".join(lines)).encode()
        listed = subprocess.run(["bsdtar", "-tf", "-"], input=text, capture_output=True, check=True)
        names = {line.rstrip(b"/") for line in listed.stdout.splitlines()}
        assert {b"./new", b"./changed", b"./retyped/in"} <= names
