"""``fallthru snapshot --stack``: the top of a root becomes a bottom, without a copy."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from overlay import kernel, snapshots
from overlay.errors import Refused, UsageError
from overlay.roots import named as roots
from overlay.roots import notes as rootnotes
from overlay.roots import snapshots as rootsnapshots
from overlay.roots.cgroups import Limits
from overlay.roots.root import Root
from tests.conftest import Layers
from tests.overlay.committing import groups, whole, without_directory_times
from tests.overlay.faults import crash_before
from tests.running import fallthru
from tests.treediff import Tree


@pytest.fixture
def web(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> Root:
    """A root with some of everything on its bottom."""
    for module in (roots, rootnotes):
        monkeypatch.setattr(module, "DIRECTORY", str(layers.base / "roots"))
    for name in ("file", "gone", "dir/old", "type", "moved/z"):
        (layers.bottom / name).parent.mkdir(exist_ok=True)
        (layers.bottom / name).write_text(name)
    made = Root("web", (str(layers.bottom),), top=str(layers.top), profile="fallthru")
    layers.top.chmod(0o750)
    return roots.create(made, Limits())


def mounted(layers: Layers) -> kernel.Overlay:
    now, _ = roots.load("web")
    return kernel.Overlay(now.bottoms, str(layers.top), now.work, now.profile)


def shown(layers: Layers) -> Tree:
    with kernel.mounted(mounted(layers), str(layers.mnt)):
        return without_directory_times(whole(layers.mnt))


def change(layers: Layers, number: int) -> Tree:
    """Change the root, in other places each time; what is shown then."""
    with kernel.mounted(mounted(layers), str(layers.mnt)):
        mnt = layers.mnt
        (mnt / "file").write_text(f"changed {number}")
        (mnt / f"new{number}").write_text("new")
        if number == 1:
            (mnt / "gone").unlink()
            (mnt / "dir/old").unlink()
            (mnt / "dir").rmdir()
            (mnt / "dir").mkdir()
            (mnt / "moved").rename(mnt / "elsewhere")
        if number == 2:
            (mnt / "new1").unlink()
            (mnt / "gone").mkdir()
            (mnt / "elsewhere/z").chmod(0o600)
            (mnt / "type").unlink()
            (mnt / "type").symlink_to("file")
        return without_directory_times(whole(mnt))


def bottoms() -> list[str]:
    return [os.path.basename(os.path.dirname(path)) for path in roots.load("web")[0].bottoms]


def test_stacked_and_back_and_squashed(web: Root, layers: Layers) -> None:
    pristine = shown(layers)
    seen = {}
    for number in (1, 2, 3):
        seen[number] = change(layers, number)
        inode = layers.top.stat().st_ino
        taken = rootsnapshots.take("web", str(number), stack=True)
        assert taken.stacked
        assert os.stat(f"{layers.top}.snapshots/{number}/top").st_ino == inode  # no copy
        assert os.listdir(layers.top) == []
        assert layers.top.stat().st_mode & 0o7777 == 0o750
        assert shown(layers) == seen[number]
    assert len(set(map(repr, [pristine, *seen.values()]))) == 4
    assert bottoms()[:3] == ["3", "2", "1"]
    change(layers, 4)
    for number in (3, 1, 2):  # back, further back, and forward again
        assert rootsnapshots.roll_back("web", str(number)).label == str(number)
        assert shown(layers) == seen[number]
    latest = change(layers, 4)
    rootsnapshots.squash("web", "one")
    assert bottoms()[0] == "one"
    assert len(bottoms()) == 2
    assert shown(layers) == latest
    rootsnapshots.roll_back("web", "3")
    assert shown(layers) == seen[3]
    rootsnapshots.roll_back("web", "one")
    assert shown(layers) == seen[2]


def test_copies_and_layers_go_together(web: Root, layers: Layers) -> None:
    first = change(layers, 1)
    rootsnapshots.take("web", "copy")
    change(layers, 2)
    rootsnapshots.take("web", "layer", stack=True)
    third = change(layers, 3)
    rootsnapshots.take("web", "over")
    rootsnapshots.roll_back("web", "copy")
    assert shown(layers) == first
    assert len(bottoms()) == 1
    rootsnapshots.roll_back("web", "over")
    assert shown(layers) == third
    assert bottoms()[0] == "layer"


def test_killed_at_every_step(web: Root, layers: Layers) -> None:
    seen = change(layers, 1)
    for label, action in (
        ("1", partial(rootsnapshots.take, "web", "1", stack=True)),
        ("2", partial(rootsnapshots.take, "web", "2", stack=True)),
        ("one", partial(rootsnapshots.squash, "web", "one")),
    ):
        number = 1
        while label not in labels(layers):
            assert crash_before(number, action) or label in labels(layers)
            assert shown(layers) == seen, f"{label}, killed before step {number}"
            number += 1
        assert number > 5
    if len(bottoms()) > 2:  # it was killed when the layer was there, and not yet used
        rootsnapshots.squash("web", "another")
    assert len(bottoms()) == 2
    assert shown(layers) == seen


def labels(layers: Layers) -> list[str]:
    return [each.label for each in snapshots.snapshots(str(layers.top))]


def test_what_is_needed_is_not_removed(web: Root, layers: Layers) -> None:
    for number in (1, 2):
        change(layers, number)
        rootsnapshots.take("web", str(number), stack=True)
    with pytest.raises(Refused, match="snapshot 2 stands on the snapshot 1"):
        rootsnapshots.remove("web", "1")
    with pytest.raises(Refused, match="root web stands on the snapshot 2"):
        rootsnapshots.remove("web", "2")
    with pytest.raises(UsageError, match="is a bottom of a root"):
        snapshots.remove(str(layers.top), "2")
    seen = shown(layers)
    rootsnapshots.squash("web", "one")
    for label in ("2", "1"):
        rootsnapshots.remove("web", label)
    assert shown(layers) == seen


def test_files_with_several_names(web: Root, layers: Layers) -> None:
    """The index makes one file of a copy and the bottom's other name; a bottom has none."""
    (layers.bottom / "one").write_text("linked")
    os.link(layers.bottom / "one", layers.bottom / "two")
    with kernel.mounted(mounted(layers), str(layers.mnt)):
        (layers.mnt / "one").write_text("both")
    seen = shown(layers)
    with pytest.raises(Refused, match="several names"):
        rootsnapshots.take("web", "first", stack=True)
    assert shown(layers) == seen
    with kernel.mounted(mounted(layers), str(layers.mnt)):
        os.close(os.open(layers.mnt / "two", os.O_WRONLY))  # copied up, too
    rootsnapshots.take("web", "first", stack=True)
    assert shown(layers) == seen
    with kernel.mounted(mounted(layers), str(layers.mnt)):
        assert groups(layers.mnt) == {frozenset({b"one", b"two"})}


def test_the_command(layers: Layers, tmp_path: Path) -> None:
    done = fallthru("snapshot", "--stack", layers.top)
    assert done.returncode == 2
    assert "name a root" in done.stderr
    assert fallthru("snapshot", "--stack", "--squash", "nobody").returncode == 2
