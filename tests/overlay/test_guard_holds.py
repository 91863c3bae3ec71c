"""Read-only for as long as it is a bottom (L263–L268): counted, enforced, released, tainted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from overlay import errors, guard, kernel, readonlyusers, runstate, syscalls
from overlay.guard import Hold
from overlay.status import OverlayStatus
from tests.conftest import Layers
from tests.fsimages import loop_filesystem, tmpfs
from tests.overlay.surveys import survey
from tests.running import in_user_namespace


def run(*words: str | Path) -> int:
    return subprocess.run(words, capture_output=True, check=False).returncode


@pytest.fixture(autouse=True)
def own_state(root: None) -> Iterator[None]:
    """Notes of this test only, not those of whatever else runs on the machine."""
    os.makedirs(runstate.DIRECTORY, exist_ok=True)
    with tmpfs(Path(runstate.DIRECTORY), options={"mode": "755"}):
        yield
        # A loop device stays read-only beyond its image, and would be so for other tests.
        readonlyusers.reconcile()


@pytest.fixture(params=["ext4", "xfs"])
def bottom(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system on a writable device, mounted read-only: L256, at any time it may change."""
    with loop_filesystem(request.param) as mount_point:
        (mount_point / "file").write_text("bottom")
        assert run("mount", "-o", "remount,ro", mount_point) == 0
        yield mount_point
        assert not device_is_read_only(mount_point), "a device was left read-only"


@pytest.fixture
def ext4() -> Iterator[Path]:
    with loop_filesystem("ext4") as mount_point:
        (mount_point / "file").write_text("bottom")
        assert run("mount", "-o", "remount,ro", mount_point) == 0
        yield mount_point


def device_of(mount_point: Path) -> str:
    words = ["findmnt", "-n", "-o", "SOURCE", str(mount_point)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[-1]


def device_is_read_only(mount_point: Path) -> bool:
    fd = os.open(device_of(mount_point), os.O_RDONLY)
    try:
        return syscalls.blkroget(fd)
    finally:
        os.close(fd)


def set_device(mount_point: Path, *, read_only: bool) -> None:
    fd = os.open(device_of(mount_point), os.O_RDONLY)
    try:
        syscalls.blkroset(fd, read_only)
    finally:
        os.close(fd)


def can_be_written(mount_point: Path) -> bool:
    """Whether root can make the file system read-write; it is put back."""
    if run("mount", "-o", "remount,rw", mount_point) != 0:
        return False
    assert run("mount", "-o", "remount,ro", mount_point) == 0
    return True


def overlay_of(
    bottom: Path, layers: Layers, name: str = "top", *, hold: bool = True, require: bool = False
) -> kernel.Overlay:
    (layers.base / name).mkdir(exist_ok=True)
    top = str(layers.base / name)
    return kernel.Overlay((str(bottom),), top, hold=hold, require_read_only=require)


def place(layers: Layers, name: str) -> str:
    (layers.base / name).mkdir()
    return str(layers.base / name)


def test_read_only_while_it_is_a_bottom(bottom: Path, layers: Layers) -> None:
    assert can_be_written(bottom)
    with kernel.mounted(overlay_of(bottom, layers), str(layers.mnt)):
        assert guard.assess(str(bottom)).hold is Hold.DEVICE
        assert not can_be_written(bottom)
        other = layers.base / "other"
        other.mkdir()
        assert run("mount", "-w", device_of(bottom), other) != 0  # never falls back to ro
        (layers.mnt / "file").write_text("the top still takes writes")
    assert can_be_written(bottom)


def test_the_last_user_releases_it(bottom: Path, layers: Layers) -> None:
    """L265: it can only be mounted read-write if its read-only users count is zero."""
    first, second = place(layers, "m1"), place(layers, "m2")
    kernel.mount(overlay_of(bottom, layers, "t1"), first)
    kernel.mount(overlay_of(bottom, layers, "t2"), second)
    counts = [each.bottoms[0].users for each in survey(layers)]
    assert counts == [2, 2]
    kernel.unmount(first)
    assert not can_be_written(bottom)
    (left,) = survey(layers)
    assert (left.bottoms[0].users, left.bottoms[0].held, left.tainted) == (1, True, False)
    kernel.unmount(second)
    assert can_be_written(bottom)
    assert not os.path.exists(f"{runstate.DIRECTORY}/devices")


def test_a_plain_umount_is_noticed(ext4: Path, layers: Layers) -> None:
    kernel.mount(overlay_of(ext4, layers), str(layers.mnt))
    assert run("umount", layers.mnt) == 0
    assert device_is_read_only(ext4)  # nobody was told
    survey(layers)
    assert not device_is_read_only(ext4)


def test_overlays_of_others_count(ext4: Path, layers: Layers) -> None:
    """The device stays held for an overlay that mount(8) made over the same bottom."""
    with kernel.mounted(overlay_of(ext4, layers), str(layers.mnt)):
        other, top, work = (place(layers, name) for name in ("m2", "t2", "w2"))
        options = f"lowerdir={ext4},upperdir={top},workdir={work}"
        assert run("mount", "-t", "overlay", "x", "-o", options, other) == 0
    assert not can_be_written(ext4)
    assert [each.bottoms[0].users for each in survey(layers)] == [1]
    kernel.unmount(other)
    assert can_be_written(ext4)


def test_an_overlay_behind_a_descriptor_counts(ext4: Path, layers: Layers) -> None:
    """No mountinfo shows it, yet its device is not released before it is closed."""
    tree = kernel.open_overlay(overlay_of(ext4, layers))
    readonlyusers.reconcile()
    assert not can_be_written(ext4)
    os.close(tree)
    readonlyusers.reconcile()
    assert can_be_written(ext4)


def test_a_killed_process_releases_at_the_next_look(ext4: Path, layers: Layers) -> None:
    child = os.fork()
    if child == 0:
        try:
            kernel.open_overlay(overlay_of(ext4, layers))
            os.kill(os.getpid(), 9)
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    assert device_is_read_only(ext4)
    readonlyusers.reconcile()
    assert not device_is_read_only(ext4)


def test_an_overlay_in_another_mount_namespace_counts(ext4: Path, layers: Layers) -> None:
    ready, tell = os.pipe()
    hold, release = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(release)
            syscalls.unshare(syscalls.CLONE_NEWNS)
            kernel.mount(overlay_of(ext4, layers), str(layers.mnt))
            os.write(tell, b"!")
            os.read(hold, 1)
        finally:
            os._exit(0)
    try:
        assert os.read(ready, 1) == b"!"
        assert not os.path.ismount(layers.mnt)
        readonlyusers.reconcile()
        assert not can_be_written(ext4)
    finally:
        os.close(release)
        os.waitpid(child, 0)
        for fd in (ready, tell, hold):
            os.close(fd)
    readonlyusers.reconcile()
    assert can_be_written(ext4)


def test_what_others_made_read_only_stays_so(ext4: Path, layers: Layers) -> None:
    set_device(ext4, read_only=True)
    with kernel.mounted(overlay_of(ext4, layers), str(layers.mnt)):
        (told,) = survey(layers)
        assert (told.bottoms[0].held, told.bottoms[0].state) == (False, guard.assess(str(ext4)))
    kept = device_is_read_only(ext4)
    set_device(ext4, read_only=False)  # else the next image on this loop device is read-only
    assert kept


def test_a_writable_file_system_is_never_touched(layers: Layers) -> None:
    """Nor when the bottom's own mount is read-only, but the file system is not."""
    with loop_filesystem("ext4") as device, tmpfs(layers.bottom):
        bound = layers.bottom / "bound"
        bound.mkdir()
        assert run("mount", "--bind", "-o", "ro", device, bound) == 0
        try:
            for path in (device, bound):
                with kernel.mounted(overlay_of(path, layers, path.name), str(layers.mnt)):
                    assert not device_is_read_only(device)
                    (device / f"new {path.name}").write_text("writable")
            with kernel.mounted(overlay_of(bound, layers, bound.name), str(layers.mnt)):
                (told,) = survey(layers)
            assert told.bottoms[0].state is not None
            assert told.bottoms[0].state.hold is Hold.MOUNT
            assert not told.tainted
        finally:
            assert run("umount", bound) == 0


def test_without_hold_nothing_is_switched(ext4: Path, layers: Layers) -> None:
    with kernel.mounted(overlay_of(ext4, layers, hold=False), str(layers.mnt)):
        assert not device_is_read_only(ext4)


def test_required_means_held(ext4: Path, layers: Layers) -> None:
    """What only is mounted read-only is enough, because it gets held."""
    with kernel.mounted(overlay_of(ext4, layers, require=True), str(layers.mnt)):
        assert device_is_read_only(ext4)
    with pytest.raises(errors.Refused, match="may change while the overlay is mounted"):
        kernel.open_overlay(overlay_of(ext4, layers, require=True, hold=False))
    assert not device_is_read_only(ext4)


def test_a_refused_mount_releases(ext4: Path, layers: Layers) -> None:
    overlay = kernel.Overlay((str(ext4),), str(layers.top), options=(("bogus", "1"),))
    with pytest.raises(errors.UsageError, match="bogus"):
        kernel.open_overlay(overlay)
    assert not device_is_read_only(ext4)
    assert not os.path.exists(f"{runstate.DIRECTORY}/devices")


def test_btrfs_does_not_heed_its_device(layers: Layers) -> None:
    """Measured: BLKROSET does not stop its remount, so it must not be called a hold."""
    with loop_filesystem("btrfs") as place:
        assert run("mount", "-o", "remount,ro", place) == 0
        with kernel.mounted(overlay_of(place, layers), str(layers.mnt)):
            state = guard.assess(str(place))
            assert state.really_read_only == (not can_be_written(place))
        set_device(place, read_only=True)
        state = guard.assess(str(place))
        assert state.really_read_only == (not can_be_written(place))
        set_device(place, read_only=False)


def test_a_bottom_covered_in_place_is_still_judged(ext4: Path, layers: Layers) -> None:
    """The union at the bottom's own mount point (L138–L141): the path shows the union."""
    with kernel.mounted(overlay_of(ext4, layers), str(ext4)):
        (told,) = survey(layers, ext4)
        (bottom,) = told.bottoms
        assert bottom.state is not None
        assert (bottom.state.fstype, bottom.state.hold) == ("ext4", Hold.DEVICE)
        assert (bottom.held, bottom.users) == (True, 1)
        readonlyusers.reconcile()
        (ext4 / "new").write_text("to the top")
    assert not device_is_read_only(ext4)
    assert sorted(os.listdir(layers.top)) == ["new"]


def tainted(overlay: OverlayStatus) -> list[str]:
    return [taint.kind for bottom in overlay.bottoms for taint in bottom.taints]


def test_an_untouched_bottom_is_not_tainted(bottom: Path, layers: Layers) -> None:
    with kernel.mounted(overlay_of(bottom, layers), str(layers.mnt)):
        assert (layers.mnt / "file").read_text() == "bottom"
        (layers.mnt / "file").write_text("changed")
        os.sync()
        assert [tainted(each) for each in survey(layers)] == [[]]


def test_a_bottom_that_becomes_writable_taints(ext4: Path, layers: Layers) -> None:
    with kernel.mounted(overlay_of(ext4, layers, hold=False), str(layers.mnt)):
        assert run("mount", "-o", "remount,rw", ext4) == 0
        (told,) = survey(layers)
        assert told.tainted
        assert "hold" in tainted(told)
        assert "mounted read-write" in told.bottoms[0].taints[0].what
        first = told.bottoms[0].taints[0].seen
        # Putting it back does not undo what may have happened meanwhile.
        assert run("mount", "-o", "remount,ro", ext4) == 0
        (told,) = survey(layers)
        assert "hold" in tainted(told)
        assert told.bottoms[0].taints[0].seen == first
        assert told.to_json()["tainted"] is True


def test_a_write_between_two_looks_taints(ext4: Path, layers: Layers) -> None:
    """Nobody looked while it was writable: the device's count of sectors tells."""
    with kernel.mounted(overlay_of(ext4, layers, hold=False), str(layers.mnt)):
        assert run("mount", "-o", "remount,rw", ext4) == 0
        (ext4 / "file").write_text("changed below")
        assert run("mount", "-o", "remount,ro", ext4) == 0
        (told,) = survey(layers)
        assert tainted(told) == ["device"]
        assert "were written to its block device" in told.bottoms[0].taints[0].what


def test_a_released_device_taints(ext4: Path, layers: Layers) -> None:
    with kernel.mounted(overlay_of(ext4, layers), str(layers.mnt)):
        set_device(ext4, read_only=False)
        (told,) = survey(layers)
        assert tainted(told) == ["hold"]
        assert "it was held by its device" in told.bottoms[0].taints[0].what


def test_a_new_overlay_is_not_tainted_by_the_past(ext4: Path, layers: Layers) -> None:
    overlay = overlay_of(ext4, layers, hold=False)
    with kernel.mounted(overlay, str(layers.mnt)):
        assert run("mount", "-o", "remount,rw", ext4) == 0
        (told,) = survey(layers)
        assert told.tainted
        assert run("mount", "-o", "remount,ro", ext4) == 0
    # The same top, the same place, and most likely the same device number.
    with kernel.mounted(overlay, str(layers.mnt)):
        (told,) = survey(layers)
        assert not told.tainted


def test_a_written_image_taints(layers: Layers) -> None:
    """A read-only loop device keeps nobody from writing to the image's file."""
    image = layers.base / "image"
    tree = layers.base / "tree"
    tree.mkdir()
    assert run("mkfs.ext4", "-q", "-d", tree, image, "8M") == 0
    with kernel.mounted(overlay_of(image, layers), str(layers.mnt)):
        (told,) = survey(layers)
        assert not told.tainted
        with image.open("r+b") as file:
            file.seek(4 << 20)
            file.write(b"x")
        (told,) = survey(layers)
        assert tainted(told) == ["image"]
        assert str(image) in told.bottoms[0].taints[0].what


def test_a_replaced_image_does_not_taint(layers: Layers) -> None:
    image = layers.base / "image"
    tree = layers.base / "tree"
    tree.mkdir()
    assert run("mkfs.ext4", "-q", "-d", tree, image, "8M") == 0
    with kernel.mounted(overlay_of(image, layers), str(layers.mnt)):
        (layers.base / "new").write_bytes(b"another")
        os.replace(layers.base / "new", image)
        (told,) = survey(layers)
        assert not told.tainted


def test_notes_of_overlays_that_went_are_dropped(ext4: Path, layers: Layers) -> None:
    kernel.mount(overlay_of(ext4, layers), str(layers.mnt))
    assert len(readonlyusers.reliances()) == 1
    assert run("umount", layers.mnt) == 0
    survey(layers)
    assert readonlyusers.reliances() == {}


def test_notes_of_others_do_not_keep_a_device(layers: Layers) -> None:
    """An image's loop device and an overlay's number are used again at once: by what follows."""
    image = layers.base / "image"
    (layers.base / "tree").mkdir()
    assert run("mkfs.ext4", "-q", "-d", layers.base / "tree", image, "8M") == 0
    for number in range(3):  # detached, so that nobody drops the notes
        os.close(kernel.open_overlay(overlay_of(image, layers, f"i{number}")))
    with loop_filesystem("ext4") as bottom:
        assert run("mount", "-o", "remount,ro", bottom) == 0
        with ExitStack() as others:
            # All at once, so that one of them gets the number of the noted ones.
            for number in range(4):
                overlay = overlay_of(layers.bottom, layers, f"o{number}")
                others.enter_context(kernel.mounted(overlay, place(layers, f"m{number}")))
            with kernel.mounted(overlay_of(bottom, layers), str(layers.mnt)):
                assert device_is_read_only(bottom)
            assert not device_is_read_only(bottom)


def test_a_number_used_again_by_an_overlay_that_is_not_mounted_keeps_nothing(
    ext4: Path, layers: Layers
) -> None:
    """An overlay goes, and what gets its number is held by a descriptor, on no list of mounts."""
    gone = os.fstat(tree := kernel.open_overlay(overlay_of(ext4, layers))).st_dev
    os.close(tree)
    others: list[int] = []
    try:
        for number in range(8):
            others.append(kernel.open_overlay(overlay_of(layers.bottom, layers, f"o{number}")))
            if os.fstat(others[-1]).st_dev == gone:
                break
        else:
            pytest.fail("no overlay got the number of the one that went")
        readonlyusers.reconcile()
        assert not device_is_read_only(ext4)
    finally:
        for other in others:
            os.close(other)


def test_notes_of_another_boot_or_version_are_nothing() -> None:
    with runstate.locked("overlays") as notes:
        assert notes is not None
        note = readonlyusers.Reliance((0, 99), 0.0, "/t", ()).to_json()
        runstate.put(notes, "0:99", note)
        runstate.put(notes, "0:98", {**note, "format": 0})
    assert set(readonlyusers.reliances()) == {(0, 99)}
    readonlyusers.reconcile()
    assert os.listdir(f"{runstate.DIRECTORY}/overlays") == []
    with runstate.locked("overlays") as notes:
        assert notes is not None
        runstate.put(notes, "0:99", note)
    kept = Path(f"{runstate.DIRECTORY}/overlays/0:99")
    kept.write_text(kept.read_text().replace('"boot": "', '"boot": "not '))
    assert readonlyusers.reliances() == {}


def test_what_a_newer_one_relies_on_is_not_let_go(ext4: Path, layers: Layers) -> None:
    kernel.mount(overlay_of(ext4, layers), str(layers.mnt))
    (note,) = Path(f"{runstate.DIRECTORY}/overlays").iterdir()
    kept = note.read_text()
    note.write_text(kept.replace('"format": 2', '"format": 99').replace('"bottoms"', '"lower"'))
    assert run("umount", layers.mnt) == 0
    readonlyusers.reconcile()
    assert note.exists()
    assert device_is_read_only(ext4)
    note.write_text(kept)
    readonlyusers.reconcile()
    assert not device_is_read_only(ext4)
    assert not note.exists()


def test_a_broken_note_is_named() -> None:
    note = Path(f"{runstate.DIRECTORY}/overlays/0:99")
    with runstate.locked("overlays"):
        note.write_text("{")
    with pytest.raises(errors.OperationFailed, match="cannot be read: 0:99"):
        readonlyusers.reliances()
    note.unlink()


def test_ordinary_mounts_note_nothing(layers: Layers) -> None:
    with kernel.mounted(overlay_of(layers.bottom, layers), str(layers.mnt)):
        assert os.listdir(runstate.DIRECTORY) == []


def test_users_without_privilege_mount_read_only_bottoms_too(layers: Layers) -> None:
    for above in layers.base.parents:
        above.chmod(above.stat().st_mode | 0o001)
    os.chown(layers.base, 65534, 65534)
    os.chown(layers.top, 65534, 65534)
    os.chown(layers.work, 65534, 65534)
    with tmpfs(layers.bottom):
        (layers.bottom / "file").touch()
        assert run("mount", "-o", "remount,ro", layers.bottom) == 0

        def use() -> object:
            tree = kernel.open_overlay(overlay_of(layers.bottom, layers))
            return os.listdir(os.open(".", os.O_RDONLY, dir_fd=tree))

        assert in_user_namespace(use) == "['file']"
    assert os.listdir(runstate.DIRECTORY) == []
