"""Tops and bottoms kept apart (L435), and submounts not covered unawares (L239, L252)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlay import conflicts, errors, kernel, syscalls
from tests.conftest import Layers
from tests.fsimages import tmpfs
from tests.running import fallthru


@contextmanager
def bind(source: Path, target: Path) -> Iterator[None]:
    target.mkdir(exist_ok=True)
    tree = syscalls.open_tree(syscalls.AT_FDCWD, source, syscalls.OPEN_TREE_CLONE)
    syscalls.move_mount(tree, "", syscalls.AT_FDCWD, target, syscalls.MOVE_MOUNT_F_EMPTY_PATH)
    os.close(tree)
    try:
        yield
    finally:
        syscalls.umount2(target)


@contextmanager
def live(layers: Layers) -> Iterator[None]:
    overlay = kernel.Overlay((str(layers.bottom),), str(layers.top))
    with kernel.mounted(overlay, str(layers.mnt)):
        yield


@pytest.mark.parametrize(
    ("top", "how"), [("bottom", "is"), ("bottom/sub", "lies in"), (".", "contains")]
)
def test_a_top_in_the_bottom_of_another_is_refused(layers: Layers, top: str, how: str) -> None:
    """The kernel mounts all of these, and then the other overlay's bottom changes."""
    (layers.bottom / "sub").mkdir()
    mine = layers.base / top
    with live(layers), pytest.raises(errors.Refused) as raised:
        conflicts.check(["/usr"], str(mine), entries=None)
    assert f"the top {mine} {how} {layers.bottom}, a bottom of" in raised.value.message
    assert str(layers.mnt) in raised.value.message
    conflicts.check(["/usr"], str(mine), allow_submounts=True)  # once that one went


@pytest.mark.parametrize(
    ("bottom", "how"), [("top", "is"), ("top/sub", "lies in"), (".", "contains")]
)
def test_a_bottom_in_the_top_of_another_is_refused(
    layers: Layers, bottom: str, how: str, tmp_path: Path
) -> None:
    (layers.top / "sub").mkdir()
    mine = layers.base / bottom
    with live(layers), pytest.raises(errors.Refused) as raised:
        conflicts.check([str(mine)], str(tmp_path), allow_submounts=True)
    assert f"the bottom {mine} {how} {layers.top}, the top of" in raised.value.message


def test_another_name_is_no_way_around(layers: Layers) -> None:
    """A symlink, and a bind mount of a directory inside."""
    (layers.bottom / "sub").mkdir()
    link, alias = layers.base / "link", layers.base / "alias"
    link.symlink_to(layers.bottom / "sub")
    with live(layers):
        with pytest.raises(errors.Refused, match="lies in"):
            conflicts.check(["/usr"], str(link))
        with bind(layers.bottom, alias), pytest.raises(errors.Refused, match="lies in"):
            conflicts.check(["/usr"], str(alias / "sub"))


def test_a_bottom_may_serve_many(layers: Layers) -> None:
    """L442: the bottom can be the bottom layer of another writable overlay."""
    other = layers.base / "other"
    other.mkdir()
    with live(layers):
        assert conflicts.check([str(layers.bottom)], str(other)) == []
        overlay = kernel.Overlay((str(layers.bottom),), str(other))
        tree = kernel.open_overlay(overlay)
        os.close(tree)


def test_a_union_may_be_a_bottom(layers: Layers) -> None:
    with live(layers):
        other = layers.base / "other"
        other.mkdir()
        assert conflicts.check([str(layers.mnt)], str(other)) == []


def test_siblings_with_a_common_prefix_do_not_overlap(layers: Layers) -> None:
    longer = layers.base / "bottom2"
    longer.mkdir()
    with live(layers):
        assert conflicts.check([str(layers.base / "mnt")], str(longer)) == []


def test_read_write_submounts_are_refused_unless_told(layers: Layers) -> None:
    below = layers.bottom / "below"
    below.mkdir()
    with tmpfs(below):
        with pytest.raises(errors.Refused, match="would cover") as raised:
            conflicts.check([str(layers.bottom)], str(layers.top))
        assert f"{below} (tmpfs)" in raised.value.message
        assert "--allow-submounts" in str(raised.value.hint)
        (covered,) = conflicts.check([str(layers.bottom)], str(layers.top), allow_submounts=True)
    assert (covered.mount_point, covered.holds_data) == (str(below), True)


def test_read_only_submounts_and_the_kernels_own_are_told_only(layers: Layers) -> None:
    for name in ("ro", "proc"):
        (layers.bottom / name).mkdir()
    syscalls.mount("none", layers.bottom / "proc", "proc", 0, None)
    try:
        with tmpfs(layers.bottom / "ro", options={}):
            syscalls.mount_setattr(
                syscalls.AT_FDCWD, layers.bottom / "ro", 0, attr_set=syscalls.MOUNT_ATTR_RDONLY
            )
            found = conflicts.check([str(layers.bottom)], str(layers.top))
    finally:
        syscalls.umount2(layers.bottom / "proc")
    assert {each.fstype for each in found} == {"proc", "tmpfs"}
    assert not any(each.holds_data for each in found)


def test_the_root_always_has_submounts(layers: Layers) -> None:
    found = conflicts.check(["/"], str(layers.top))
    assert "/proc" in {each.mount_point for each in found}
    assert all(each.mount_point != "/" for each in found)


def test_a_mount_beside_the_bottom_is_none_of_its(layers: Layers) -> None:
    beside = layers.base / "bottom.more"
    beside.mkdir()
    with tmpfs(beside):
        assert conflicts.check([str(layers.bottom)], str(layers.top)) == []


def test_images_and_missing_layers_are_left_to_the_mount(layers: Layers) -> None:
    (layers.base / "image").touch()
    with live(layers):
        assert conflicts.check([str(layers.base / "image"), "/nowhere"], "/nowhere") == []


def test_the_command_refuses_and_leaves_nothing(layers: Layers) -> None:
    (layers.bottom / "sub").mkdir()
    mnt = layers.base / "mnt2"
    mnt.mkdir()
    with live(layers):
        done = fallthru("mount", "--bottom", "/usr", "--top", layers.bottom / "sub", mnt)
    assert done.returncode == 4
    assert "a bottom of the overlay at" in done.stderr
    assert os.listdir(layers.bottom) == ["sub"]
    assert not os.path.ismount(mnt)


def test_the_command_covers_submounts_when_told(layers: Layers) -> None:
    below = layers.bottom / "below"
    below.mkdir()
    words = ("mount", "--bottom", layers.bottom, "--top", layers.top)
    with tmpfs(below):
        (below / "covered").touch()
        refused = fallthru(*words, layers.mnt)
        assert refused.returncode == 4
        done = fallthru(*words, "--allow-submounts", layers.mnt)
        try:
            assert done.returncode == 0
            assert f"does not show what is mounted at {below}" in done.stderr
            assert os.listdir(layers.mnt / "below") == []  # L239
        finally:
            fallthru("umount", layers.mnt)


def test_the_command_tells_users_and_holds(layers: Layers) -> None:
    """Two overlays on one bottom, and what status says of it."""
    second = layers.base / "top2"
    second.mkdir()
    place = layers.base / "mnt2"
    place.mkdir()
    with live(layers):
        with kernel.mounted(kernel.Overlay((str(layers.bottom),), str(second)), str(place)):
            told = json.loads(fallthru("status", "--json").stdout)
            shown = fallthru("status", place).stdout
        alone = fallthru("status", layers.mnt).stdout
    mine = [each for each in told if each["mount_point"] in (str(layers.mnt), str(place))]
    assert [each["bottoms"][0]["users"] for each in mine] == [2, 2]
    assert "; 2 overlays rely on it" in shown
    assert "rely on it" not in alone
