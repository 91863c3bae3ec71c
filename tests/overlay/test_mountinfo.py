"""Mountinfo as the kernel documents it, and as it really writes overlays."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from overlay import errors, mountinfo, syscalls
from tests.conftest import Layers
from tests.fsimages import tmpfs


def test_a_line_of_the_kernel_documentation() -> None:
    """Documentation/filesystems/proc.rst, 3.5: its example, with and without optional fields."""
    line = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
    bare = line.replace(b"master:1 ", b"")
    for text in (line, bare):
        (entry,) = mountinfo.parse([text])
        assert (entry.mount_id, entry.parent_id, entry.dev) == (36, 35, (98, 0))
        assert (entry.root, entry.mount_point) == ("/mnt1", "/mnt2")
        assert entry.vfs_options == ("rw", "noatime")
        assert (entry.fstype, entry.source) == ("ext3", "/dev/root")
        assert entry.super_options == (("rw", ""), ("errors", "continue"))
        assert not entry.read_only


def test_octal_escapes_and_an_empty_source() -> None:
    (entry,) = mountinfo.parse(
        [b"1 2 0:3 / /a\\040b\\134c\\012\xff ro -  tmpfs  rw\n".replace(b" -  tmpfs", b" - tmpfs")]
    )
    assert os.fsencode(entry.mount_point) == b"/a b\\c\n\xff"
    assert entry.source == ""
    assert entry.read_only
    assert not entry.super_read_only


def test_every_line_of_this_machine_is_read_as_findmnt_reads_it() -> None:
    """util-linux is the peer: its findmnt parses the same file by its own code."""
    columns = "ID,PARENT,MAJ:MIN,TARGET,FSTYPE,VFS-OPTIONS"
    found = subprocess.run(
        ["findmnt", "--noheadings", "--raw", "--kernel", "-o", columns],
        capture_output=True,
        check=True,
    ).stdout
    theirs = set()
    for line in found.decode().splitlines():
        number, parent, device, target, fstype, options = line.split(" ")
        plain = target.encode().decode("unicode_escape")
        theirs.add((int(number), int(parent), device, plain, fstype, options))
    ours = {
        (
            e.mount_id,
            e.parent_id,
            f"{e.dev[0]}:{e.dev[1]}",
            e.mount_point,
            e.fstype,
            ",".join(e.vfs_options),
        )
        for e in mountinfo.read()
    }
    assert ours == theirs


@pytest.mark.parametrize(
    ("options", "bottoms", "data"),
    [
        ("lowerdir={0}:{1}", (0, 1), ()),
        ("lowerdir={0}:{1}::{2},metacopy=on", (0, 1), (2,)),
    ],
)
def test_the_layers_of_an_overlay_mounted_by_mount(
    layers: Layers, options: str, bottoms: tuple[int, ...], data: tuple[int, ...]
) -> None:
    names = ["plain", "co:lon", "back\\slash"]
    directories = [layers.base / name for name in names]
    for directory in directories:
        directory.mkdir()
    escaped = [str(path).replace("\\", "\\\\").replace(":", "\\:") for path in directories]
    layer_options = options.format(*escaped) + f",upperdir={layers.top},workdir={layers.work}"
    result = subprocess.run(
        ["mount", "-t", "overlay", "peer", "-o", layer_options, str(layers.mnt)],
        capture_output=True,
        text=True,
        check=False,
    )
    if data and result.returncode:
        pytest.skip("needs: data-only layers in overlayfs (6.5)")
    assert result.returncode == 0, result.stderr
    try:
        mount = mountinfo.overlay_at(layers.mnt)
    finally:
        syscalls.umount2(layers.mnt)
    assert mount.bottoms == tuple(str(directories[number]) for number in bottoms)
    assert mount.data_bottoms == tuple(str(directories[number]) for number in data)
    assert (mount.top, mount.work) == (str(layers.top), str(layers.work))
    assert (mount.source, mount.family) == ("peer", "trusted")


def test_an_overlay_without_a_top(layers: Layers) -> None:
    other = layers.base / "other"
    other.mkdir()
    subprocess.run(
        ["mount", "-t", "overlay", "o", "-o", f"lowerdir={layers.bottom}:{other}", str(layers.mnt)],
        check=True,
    )
    mount = mountinfo.overlay_at(layers.mnt)
    syscalls.umount2(layers.mnt)
    assert (mount.top, mount.work) == (None, None)


def test_what_is_no_overlay_is_said(layers: Layers) -> None:
    with pytest.raises(errors.UsageError, match="not a mount point"):
        mountinfo.overlay_at(layers.mnt)
    with tmpfs(layers.mnt), pytest.raises(errors.UsageError, match="a tmpfs mount"):
        mountinfo.overlay_at(layers.mnt)


def test_a_covered_overlay_is_not_the_one_at_the_mount_point(layers: Layers) -> None:
    subprocess.run(
        [
            "mount",
            "-t",
            "overlay",
            "o",
            "-o",
            f"lowerdir={layers.bottom},upperdir={layers.top},workdir={layers.work}",
            str(layers.mnt),
        ],
        check=True,
    )
    try:
        with tmpfs(layers.mnt), pytest.raises(errors.UsageError, match="a tmpfs mount"):
            mountinfo.overlay_at(layers.mnt)
    finally:
        syscalls.umount2(layers.mnt)


def test_a_relative_or_symlinked_mount_point_is_resolved(
    layers: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = layers.base / "link"
    link.symlink_to(layers.mnt)
    subprocess.run(
        [
            "mount",
            "-t",
            "overlay",
            "o",
            "-o",
            f"lowerdir={layers.bottom},upperdir={layers.top},workdir={layers.work}",
            str(layers.mnt),
        ],
        check=True,
    )
    try:
        monkeypatch.chdir(layers.base)
        for name in ("mnt", "link", Path("mnt/."), b"mnt"):
            assert mountinfo.overlay_at(name).top == str(layers.top)
    finally:
        monkeypatch.undo()
        syscalls.umount2(layers.mnt)
