"""Merged tops and squashed bottoms show what their parts showed together."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from overlay.committing.merge import merge, squash
from overlay.errors import Refused, TopInUse, UsageError
from tests.conftest import Layers
from tests.fsimages import tmpfs
from tests.overlay.committing import groups, plain, shown, whole
from tests.overlay.test_changes import OPTIONS, Step, histories, stacked
from tests.rawoverlay import overlay


@pytest.mark.parametrize("kind", sorted(OPTIONS))
def test_layers_become_one(tmpfs_dir: Path, kind: str) -> None:
    examples = iter(range(10**6))
    options = OPTIONS[kind]
    family = "user" if kind == "user" else "trusted"

    def history(steps: list[list[Step]]) -> None:
        base = tmpfs_dir / str(next(examples))
        base.mkdir()
        layers, stack = stacked(base, steps, options)
        expected = shown(layers, stack, options)
        paths = [str(path) for path in stack]
        top, flat = base / "merged", base / "flat"
        merge(paths[:2], paths[2:], str(top), family=family)
        assert shown(layers, [top, layers.bottom], options) == expected, "the tops in one"
        squash(paths, str(flat), family=family)
        assert whole(flat) == expected, "no top at all"
        assert not list(plain(flat))
        shutil.rmtree(base)

    histories(2, history, 25)


def test_hard_links_and_order(layers: Layers) -> None:
    parts = [layers.base / name for name in ("upper", "lower")]
    for part in parts:
        part.mkdir()
        (part / "both").write_text(part.name)
    (parts[1] / "one").write_text("one")
    os.link(parts[1] / "one", parts[1] / "two")
    merge([str(part) for part in parts], [str(layers.bottom)], str(layers.base / "merged"))
    assert (layers.base / "merged" / "both").read_text() == "upper"
    assert groups(layers.base / "merged") == {frozenset({b"one", b"two"})}
    merge([str(part) for part in reversed(parts)], [str(layers.bottom)], str(layers.base / "other"))
    assert (layers.base / "other" / "both").read_text() == "lower"


def test_refusals_leave_nothing(layers: Layers) -> None:
    other = layers.base / "other"
    other.mkdir()
    (other / "file").write_text("x" * 100_000)
    tops, bottoms = [str(layers.top), str(other)], [str(layers.bottom)]
    with pytest.raises(UsageError):
        merge(tops[:1], bottoms, str(layers.base / "out"))
    with pytest.raises(Refused, match="exists already"):
        merge(tops, bottoms, str(other))
    with (
        overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {"index": "on"}),
        pytest.raises(TopInUse),
    ):
        merge(tops, bottoms, str(layers.base / "out"))
    small = layers.base / "small"
    small.mkdir()
    with tmpfs(small, options={"size": "64k"}):
        with pytest.raises(OSError, match=os.strerror(28)):
            merge(tops, bottoms, str(small / "out"))
        assert list(small.iterdir()) == []
