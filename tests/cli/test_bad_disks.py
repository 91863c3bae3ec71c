"""Disks that are full, over their quota, or read-only: said in one line, and nothing is lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from overlay import kernel, syscalls
from tests.conftest import Layers, make_layers
from tests.fsimages import loop_filesystem, tmpfs
from tests.powercuts import Cut, cut_power
from tests.rawoverlay import overlay
from tests.running import REPOSITORY, fallthru

MS_RDONLY, MS_REMOUNT = 1, 32
BIG = os.urandom(2 << 20)


@pytest.fixture(scope="module")
def filled(root_once: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layers]:
    """A top that takes more than the small disk has; the tests only read it."""
    place = tmp_path_factory.mktemp("filled")
    with tmpfs(place):
        layers = make_layers(place)
        (layers.bottom / "old").write_bytes(BIG)
        with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mnt:
            (mnt / "big").write_bytes(BIG)
        many = place / "many" / "names"
        many.mkdir(parents=True)
        for number in range(250):
            # Long names: an image of them takes more than the disk has, too.
            (many / f"{number:0250}").write_text("some")
        yield layers


@pytest.fixture(scope="module")
def root_once() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs: root")


@pytest.fixture
def small(root: None, tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    with tmpfs(place, options={"size": "1m", "nr_inodes": "200"}):
        yield place


#: What makes something new on the disk ``{small}``.
MAKING = {
    "export a tar": "export --top {top} -o {small}/out.tar",
    "export a directory": "export --top {top} --format overlay -o {small}/out",
    "import": "import --format overlay {top} -o {small}/out",
    "commit to a copy": "commit --yes --top {top} --bottom {bottom} -o {small}/out",
    "merge": "merge --top {top} --top {mnt} --bottom {bottom} -o {small}/out",
    "squash": "squash --bottom {bottom} -o {small}/out",
    "freeze": "freeze {bottom} -o {small}/out.erofs",
    "an index": "prime --shared --bottom {many} -o {small}/index",
    "an index image": "prime --shared --bottom {many} -o {small}/index.erofs",
}


def said(layers: Layers, small: Path, words: str) -> subprocess.CompletedProcess[str]:
    # The mount point, empty, is as good as an empty top.
    names = {"top": layers.top, "bottom": layers.bottom, "small": small, "mnt": layers.mnt}
    return fallthru(*(word.format(many=layers.base / "many", **names) for word in words.split()))


def failed_by(done: subprocess.CompletedProcess[str], number: int) -> None:
    assert done.returncode == 5, done.stderr
    assert os.strerror(number) in done.stderr
    assert done.stderr.startswith("fallthru: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("what", MAKING)
def test_a_full_disk(filled: Layers, small: Path, what: str) -> None:
    failed_by(said(filled, small, MAKING[what]), errno.ENOSPC)
    assert os.listdir(small) == []


@pytest.mark.parametrize("what", ["export a tar", "commit to a copy", "freeze"])
def test_a_read_only_disk(filled: Layers, small: Path, what: str) -> None:
    syscalls.mount(None, small, None, MS_REMOUNT | MS_RDONLY, None)
    done = said(filled, small, MAKING[what])
    assert "Read-only file system" in done.stderr
    assert done.returncode in (2, 5)
    assert "Traceback" not in done.stderr


def test_standard_output_on_a_full_disk() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "overlay", "doctor", "--json"],
            cwd=REPOSITORY,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    failed_by(done, errno.ENOSPC)


def on_small(filled: Layers, small: Path) -> Layers:
    """The big bottom, and an empty top on the small disk."""
    (small / "top").mkdir()
    return replace(filled, top=small / "top")


def test_precopy_onto_a_full_disk(filled: Layers, small: Path) -> None:
    layers = on_small(filled, small)
    made = kernel.Overlay((str(layers.bottom),), str(layers.top))
    with kernel.mounted(made, str(layers.mnt)):
        done = fallthru("precopy", "--mount", layers.mnt, "old")
        assert done.returncode == 4  # refused beforehand
        assert "No space left on device" in done.stderr
        assert os.listdir(layers.top) == []
        assert (layers.mnt / "old").read_bytes() == BIG


def test_prime_onto_a_full_disk(filled: Layers, small: Path) -> None:
    layers = replace(on_small(filled, small), bottom=filled.base / "many")
    words = ("prime", "--recursive", "--top", layers.top, "--bottom", layers.bottom)
    failed_by(fallthru(*words), errno.ENOSPC)
    with kernel.mounted(
        kernel.Overlay((str(layers.bottom),), str(layers.top), profile="fallthru"), str(layers.mnt)
    ):
        seen = os.listdir(layers.mnt / "names")
        assert sorted(seen) == sorted(os.listdir(layers.bottom / "names"))


def test_create_onto_a_full_disk(filled: Layers, small: Path) -> None:
    registry = Path("/var/lib/fallthru")
    registry.mkdir(parents=True, exist_ok=True)
    with tmpfs(registry, options={"nr_inodes": "4"}):  # itself, roots, the root, its top
        failed_by(fallthru("create", "web", "--bottom", filled.bottom), errno.ENOSPC)
        assert fallthru("list").stdout == "there are no roots\n"
        assert fallthru("create", "web", "--bottom", filled.bottom, "--top", small).returncode == 0


def test_a_mounted_top_becomes_read_only(filled: Layers, small: Path) -> None:
    layers = on_small(filled, small)
    kernel.mount(kernel.Overlay((str(layers.bottom),), str(layers.top)), str(layers.mnt))
    try:
        syscalls.mount(None, small, None, MS_REMOUNT | MS_RDONLY, None)
        assert (layers.mnt / "old").read_bytes() == BIG
        with pytest.raises(OSError, match="Read-only"):
            (layers.mnt / "new").touch()
        done = fallthru("status", layers.mnt)
        assert (done.returncode, done.stderr) == (0, "")
        assert str(layers.top) in done.stdout
    finally:
        done = fallthru("umount", layers.mnt)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_broken_disk(filled: Layers) -> None:
    with loop_filesystem("ext4") as place:
        (place / "bottom").mkdir()
        cut_power(place, Cut.ALL_LOST)
        commit = ("commit", "--yes", "--top", filled.top, "--bottom", place / "bottom")
        failed_by(fallthru(*commit), errno.EIO)
    assert (filled.top / "big").read_bytes() == BIG


def test_a_quota(root: None, filled: Layers) -> None:
    """Of btrfs, which binds root, too."""
    with loop_filesystem("btrfs") as place:
        bottom = place / "bottom"
        if subprocess.run(["btrfs", "quota", "enable", place], check=False).returncode:
            pytest.skip("needs: btrfs quotas")
        for words in ("subvolume create", "qgroup limit 1M"):
            subprocess.run(["btrfs", *words.split(), bottom], check=True, capture_output=True)
        (bottom / "kept").write_text("as it was")
        top = place / "top"
        top.mkdir()
        (top / "big").write_bytes(BIG)
        os.chmod(top / "big", 0o640)
        commit = ("commit", "--yes", "--top", top, "--bottom", bottom)
        failed_by(fallthru(*commit), errno.EDQUOT)
        assert (top / "big").read_bytes() == BIG
        assert sorted(os.listdir(bottom)) == [".fallthru-commit", "kept"]
        subprocess.run(["btrfs", "quota", "disable", place], check=True)
        assert fallthru(*commit).returncode == 0
        assert (bottom / "big").read_bytes() == BIG
        assert sorted(os.listdir(bottom)) == ["big", "kept"]
