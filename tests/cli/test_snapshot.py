"""``fallthru snapshot`` and ``rollback``."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest

from overlay import kernel
from overlay.snapshots import roll_back, snapshots, take
from tests.conftest import Layers, make_layers
from tests.fsimages import loop_filesystem
from tests.overlay.faults import crash_before
from tests.running import fallthru


def mounted(layers: Layers) -> kernel.Overlay:
    return kernel.Overlay((str(layers.bottom),), str(layers.top))


@pytest.fixture
def used(layers: Layers) -> Layers:
    """A top with a change, a whiteout, an opaque directory, a copied-up hard link."""
    (layers.bottom / "file").write_text("bottom")
    (layers.bottom / "gone").touch()
    (layers.bottom / "dir").mkdir()
    (layers.bottom / "dir" / "old").touch()
    (layers.bottom / "one").write_text("linked")
    os.link(layers.bottom / "one", layers.bottom / "two")
    with kernel.mounted(mounted(layers), str(layers.mnt)):
        (layers.mnt / "file").write_text("first")
        (layers.mnt / "gone").unlink()
        (layers.mnt / "dir" / "old").unlink()
        (layers.mnt / "dir").rmdir()
        (layers.mnt / "dir").mkdir()
        (layers.mnt / "one").write_text("both")
    return layers


def seen(layers: Layers) -> dict[str, str]:
    with kernel.mounted(mounted(layers), str(layers.mnt)):
        files = [path for path in layers.mnt.rglob("*") if path.is_file()]
        return {str(path.relative_to(layers.mnt)): path.read_text() for path in files}


FIRST = {"file": "first", "one": "both", "two": "both"}


def test_back_to_what_it_was(used: Layers) -> None:
    assert fallthru("snapshot", "--label", "first", used.top).returncode == 0
    with kernel.mounted(mounted(used), str(used.mnt)):
        (used.mnt / "file").write_text("second")
        (used.mnt / "dir" / "new").touch()
        (used.mnt / "two").unlink()
    assert fallthru("snapshot", "--label", "second", used.top).returncode == 0
    done = fallthru("rollback", "--yes", used.top, "first")
    assert (done.returncode, done.stdout) == (0, "back at first\n"), done.stderr
    assert seen(used) == FIRST
    assert fallthru("rollback", "--yes", used.top).returncode == 0
    assert seen(used) == {"file": "second", "dir/new": "", "one": "both"}
    # The snapshots are as they were, whatever was done to what came from them.
    assert fallthru("rollback", "--yes", used.top, "first").returncode == 0
    assert seen(used) == FIRST
    assert sorted(os.listdir(used.base)) == [
        *("bottom", "mnt", "top", "top.snapshots", "top.work"),
    ]


def test_a_hard_link_stays_one_file(used: Layers) -> None:
    take(str(used.top), "first")
    roll_back(str(used.top))
    with kernel.mounted(mounted(used), str(used.mnt)):
        (used.mnt / "two").write_text("through the other name")
        assert (used.mnt / "one").read_text() == "through the other name"


def test_listed_and_removed(used: Layers) -> None:
    for label in ("a", "b"):
        fallthru("snapshot", "--label", label, used.top)
    told = json.loads(fallthru("snapshot", "--list", "--json", used.top).stdout)
    assert [each["label"] for each in told] == ["a", "b"]
    assert fallthru("snapshot", "--remove", "a", used.top).returncode == 0
    assert [each.label for each in snapshots(str(used.top))] == ["b"]
    assert fallthru("rollback", "--yes", used.top, "a").returncode == 2


def test_refused_while_it_is_mounted(used: Layers) -> None:
    take(str(used.top), "first")
    with kernel.mounted(mounted(used), str(used.mnt)):
        for command in (("snapshot",), ("rollback", "--yes")):
            done = fallthru(*command, used.top)
            assert done.returncode == 4
            assert "is mounted" in done.stderr
        assert (used.mnt / "file").read_text() == "first"


def test_labels(used: Layers) -> None:
    assert fallthru("snapshot", "--label", "../up", used.top).returncode == 2
    assert fallthru("snapshot", "--label", "a", used.top).returncode == 0
    assert fallthru("snapshot", "--label", "a", used.top).returncode == 4


def test_a_full_disk_leaves_no_half_of_one(root: None) -> None:
    with loop_filesystem("ext4", 16) as place:
        layers = make_layers(place)
        (layers.top / "big").write_bytes(os.urandom(9 << 20))
        done = fallthru("snapshot", layers.top)
        assert done.returncode == 5
        assert "No space left" in done.stderr
        assert snapshots(str(layers.top)) == []
        (layers.top / "big").write_bytes(b"small")
        assert fallthru("snapshot", layers.top).returncode == 0
        assert not [name for name in os.listdir(f"{layers.top}.snapshots") if "new" in name]


def test_blocks_are_shared_where_they_can_be(root: None) -> None:
    with loop_filesystem("xfs") as place:
        layers = make_layers(place)
        (layers.top / "big").write_bytes(os.urandom(32 << 20))
        os.sync()
        before = os.statvfs(place).f_bfree * os.statvfs(place).f_frsize
        take(str(layers.top), "first")
        os.sync()
        after = os.statvfs(place).f_bfree * os.statvfs(place).f_frsize
        assert before - after < 8 << 20
        assert (Path(f"{layers.top}.snapshots") / "first/top/big").stat().st_size == 32 << 20


def test_killed_at_every_step(used: Layers) -> None:
    top, number = str(used.top), 1
    while crash_before(number, partial(take, top, "first")):
        number += 1
        if [each.label for each in snapshots(top)] == ["first"]:
            break  # there whole, all but reported
        assert snapshots(top) == []
    assert number > 5
    number = 1
    while crash_before(number, partial(roll_back, top, "first")):
        number += 1
        roll_back(top, "first")
        assert seen(used) == FIRST, f"killed before step {number}"
        (used.top / "file").write_text("something else")
    assert number > 10
    assert seen(used) == FIRST
    assert not os.path.exists(f"{top}.rollback.new")
