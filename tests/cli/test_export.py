"""The commands ``fallthru export`` and ``fallthru import``."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.conftest import Layers
from tests.running import fallthru


@pytest.fixture
def tree(layers: Layers) -> Layers:
    (layers.top / "d").mkdir()
    (layers.top / "d" / "file").write_text("file")
    os.mknod(layers.top / "gone", 0o020000, 0)
    return layers


def test_export_and_import(tree: Layers) -> None:
    out = tree.base / "layer.tar.gz"
    done = fallthru("export", "--top", tree.top, "-o", out)
    assert done.returncode == 0, done.stderr
    digest = "sha256:" + hashlib.sha256(out.read_bytes()).hexdigest()
    assert done.stdout.splitlines()[1] == digest
    assert out.read_bytes()[:2] == b"\x1f\x8b"
    back = fallthru("import", "--json", "--digest", digest, out, "--top", tree.base / "back")
    record = json.loads(back.stdout)
    assert (record["entries"], record["bytes"], record["digest"]) == (3, 4, digest)
    assert (tree.base / "back" / "gone").lstat().st_rdev == 0
    wrong = fallthru("import", "--digest", "sha256:" + "0" * 64, out, "-o", tree.base / "no")
    assert wrong.returncode == 4
    assert not (tree.base / "no").exists()


@pytest.mark.parametrize("kind", ["aufs", "overlay"])
def test_directories(tree: Layers, kind: str) -> None:
    out, back = tree.base / "out", tree.base / "back"
    done = fallthru("export", "--json", "--top", tree.top, "--format", kind, "-o", out)
    assert json.loads(done.stdout) == {"path": str(out), "entries": 3, "bytes": 4}
    assert sorted(os.listdir(out)) == ([".wh.gone", "d"] if kind == "aufs" else ["d", "gone"])
    assert fallthru("import", out, "-o", back).returncode == 2, "of what format?"
    made = fallthru(
        "import", "--format", kind, "--marks=user", "--whiteouts=xattr", out, "-o", back
    )
    assert made.returncode == 0, made.stderr
    assert os.getxattr(back / "gone", "user.overlay.whiteout") == b"y"


def test_a_mounted_top_is_exported_with_a_warning(tree: Layers) -> None:
    bottom: list[str | Path] = ["--bottom", tree.bottom]
    assert fallthru("mount", "--top", tree.top, *bottom, tree.mnt).returncode == 0
    done = fallthru("export", tree.mnt, "-o", tree.base / "layer.tar")
    assert done.returncode == 0
    assert "the top is mounted" in done.stderr
    assert fallthru("umount", tree.mnt).returncode == 0


def test_what_is_no_archive(tree: Layers) -> None:
    (tree.base / "text").write_text("no archive" * 1000)
    done = fallthru("import", tree.base / "text", "-o", tree.base / "out")
    assert done.returncode == 5
    assert not (tree.base / "out").exists()
    assert fallthru("import", tree.base / "nothing", "-o", tree.base / "out").returncode == 2
    assert fallthru("import", f"oci:{tree.base}", "-o", tree.base / "out").returncode == 2
