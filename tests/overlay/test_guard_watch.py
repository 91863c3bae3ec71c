"""Watching a bottom that nothing holds: what changed, who did it, and that it stays known."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay import errors, kernel, readonlyusers, runstate
from overlay.watch import watch
from tests.conftest import Layers
from tests.fsimages import loop_filesystem, tmpfs
from tests.overlay.surveys import survey
from tests.processes import PATIENCE
from tests.running import REPOSITORY, fallthru


@pytest.fixture(autouse=True)
def own_state(root: None) -> Iterator[None]:
    """Notes of this test only, not those of whatever else runs on the machine."""
    os.makedirs(runstate.DIRECTORY, exist_ok=True)
    with tmpfs(Path(runstate.DIRECTORY), options={"mode": "755"}):
        yield
        readonlyusers.reconcile()


class Watcher:
    """The command in the background; its lines as objects."""

    def __init__(self, mount_point: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "overlay", "watch", "--json", str(mount_point)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            bufsize=0,  # so that select() knows of every line that was not taken
        )
        assert self.line() == {"watching": str(mount_point)}

    def line(self) -> dict[str, str]:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        assert ready, "the watcher said nothing"
        told = json.loads(self.process.stdout.readline())
        assert isinstance(told, dict)
        return told

    def end(self) -> tuple[list[str], int]:
        """What else it said, and its exit code, once the overlay went."""
        rest, _ = self.process.communicate(timeout=PATIENCE)
        return [json.loads(line)["what"] for line in rest.splitlines()], self.process.returncode


@pytest.fixture
def overlay(layers: Layers) -> Iterator[Layers]:
    (layers.bottom / "dir").mkdir()
    (layers.bottom / "file").write_text("bottom")
    kernel.mount(kernel.Overlay((str(layers.bottom),), str(layers.top)), str(layers.mnt))
    yield layers
    if os.path.ismount(layers.mnt):
        kernel.unmount(str(layers.mnt), lazy=True)


def test_a_change_is_told_with_who_did_it(overlay: Layers) -> None:
    watcher = Watcher(overlay.mnt)
    (overlay.bottom / "dir" / "new").touch()
    told = watcher.line()
    assert told["bottom"] == str(overlay.bottom)
    assert told["what"].startswith("dir/new was created")
    assert f"({os.getpid()})" in told["what"]
    (state,) = survey(overlay)
    assert state.tainted
    assert state.bottoms[0].taints[0].what == told["what"]
    kernel.unmount(str(overlay.mnt))
    rest, code = watcher.end()
    assert all("dir/new" in line for line in rest)
    assert code == 1


def test_using_the_overlay_is_no_change(overlay: Layers) -> None:
    """Top and bottom are on one file system here, so all events of the top come by too."""
    watcher = Watcher(overlay.mnt)
    (overlay.mnt / "file").write_text("copied up")
    (overlay.mnt / "dir" / "new").touch()
    (overlay.mnt / "dir" / "new").unlink()
    (overlay.mnt / "file").unlink()
    (overlay.base / "beside").touch()
    (state,) = survey(overlay)
    assert not state.tainted
    kernel.unmount(str(overlay.mnt))
    assert watcher.end() == ([], 0)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("append", "file was written to"),
        ("chmod", "file was changed in its attributes"),
        ("unlink", "file was deleted"),
        ("rename", "file was moved away"),
        ("root", "it was changed in its attributes"),
        ("odd name", "dir/\\xff was created"),
    ],
)
def test_every_kind_of_change_is_seen(overlay: Layers, act: str, words: str) -> None:
    watcher = Watcher(overlay.mnt)
    file = overlay.bottom / "file"
    if act == "append":
        with file.open("a") as opened:
            opened.write("more")
    elif act == "chmod":
        file.chmod(0o600)
    elif act == "unlink":
        file.unlink()
    elif act == "rename":
        file.rename(overlay.bottom / "dir" / "other")
    elif act == "root":
        overlay.bottom.chmod(0o700)
    else:
        (overlay.bottom / "dir" / os.fsdecode(b"\xff")).touch()
    told = watcher.line()
    kernel.unmount(str(overlay.mnt))
    assert watcher.end()[1] == 1
    assert told["what"].startswith(words)


def test_a_remount_is_seen(layers: Layers) -> None:
    with loop_filesystem("ext4") as bottom:
        subprocess.run(["mount", "-o", "remount,ro", str(bottom)], check=True)
        overlay = kernel.Overlay((str(bottom),), str(layers.top), hold=False)
        with kernel.mounted(overlay, str(layers.mnt)):
            watcher = Watcher(layers.mnt)
            subprocess.run(["mount", "-o", "remount,rw", str(bottom)], check=True)
            # The look may come between the superblock's write and the end of the remount.
            told = sorted(watcher.line()["what"] for _ in range(2))
            assert told[0].endswith("written to its block device")
            assert "was held by its mount, and is not now" in told[1]
            subprocess.run(["mount", "-o", "remount,ro", str(bottom)], check=True)
        _, code = watcher.end()
        assert code == 1


def test_a_held_bottom_needs_no_watch(layers: Layers) -> None:
    with loop_filesystem("ext4", read_only=True) as bottom:
        overlay = kernel.Overlay((str(bottom),), str(layers.top))
        with kernel.mounted(overlay, str(layers.mnt)):
            watcher = Watcher(layers.mnt)
        assert watcher.end() == ([], 0)


def test_what_cannot_be_watched_is_named(layers: Layers) -> None:
    assert fallthru("watch", layers.mnt).returncode == 2
    overlay = kernel.Overlay((str(layers.bottom),), str(layers.top))
    with kernel.mounted(overlay, str(layers.bottom)):
        seen = watch(str(layers.bottom))
        with pytest.raises(errors.EnvironmentLacks, match="the overlay itself covers it"):
            next(seen)
