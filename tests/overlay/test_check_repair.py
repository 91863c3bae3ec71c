"""Repair survives being killed and a full disk, and never takes user data away."""

from __future__ import annotations

import errno
import os
import signal
import sys
from io import FileIO
from itertools import count
from pathlib import Path

import pytest

from overlay.checking.check import Suspect, check
from overlay.checking.repair import repair
from tests.conftest import Layers, make_layers
from tests.fsimages import loop_filesystem
from tests.overlay.plants import MANY, PLANTS, Seen, populate, stub, visible, whiteout, xattr

#: What Python reports (PEP 578) before it changes a file system.
CHANGES = frozenset(
    f"os.{name}"
    for name in (
        "remove",
        "rename",
        "mkdir",
        "rmdir",
        "setxattr",
        "removexattr",
        "truncate",
        "utime",
    )
)


def damaged(base: Path) -> Layers:
    base.mkdir()
    layers = make_layers(base)
    populate(layers)
    for name in MANY:
        PLANTS[name][1](layers)
    return layers


def suspect(layers: Layers) -> Suspect:
    return Suspect(str(layers.top), (str(layers.bottom),))


def user_data(layers: Layers) -> list[bytes]:
    """The names of all files with the user's data, in the top or kept in the work directory."""
    return sorted(
        os.fsencode(path.name)
        for base in (layers.top, layers.work)
        for path in base.rglob("*")
        if path.is_file() and path.read_bytes() == b"user data"
    )


def killed_at(layers: Layers, step: int) -> bool:
    """Repair in a process that is killed before its ``step``-th change; whether it was."""
    child = os.fork()
    if child == 0:
        steps = count(1)

        def hook(event: str, _arguments: object) -> None:
            if event in CHANGES and next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            repair(suspect(layers), lambda _: True, workers=1)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_a_repair_killed_at_any_step_is_finished_by_the_next(tmpfs_dir: Path) -> None:
    whole = damaged(tmpfs_dir / "whole")
    kept = user_data(whole)
    assert repair(suspect(whole), lambda _: True).left.findings == ()
    expected: Seen = visible(whole)
    killed = 0
    for step in count(1):
        layers = damaged(tmpfs_dir / str(step))
        if not killed_at(layers, step):
            break
        killed += 1
        assert user_data(layers) == kept
        outcome = repair(suspect(layers), lambda _: True)
        assert outcome.failed == ()
        assert outcome.left.findings == ()
        assert user_data(layers) == kept
        assert visible(layers) == expected
    assert killed > len(MANY)


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_a_full_disk_fails_one_repair_and_loses_nothing(root: None, kind: str) -> None:
    with loop_filesystem(kind) as mount_point:
        layers = make_layers(mount_point)
        populate(layers)
        whiteout(layers.top / "dir" / "none")
        for number in range(20):
            stub(layers.top / ("lost" + "x" * 200 + str(number)), 6)
        (layers.top / "dir" / ".fallthru-12-3").write_text("user data")
        filler = mount_point / "filler"
        fill(filler)
        before = user_data(layers)
        outcome = repair(suspect(layers), lambda _: True)
        assert user_data(layers) == before
        codes = {each.code for each in outcome.left.findings}
        if kind == "ext4":  # btrfs keeps some space for metadata
            assert "whiteout-nothing" not in codes
            assert {each.reason for each in outcome.failed} == {os.strerror(errno.ENOSPC)}
            assert "stub-gone" in codes
        filler.unlink()
        assert repair(suspect(layers), lambda _: True).left.findings == ()
        assert user_data(layers) == before


def fill(path: Path) -> None:
    """Leave no byte free: large pieces first, then single ones."""

    def write(file: FileIO, piece: int) -> None:
        while True:
            file.write(b"\1" * piece)
            os.fsync(file.fileno())

    with path.open("wb", buffering=0) as file:
        for piece in (1 << 20, 4096, 1):
            with pytest.raises(OSError, match="No space left"):
                write(file, piece)


def test_a_name_that_is_taken_in_lost_and_found_gets_a_number(layers: Layers) -> None:
    populate(layers)
    long = "n" * 255
    lost = layers.work / "lost+found"
    lost.mkdir()
    (lost / long).write_text("from an earlier repair")
    stub(layers.top / long, 6)
    assert repair(suspect(layers), lambda _: True).left.findings == ()
    assert sorted(path.name for path in lost.iterdir()) == [long[:240] + ".1", long]
    assert (lost / long).read_text() == "from an earlier repair"


def test_a_work_directory_is_made_where_there_is_none(layers: Layers) -> None:
    populate(layers)
    layers.work.rmdir()
    stub(layers.top / "lost", 6)
    assert check(suspect(layers)).findings != ()
    assert not layers.work.exists()
    repair(suspect(layers), lambda _: True)
    assert (layers.work / "lost+found" / "lost").stat().st_size == 6


def test_a_stub_keeps_its_attributes_when_its_size_is_put_right(layers: Layers) -> None:
    populate(layers)
    path = layers.top / "file"
    stub(path, 4)
    path.chmod(0o4711)
    os.setxattr(path, "security.capability", bytes.fromhex("0100000200200000" + "00" * 12))
    os.utime(path, ns=(1, 2))
    before = path.stat(), {each: os.getxattr(path, each) for each in os.listxattr(path)}
    repair(suspect(layers), lambda _: True)
    after = path.stat(), {each: os.getxattr(path, each) for each in os.listxattr(path)}
    assert after[0].st_size == 10
    assert after[1] == before[1]
    assert (after[0].st_mode, after[0].st_mtime_ns) == (before[0].st_mode, before[0].st_mtime_ns)


def test_both_names_of_a_mark_are_one_after_the_repair(layers: Layers) -> None:
    """A mark of the other family gives way where the overlay's own is there already."""
    populate(layers)
    xattr(layers.top / "dir", "opaque", family="user")
    xattr(layers.top / "dir", "opaque")
    repair(suspect(layers), lambda _: True)
    assert os.listxattr(layers.top / "dir") == ["trusted.overlay.opaque"]


def test_a_repair_asked_for_by_nobody_changes_only_what_is_safe(tmpfs_dir: Path) -> None:
    layers = damaged(tmpfs_dir / "layers")
    before = visible_files(layers)
    outcome = repair(suspect(layers), lambda _: False)
    assert {each.repair for each in outcome.repaired} == {"safe"}
    assert {each.repair for each in outcome.left.findings} == {"ask"}
    gone = {name for name in before if name not in visible_files(layers)}
    assert all("none" in name or "#2a" in name or ".work/.fallthru" in name for name in gone)


def visible_files(layers: Layers) -> set[str]:
    return {str(path) for base in (layers.top, layers.work) for path in base.rglob("*")}
