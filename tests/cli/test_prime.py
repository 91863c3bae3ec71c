"""The command ``fallthru prime``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.conftest import Layers
from tests.running import fallthru


@pytest.fixture
def tree(layers: Layers) -> Layers:
    for name in ("d/sub/file", "d/one", "d/two", "e/three"):
        path = layers.bottom / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return layers


def of(layers: Layers) -> list[str | Path]:
    return ["--top", layers.top, "--bottom", layers.bottom]


def test_prime_and_undo(tree: Layers) -> None:
    done = fallthru("prime", "--recursive", *of(tree))
    assert done.returncode == 0, done.stderr
    assert "3 directories primed, 5 fallthrus" in done.stdout
    assert "left merged: /: overlayfs always merges the root" in done.stdout
    assert done.stderr == ""
    assert os.getxattr(tree.top / "d" / "sub", "trusted.overlay.opaque") == b"y"
    again = fallthru("prime", "--recursive", *of(tree))
    assert "3 were primed before" in again.stdout
    undone = fallthru("prime", "--undo", "--recursive", *of(tree))
    assert "3 directories merged again" in undone.stdout
    assert list(tree.top.iterdir()) == []


def test_json(tree: Layers) -> None:
    done = fallthru("prime", "--json", *of(tree), "d")
    report = json.loads(done.stdout)
    assert report.pop("seconds") > 0
    assert report == {"directories": 1, "entries": 3, "already": 0, "left": []}
    undone = json.loads(fallthru("prime", "--json", "--undo", *of(tree), "d").stdout)
    assert undone.pop("seconds") > 0
    assert undone == {"directories": 1, "entries": 2, "kept": 0}
    assert list(tree.top.iterdir()) == []


def test_the_primed_top_is_mounted_with_the_profile_that_reads_it(tree: Layers) -> None:
    fallthru("prime", "-r", *of(tree))
    refused = fallthru("mount", *of(tree), tree.mnt)
    assert refused.returncode == 4
    assert "--profile fallthru" in refused.stderr


def test_a_mounted_top_is_refused(tree: Layers) -> None:
    assert fallthru("mount", *of(tree), tree.mnt).returncode == 0
    try:
        refused = fallthru("prime", "-r", *of(tree))
        assert refused.returncode == 4
        assert str(tree.mnt) in refused.stderr
        assert refused.stdout == ""
    finally:
        assert fallthru("umount", tree.mnt).returncode == 0


@pytest.mark.parametrize("name", ["meta", "meta.erofs"])
def test_shared(tree: Layers, name: str) -> None:
    meta = tree.base / name
    shared: list[str | Path] = ["prime", "--shared", "--bottom", tree.bottom, "-o", meta]
    built = fallthru(*shared, "--json")
    assert built.returncode == 0, built.stderr
    report = json.loads(built.stdout)
    assert (report["directories"], report["entries"], report["changed"]) == (4, 7, 4)
    assert fallthru(*shared).returncode == 2
    assert "fits its bottoms" in fallthru(*shared, "--verify").stdout
    assert "nothing has changed" in fallthru(*shared, "--update").stdout
    mount: list[str | Path] = ["mount", "--index", meta, *of(tree), tree.mnt]
    assert fallthru(*mount).returncode == 0
    try:
        assert (tree.mnt / "d" / "sub" / "file").read_text() == "d/sub/file"
        status = json.loads(fallthru("status", "--json", tree.mnt).stdout)
        [overlay] = status
        assert overlay["index"].startswith(str(meta))
        assert [bottom["path"] for bottom in overlay["bottoms"]] == [str(tree.bottom)]
        text = fallthru("status", tree.mnt).stdout
        assert f"  index   {meta}" in text
        assert f"  bottom  {tree.bottom}\n" in text
    finally:
        assert fallthru("umount", tree.mnt).returncode == 0
    (tree.bottom / "d" / "four").touch()
    stale = fallthru(*mount)
    assert stale.returncode == 4
    assert "--update" in stale.stderr
    assert fallthru(*shared, "--verify").returncode == 4
    assert "refreshed" in fallthru(*shared, "--update").stdout
    assert fallthru(*mount).returncode == 0
    assert fallthru("umount", tree.mnt).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--bottom", "/usr"],
        ["--bottom", "/usr", "--top", "/nowhere"],
        ["--bottom", "/usr", "--shared"],
        ["--bottom", "/usr", "--shared", "-o", "/tmp/x", "lib"],
        ["--bottom", "/usr", "--top", "/nowhere", "--update", "lib"],
        ["--bottom", "/usr", "--shared", "-o", "/tmp/x", "--update", "--verify"],
        ["--top", "/usr", "lib"],
    ],
)
def test_usage_errors(arguments: list[str]) -> None:
    done = fallthru("prime", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""


def test_dry_run_shows_the_data_only_layer(tree: Layers) -> None:
    meta = tree.base / "meta"
    shown = fallthru("mount", "-n", "--index", meta, *of(tree), tree.mnt).stdout
    assert f"lowerdir={meta}/tree::{tree.bottom}," in shown
