"""Freezing: the image is the tree, the same each time, and there whole or not at all."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay import errors, freeze, guard, images, kernel, syscalls
from overlay.guard import Hold
from overlay.layer import Layer
from tests.conftest import Layers
from tests.fsimages import loop_filesystem, needs_filesystem, tmpfs
from tests.treediff import snapshot as look_at


@pytest.fixture
def tree(root: None, tmp_path: Path) -> Path:
    """A tree with one of everything that a file system can hold."""
    needs_filesystem("erofs")
    if shutil.which("mkfs.erofs") is None:
        pytest.skip("needs: mkfs.erofs")
    made = tmp_path / "tree"
    made.mkdir()
    (made / "empty").touch()
    (made / "data").write_bytes(os.urandom(300_001))
    os.link(made / "data", made / "hard link")
    (made / "link").symlink_to("nowhere")
    (made / "dir" / "sub").mkdir(parents=True)
    for number in range(300):  # more names than fit into a block
        (made / "dir" / f"name {number:03} {'x' * 40}").touch()
    os.mkfifo(made / "fifo")
    os.mknod(made / "device", 0o600 | 0o020000, os.makedev(10, 229))
    os.mknod(made / "whiteout", 0o020000, os.makedev(0, 0))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(made / "socket"))
    (made / os.fsdecode(b"\xff\xfe")).touch()
    (made / "new\nline").touch()
    with (made / "sparse").open("wb") as file:
        file.truncate(1 << 20)
    os.setxattr(made / "data", "user.some", b"value")
    os.setxattr(made / "dir", "trusted.overlay.opaque", b"y")
    (made / "setuid").touch()
    os.chown(made / "setuid", 1000, 1001)
    (made / "setuid").chmod(0o4711)
    os.utime(made / "empty", ns=(1, 981_173_106_789_000_001))
    return made


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "image.erofs"


def frozen_tree(image: Path) -> Iterator[Path]:
    place = image.parent / "place"
    place.mkdir()
    subprocess.run(["mount", "-o", "loop,ro", str(image), str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)
    place.rmdir()


def test_the_image_is_the_tree(tree: Path, image: Path) -> None:
    """Judged by a comparison of its own, through the system's mount(8)."""
    made = freeze.freeze(str(tree), str(image))
    assert (made.path, made.verified) == (str(image), True)
    assert made.size == image.stat().st_size
    assert made.entries == 1 + sum(len(dirs) + len(files) for _, dirs, files in os.walk(tree))
    for place in frozen_tree(image):
        assert look_at(place) == look_at(tree)
        assert os.getxattr(place / "dir", "trusted.overlay.opaque") == b"y"
        assert (place / "empty").stat().st_mtime_ns == 981_173_106_789_000_001
        assert (place / "data").stat().st_nlink == 2


def test_the_same_tree_gives_the_same_bytes(tree: Path, image: Path) -> None:
    """Also on another file system, whose readdir has another order, and at another time."""
    first = freeze.freeze(str(tree), str(image))
    with loop_filesystem("ext4") as elsewhere:
        subprocess.run(["cp", "-a", str(tree), str(elsewhere / "copy")], check=True)
        second = freeze.freeze(str(elsewhere / "copy"), f"{image}.2")
    assert image.read_bytes() == Path(f"{image}.2").read_bytes()
    assert first.uuid == second.uuid
    (tree / "empty").chmod(0o600)
    third = freeze.freeze(str(tree), f"{image}.3")
    assert third.uuid != first.uuid  # two layers with one UUID would cost overlayfs its index


def test_what_is_mounted_below_is_left_out(tree: Path, image: Path) -> None:
    with tmpfs(tree / "dir" / "sub"):
        (tree / "dir" / "sub" / "covered").touch()
        freeze.freeze(str(tree), str(image))
    with images.opened(str(image)) as opened, Layer.open(str(image)) as layer:
        assert opened.fstype == "erofs"
        assert list(layer.entries(b"dir/sub")) == []


def test_of_an_overlay_the_union_is_frozen(tree: Path, image: Path, layers: Layers) -> None:
    (layers.bottom / "kept").write_text("bottom")
    (layers.bottom / "gone").touch()
    overlay = kernel.Overlay((str(layers.bottom),), str(layers.top))
    with kernel.mounted(overlay, str(layers.mnt)):
        (layers.mnt / "gone").unlink()
        (layers.mnt / "new").write_text("top")
        freeze.freeze(str(layers.mnt), str(image))
    again = kernel.Overlay((str(image),), str(layers.base / "second"), require_read_only=True)
    Path(again.top).mkdir()
    with kernel.mounted(again, str(layers.mnt)):
        assert sorted(os.listdir(layers.mnt)) == ["kept", "new"]
        assert (layers.mnt / "kept").read_text() == "bottom"


def test_freezing_reads_without_a_trace(tree: Path, image: Path) -> None:
    """No access time changes, though the mount would record them."""
    os.utime(tree / "data", ns=(0, 0))
    os.utime(tree / "dir", ns=(0, 0))
    freeze.freeze(str(tree), str(image))
    assert ((tree / "data").stat().st_atime_ns, (tree / "dir").stat().st_atime_ns) == (0, 0)


def test_a_change_meanwhile_is_found(
    tree: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the making and the comparison, as a running program would."""
    make = freeze._make

    def make_and_change(*arguments: object) -> None:
        make(*arguments)  # type: ignore[arg-type]
        with (tree / "data").open("r+b") as file:
            before = os.fstat(file.fileno())
            file.seek(200_000)
            file.write(b"other data of the same size, and then the time of before")
            file.flush()
            os.utime(tree / "data", ns=(before.st_atime_ns, before.st_mtime_ns))

    monkeypatch.setattr(freeze, "_make", make_and_change)
    with pytest.raises(errors.Refused, match="data differs in its contents"):
        freeze.freeze(str(tree), str(image))
    assert sorted(os.listdir(image.parent)) == ["tree"]
    freeze.freeze(str(tree), str(image), verify=False)
    assert sorted(os.listdir(image.parent)) == ["image.erofs", "tree"]


def test_an_existing_image_is_kept(tree: Path, image: Path) -> None:
    image.write_text("mine")
    with pytest.raises(errors.Refused, match="exists"):
        freeze.freeze(str(tree), str(image))
    assert image.read_text() == "mine"


def test_replacing_does_not_touch_who_uses_it(tree: Path, image: Path, layers: Layers) -> None:
    freeze.freeze(str(tree), str(image))
    with kernel.mounted(kernel.Overlay((str(image),), str(layers.top)), str(layers.mnt)):
        (tree / "later").touch()
        freeze.freeze(str(tree), str(image), replace=True)
        syscalls_drop_caches()
        assert not (layers.mnt / "later").exists()
        assert (layers.mnt / "data").read_bytes() == (tree / "data").read_bytes()


def syscalls_drop_caches() -> None:
    """So that what is read next comes from the image."""
    Path("/proc/sys/vm/drop_caches").write_text("3")


def test_a_full_disk_leaves_nothing(tree: Path, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    with tmpfs(place, options={"size": "64k"}):
        with pytest.raises(errors.OperationFailed, match=r"mkfs\.erofs failed"):
            freeze.freeze(str(tree), str(place / "image"))
        assert os.listdir(place) == []


def test_a_missing_tool_is_named(tree: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(errors.EnvironmentLacks, match=r"mkfs\.erofs is not installed") as raised:
        freeze.freeze(str(tree), str(image))
    assert "erofs-utils" in str(raised.value.hint)


def test_an_image_in_its_own_tree_is_refused(tree: Path) -> None:
    with pytest.raises(errors.UsageError, match="in the tree that it is made of"):
        freeze.freeze(str(tree), str(tree / "dir" / "image"))


def test_a_snapshot_holds(root: None, tmp_path: Path, layers: Layers) -> None:
    """A read-only snapshot of a writable subvolume: a bottom on a btrfs that is read-write."""
    with loop_filesystem("btrfs") as place:
        (place / "file").write_text("then")
        freeze.snapshot(str(place), str(place / "frozen"))
        (place / "file").write_text("now")
        (place / "frozen-not").mkdir()
        state = guard.assess(str(place / "frozen"))
        assert (state.hold, state.really_read_only) == (Hold.SNAPSHOT, True)
        assert guard.assess(str(place)).hold is Hold.NONE
        overlay = kernel.Overlay((str(place / "frozen"),), str(layers.top), require_read_only=True)
        with kernel.mounted(overlay, str(layers.mnt)):
            assert (layers.mnt / "file").read_text() == "then"
            with pytest.raises(OSError, match="Read-only file system"):
                (place / "frozen" / "file").write_text("never")


def test_a_directory_in_a_snapshot_is_held_too(root: None) -> None:
    with loop_filesystem("btrfs") as place:
        (place / "a" / "b").mkdir(parents=True)
        freeze.snapshot(str(place), str(place / "frozen"))
        assert guard.assess(str(place / "frozen" / "a" / "b")).hold is Hold.SNAPSHOT
        assert guard.assess(str(place / "a" / "b")).hold is Hold.NONE


def test_snapshots_elsewhere_are_refused(root: None, tmpfs_dir: Path) -> None:
    with pytest.raises(errors.UsageError, match="is not on btrfs"):
        freeze.snapshot(str(tmpfs_dir), str(tmpfs_dir / "frozen"))
    with loop_filesystem("btrfs") as place:
        (place / "plain").mkdir()
        with pytest.raises(errors.UsageError, match="is not the root of a subvolume"):
            freeze.snapshot(str(place / "plain"), str(place / "frozen"))
        with pytest.raises(errors.UsageError, match="is not on the file system of"):
            freeze.snapshot(str(place), str(tmpfs_dir / "frozen"))
        with pytest.raises(errors.Refused, match="exists"):
            freeze.snapshot(str(place), str(place / "plain"))
    assert syscalls.statfs_type(tmpfs_dir) == 0x01021994
