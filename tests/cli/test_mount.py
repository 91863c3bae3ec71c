"""``fallthru mount``, ``umount`` and ``status`` as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from overlay import mountinfo
from tests.conftest import Layers, make_layers
from tests.running import fallthru


def mount(layers: Layers, *more: str) -> subprocess.CompletedProcess[str]:
    return fallthru("mount", "--bottom", layers.bottom, "--top", layers.top, *more, layers.mnt)


def test_mount_use_status_umount(layers: Layers) -> None:
    (layers.bottom / "file").write_text("bottom")
    assert mount(layers).returncode == 0
    (layers.mnt / "file").write_text("changed")
    told = fallthru("status", layers.mnt)
    assert told.returncode == 0
    assert f"{layers.mnt}  document, writable" in told.stdout
    assert f"top     {layers.top}" in told.stdout
    assert "tmpfs is mounted read-write" in told.stdout
    done = fallthru("umount", layers.mnt)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (layers.bottom / "file").read_text() == "bottom"
    assert not os.path.ismount(layers.mnt)


def test_status_as_json(layers: Layers) -> None:
    mount(layers, "--profile", "fallthru")
    try:
        (told,) = json.loads(fallthru("status", "--json", layers.mnt).stdout)
    finally:
        fallthru("umount", layers.mnt)
    assert told["profile"] == "fallthru"
    assert told["top"] == str(layers.top)
    assert told["options"]["metacopy"] == "on"
    assert told["marks"] == "trusted"
    assert told["read_only"] is False
    (bottom,) = told["bottoms"]
    assert bottom == {
        "path": str(layers.bottom),
        "image": False,
        "fstype": "tmpfs",
        "hold": "none",
        "held_by_fallthru": False,
        "really_read_only": False,
        "reason": "tmpfs is mounted read-write",
        "users": 1,
        "tainted": [],
    }


def test_status_shows_overlays_of_others(layers: Layers) -> None:
    options = f"lowerdir={layers.bottom},upperdir={layers.top},workdir={layers.work}"
    subprocess.run(["mount", "-t", "overlay", "o", "-o", options, str(layers.mnt)], check=True)
    try:
        told = fallthru("status")
        assert f"{layers.mnt}  not mounted by fallthru, writable" in told.stdout
    finally:
        fallthru("umount", layers.mnt)
    assert not os.path.ismount(layers.mnt)


def test_status_of_nothing_is_usage(tmp_path: Path) -> None:
    told = fallthru("status", tmp_path)
    assert told.returncode == 2
    assert "not a mount point" in told.stderr


@pytest.mark.parametrize(
    "name", [b"co:lon", b"com,ma", b"bl ank", b"new\nline", b"back\\slash", b"\xff\xfe"]
)
def test_awkward_paths_go_through_the_command(tmpfs_dir: Path, name: bytes) -> None:
    base = tmpfs_dir / os.fsdecode(name)
    base.mkdir()
    layers = make_layers(base)
    done = mount(layers)
    assert (done.returncode, done.stderr) == (0, "")
    assert mountinfo.overlay_at(layers.mnt).top == str(layers.top)
    (told,) = json.loads(fallthru("status", "--json", layers.mnt).stdout)
    assert told["top"].isprintable()
    assert fallthru("umount", layers.mnt).returncode == 0


def test_dry_run_mounts_nothing(layers: Layers) -> None:
    told = mount(layers, "--dry-run")
    assert told.stdout.startswith("mount -t overlay fallthru:document -o noatime,")
    assert not os.path.ismount(layers.mnt)


def test_options_go_to_overlayfs(layers: Layers) -> None:
    assert mount(layers, "-o", "xino=off,index=off").returncode == 0
    try:
        options = mountinfo.overlay_at(layers.mnt).options
    finally:
        fallthru("umount", layers.mnt)
    assert options.get("index") != "on"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--bottom", "/nowhere", "--top", "{top}", "{mnt}"], 2, "the bottom /nowhere does not"),
        (["--bottom", "{bottom}", "--top", "/nowhere", "{mnt}"], 2, "the top /nowhere does not"),
        (["--bottom", "{bottom}", "--top", "{top}", "/nowhere"], 2, "mount point /nowhere does"),
        (["--bottom", "{top}", "--top", "{top}", "{mnt}"], 2, "is the same directory as"),
        (["--bottom", "{bottom}", "{mnt}"], 2, "Missing option '--top'"),
        (["--bottom", "{bottom}", "--top", "{top}", "--profile", "x", "{mnt}"], 2, "'x'"),
        (["--bottom", "{bottom}", "--top", "{top}", "-o", "bogus=1", "{mnt}"], 2, "bogus"),
        (["--bottom", "{bottom}", "--top", "{top}", "-o", "=1", "{mnt}"], 2, "needs a name"),
        (
            ["--bottom", "{bottom}", "--top", "{top}", "--require-read-only", "{mnt}"],
            4,
            "may change while the overlay is mounted",
        ),
    ],
)
def test_bad_input_is_said_with_its_exit_code(
    layers: Layers, arguments: list[str], code: int, words: str
) -> None:
    places = {"bottom": layers.bottom, "top": layers.top, "mnt": layers.mnt}
    done = fallthru("mount", *(argument.format(**places) for argument in arguments))
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not os.path.ismount(layers.mnt)


def test_a_top_in_use_exits_with_4(layers: Layers) -> None:
    second = layers.base / "second"
    second.mkdir()
    mount(layers)
    try:
        done = fallthru("mount", "--bottom", layers.bottom, "--top", layers.top, second)
    finally:
        fallthru("umount", layers.mnt)
    assert done.returncode == 4
    assert f"in use by the overlay at {layers.mnt}" in done.stderr


def test_umount_of_what_is_no_overlay_exits_with_2(tmp_path: Path) -> None:
    done = fallthru("umount", tmp_path)
    assert done.returncode == 2
    assert "not a mount point" in done.stderr
