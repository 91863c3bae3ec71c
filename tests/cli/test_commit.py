"""The commands ``fallthru commit`` and ``fallthru discard``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Layers
from tests.running import fallthru


@pytest.fixture
def tree(layers: Layers) -> Layers:
    """Layers that differ as an engine without an overlay may leave them."""
    for name in ("etc/a.conf", "etc/b.conf", "log"):
        (layers.bottom / name).parent.mkdir(exist_ok=True)
        (layers.bottom / name).write_text("old")
    assert fallthru("mount", *of(layers), layers.mnt).returncode == 0
    (layers.mnt / "etc" / "a.conf").write_text("changed")
    (layers.mnt / "etc" / "new").write_text("new")
    (layers.mnt / "log").unlink()
    return layers


def of(layers: Layers) -> list[str | Path]:
    return ["--top", layers.top, "--bottom", layers.bottom]


def test_a_mounted_overlay_is_unmounted_and_committed(tree: Layers) -> None:
    done = fallthru("commit", "--yes", tree.mnt)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3 entries, 10 B committed\n"
    assert sorted(path.name for path in tree.bottom.rglob("*")) == [
        "a.conf",
        "b.conf",
        "etc",
        "new",
    ]
    assert (tree.bottom / "etc" / "a.conf").read_text() == "changed"
    assert not list(tree.top.iterdir())
    assert not list(tree.mnt.iterdir())
    assert fallthru("diff", *of(tree)).returncode == 0


def test_nobody_to_ask(tree: Layers) -> None:
    refused = fallthru("commit", tree.mnt)
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert (tree.mnt / "etc" / "new").exists(), "still mounted"
    assert fallthru("umount", tree.mnt).returncode == 0


def test_conflicts_and_choices_in_json(tree: Layers) -> None:
    assert fallthru("umount", tree.mnt).returncode == 0
    (tree.bottom / "etc" / "a.conf").write_text("newer")
    refused = fallthru("commit", "--json", "--yes", *of(tree))
    assert refused.returncode == 4
    conflict = {"path": "etc/a.conf", "newer": "etc/a.conf"}
    assert json.loads(refused.stdout) == {"conflicts": [conflict]}
    kept = fallthru("commit", "--json", "--yes", "--on-conflict", "keep", *of(tree))
    assert kept.returncode == 1
    assert json.loads(kept.stdout) == {
        "entries": 2,
        "bytes": 3,
        "conflicts": [conflict],
        "left": ["etc/a.conf"],
        "emptied": False,
    }
    assert (tree.bottom / "etc" / "a.conf").read_text() == "newer"
    out = tree.base / "out"
    assert fallthru("commit", "--on-conflict=overwrite", "-o", out, *of(tree)).returncode == 0
    assert (out / "etc" / "a.conf").read_text() == "changed"
    done = fallthru("commit", "--yes", "--on-conflict=overwrite", "--only=*.conf", *of(tree))
    assert done.returncode == 0
    assert (tree.bottom / "etc" / "a.conf").read_text() == "changed"


def test_discard(tree: Layers) -> None:
    done = fallthru("discard", "--yes", tree.mnt)
    assert done.returncode == 0, done.stderr
    assert "2 entries of its root removed" in done.stdout
    assert not list(tree.top.iterdir())
    assert fallthru("diff", *of(tree)).returncode == 0
    nothing = fallthru("discard", "--json", "--yes", "--top", tree.top)
    assert json.loads(nothing.stdout)["entries"] == 0


def test_merge_and_squash(tree: Layers) -> None:
    assert fallthru("umount", tree.mnt).returncode == 0
    second, merged, flat = (tree.base / name for name in ("second", "merged", "flat"))
    second.mkdir()
    (second / "etc").mkdir()
    (second / "etc" / "new").write_text("newest")
    tops: list[str | Path] = ["--top", second, "--top", tree.top]
    done = fallthru("merge", "--json", *tops, "--bottom", tree.bottom, "-o", merged)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"directory": str(merged), "entries": 5}
    bottoms: list[str | Path] = ["--bottom", merged, "--bottom", tree.bottom]
    done = fallthru("squash", *bottoms, "-o", flat)
    assert done.stdout == f"{flat}: 5 entries\n"
    assert (flat / "etc" / "new").read_text() == "newest"
    assert not (flat / "log").exists()
    assert fallthru("squash", *bottoms, "-o", flat).returncode == 4
