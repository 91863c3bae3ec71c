"""``fallthru freeze``, and images at ``fallthru mount`` and ``status``, as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import Layers
from tests.fsimages import needs_filesystem
from tests.running import fallthru


@pytest.fixture
def tree(layers: Layers) -> Path:
    needs_filesystem("erofs")
    if shutil.which("mkfs.erofs") is None:
        pytest.skip("needs: mkfs.erofs")
    (layers.bottom / "file").write_text("bottom")
    return layers.bottom


def test_freeze_mount_status_umount(tree: Path, layers: Layers) -> None:
    image = layers.base / "image"
    done = fallthru("freeze", tree, "-o", image)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{image}: 2 entries, 4.0 KiB, verified\n"
    done = fallthru(
        "mount", "--bottom", image, "--top", layers.top, "--require-read-only", layers.mnt
    )
    assert (done.returncode, done.stderr) == (0, "")
    try:
        assert (layers.mnt / "file").read_text() == "bottom"
        (told,) = json.loads(fallthru("status", "--json", layers.mnt).stdout)
        shown = fallthru("status", layers.mnt).stdout
        (layers.mnt / "file").unlink()
        difference = fallthru("diff", layers.mnt)
    finally:
        fallthru("umount", layers.mnt)
    (bottom,) = told["bottoms"]
    assert bottom["path"] == str(image)
    assert bottom["image"]
    assert bottom["hold"] == "format"
    assert bottom["really_read_only"]
    assert told["tainted"] is False
    assert f"bottom  {image}\n          erofs cannot be written\n" in shown
    assert difference.returncode == 1
    assert "file" in difference.stdout


def test_json(tree: Path, layers: Layers) -> None:
    image = layers.base / "image"
    told = json.loads(fallthru("freeze", "--json", "--no-verify", tree, "-o", image).stdout)
    assert told["image"] == str(image)
    assert told["size"] == image.stat().st_size
    assert (told["entries"], told["verified"]) == (2, False)


def test_force_replaces(tree: Path, layers: Layers) -> None:
    image = layers.base / "image"
    image.write_text("mine")
    done = fallthru("freeze", tree, "-o", image)
    assert done.returncode == 4
    assert "--force" in done.stderr
    assert fallthru("freeze", "--force", "--compress", "lz4hc", tree, "-o", image).returncode == 0
    assert sorted(os.listdir(layers.base)) == ["bottom", "image", "mnt", "top", "top.work"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["/nowhere", "-o", "{base}/image"], 2, "no directory at /nowhere"),
        (["{bottom}/file", "-o", "{base}/image"], 2, "no directory at"),
        (["{bottom}"], 2, "Missing option"),
        (["{bottom}", "-o", "{bottom}/image"], 2, "in the tree that it is made of"),
        (["{bottom}", "-o", "/nowhere/image"], 2, "no directory at /nowhere"),
        (["{bottom}", "-o", "{base}/image", "--compress", "none"], 5, "mkfs.erofs failed"),
        (["--snapshot", "{bottom}", "-o", "{base}/image"], 2, "is not on btrfs"),
        (["--snapshot", "--force", "{bottom}", "-o", "{base}/image"], 2, "takes only -o"),
    ],
)
def test_bad_input_is_said_with_its_exit_code(
    tree: Path, layers: Layers, arguments: list[str], code: int, words: str
) -> None:
    places = {"bottom": layers.bottom, "base": layers.base}
    done = fallthru("freeze", *(argument.format(**places) for argument in arguments))
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (layers.base / "image").exists()
    assert os.listdir(layers.bottom) == ["file"]
