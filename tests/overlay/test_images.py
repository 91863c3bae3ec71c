"""Images and block devices as bottoms, on the real kernel: attached, used, and gone again."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay import errors, guard, images, kernel, mountinfo, runstate, syscalls
from overlay.differences import changes
from overlay.guard import Hold
from overlay.imageformats import format_of
from overlay.layer import Layer
from overlay.markvalues import MarkFamily
from tests.conftest import Layers
from tests.fsimages import IMAGE_PREFIX, loops, needs_filesystem
from tests.running import in_child, in_user_namespace

MAKERS = {
    "squashfs": ["mksquashfs", "{tree}", "{image}", "-quiet", "-no-progress"],
    "erofs": ["mkfs.erofs", "--quiet", "{image}", "{tree}"],
    "iso9660": ["xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", "{image}", "{tree}"],
    "ext4": ["mkfs.ext4", "-q", "-d", "{tree}", "{image}", "8M"],
    "btrfs": ["mkfs.btrfs", "-q", "--rootdir", "{tree}", "{image}"],
    "xfs": ["mkfs.xfs", "-q", "-p", "{proto}", "{image}"],
}
SIZES = {"btrfs": 120 << 20, "xfs": 320 << 20}


@pytest.fixture
def scratch(root: None) -> Iterator[Path]:
    """A place for images whose loop devices are watched for leaks."""
    with tempfile.TemporaryDirectory(prefix=IMAGE_PREFIX, dir="/dev/shm") as path:
        yield Path(path)


def make_image(kind: str, scratch: Path, name: str = "image") -> Path:
    """An image of ``kind`` that holds one file; the name says nothing of the kind."""
    needs_filesystem(kind)
    return made_image(kind, scratch, name)


def made_image(kind: str, scratch: Path, name: str = "image") -> Path:
    if shutil.which(MAKERS[kind][0]) is None:
        pytest.skip(f"needs: {MAKERS[kind][0]}")
    tree, image, proto = scratch / f"{name}.tree", scratch / name, scratch / f"{name}.proto"
    tree.mkdir()
    (tree / "file").write_text("bottom")
    # mkfs.xfs takes no directory, only a list of what to copy.
    proto.write_text(f"/\n0 0\nd--755 0 0\nfile ---644 0 0 {tree}/file\n$\n$\n")
    if kind in SIZES:
        with image.open("wb") as file:
            file.truncate(SIZES[kind])
    words = [word.format(tree=tree, image=image, proto=proto) for word in MAKERS[kind]]
    subprocess.run(words, check=True, capture_output=True)
    return image


def loops_on(image: Path) -> list[str]:
    return [name for name, attached in loops().items() if attached == str(image)]


def overlay_of(image: Path, layers: Layers, name: str = "top") -> kernel.Overlay:
    (layers.base / name).mkdir(exist_ok=True)
    return kernel.Overlay((str(image),), str(layers.base / name))


@pytest.mark.parametrize("kind", ["squashfs", "erofs", "ext4", "xfs", "btrfs", "iso9660"])
def test_an_image_is_a_bottom(kind: str, scratch: Path, layers: Layers) -> None:
    image = make_image(kind, scratch)
    before = image.read_bytes() if image.stat().st_size < 1 << 24 else b""
    with kernel.mounted(overlay_of(image, layers), str(layers.mnt)):
        assert (layers.mnt / "file").read_text() == "bottom"
        (layers.mnt / "file").write_text("changed")
        (bottom,) = mountinfo.overlay_at(layers.mnt).bottoms
        state = guard.assess(bottom)
        assert (state.image, state.fstype) == (str(image), kind)
        assert state.hold is (Hold.DEVICE if kind in ("ext4", "xfs", "btrfs") else Hold.FORMAT)
        assert state.really_read_only
        assert len(loops_on(image)) == 1
    assert loops_on(image) == []
    assert (layers.top / "file").read_text() == "changed"
    assert not before or image.read_bytes() == before


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_the_format_is_told_by_the_contents(kind: str, scratch: Path) -> None:
    image = made_image(kind, scratch, "image.misleading.iso.squashfs")
    with image.open("rb") as file:
        assert format_of(file.fileno(), str(image)) == kind


def test_umount_of_the_system_leaves_nothing(scratch: Path, layers: Layers) -> None:
    image = make_image("erofs", scratch)
    kernel.mount(overlay_of(image, layers), str(layers.mnt))
    assert loops_on(image)
    subprocess.run(["umount", str(layers.mnt)], check=True)
    assert loops_on(image) == []
    assert os.listdir(f"{runstate.DIRECTORY}/images") == []


def test_a_killed_holder_leaves_nothing(scratch: Path, layers: Layers) -> None:
    """The overlay is held by a descriptor only; the process that has it gets SIGKILL."""
    image = make_image("erofs", scratch)
    overlay = overlay_of(image, layers)
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            kernel.open_overlay(overlay)
            os.write(tell, b"!")
            os.read(os.pipe()[0], 1)  # for ever
        finally:
            os._exit(1)
    os.close(tell)
    try:
        assert os.read(ready, 1) == b"!"
        assert len(loops_on(image)) == 1
    finally:
        os.close(ready)
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert loops_on(image) == []


def test_overlays_share_the_device_and_its_cache(scratch: Path, layers: Layers) -> None:
    """L442–L444: one bottom serves many overlays."""
    image = make_image("erofs", scratch)
    trees = [kernel.open_overlay(overlay_of(image, layers, f"top{n}")) for n in range(5)]
    try:
        assert len(loops_on(image)) == 1
        os.close(trees.pop(0))  # the device stays for the others
        fd = os.open("file", os.O_RDONLY, dir_fd=trees[-1])
        assert os.read(fd, 100) == b"bottom"
        os.close(fd)
    finally:
        for tree in trees:
            os.close(tree)
    assert loops_on(image) == []


def test_a_writable_loop_of_another_is_not_shared(scratch: Path, layers: Layers) -> None:
    image = make_image("ext4", scratch)
    with image.open("rb+") as file:
        device, name = syscalls.loop_attach(file.fileno(), read_only=False)
    try:
        with kernel.mounted(overlay_of(image, layers), str(layers.mnt)):
            (bottom,) = mountinfo.overlay_at(layers.mnt).bottoms
            assert Path(bottom).name != Path(name).name
            assert guard.assess(bottom).hold is Hold.DEVICE
    finally:
        os.close(device)


def test_image_and_directory_stack(scratch: Path, layers: Layers) -> None:
    image = make_image("squashfs", scratch)
    other = make_image("erofs", scratch, "other")
    (layers.bottom / "plain").write_text("directory")
    overlay = kernel.Overlay((str(image), str(layers.bottom), str(other)), str(layers.top))
    with kernel.mounted(overlay, str(layers.mnt)):
        assert sorted(os.listdir(layers.mnt)) == ["file", "plain"]
        states = [guard.assess(path) for path in mountinfo.overlay_at(layers.mnt).bottoms]
    assert [state.fstype for state in states] == ["squashfs", "tmpfs", "erofs"]


def test_awkward_image_names(scratch: Path, layers: Layers) -> None:
    made = make_image("erofs", scratch)
    for name in (b"co:lon,com ma", b"new\nline", b"back\\slash", b"\xff\xfe"):
        image = scratch / os.fsdecode(name)
        shutil.copy(made, image)
        with kernel.mounted(overlay_of(image, layers), str(layers.mnt)):
            (bottom,) = mountinfo.overlay_at(layers.mnt).bottoms
            assert guard.assess(bottom).image == str(image)


def test_the_layer_verbs_read_images(scratch: Path, layers: Layers) -> None:
    """By the image's path, and by the name that mountinfo has of it."""
    image = make_image("erofs", scratch)
    with kernel.mounted(overlay_of(image, layers), str(layers.mnt)):
        (layers.mnt / "file").unlink()
        (recorded,) = mountinfo.overlay_at(layers.mnt).bottoms
        for path in (recorded, str(image)):
            with Layer.open(str(layers.top)) as top, Layer.open(path, private=True) as bottom:
                found = [
                    (change.kind, change.path)
                    for change in changes.diff(top, [bottom], MarkFamily("trusted"))
                ]
            assert found == [(changes.Kind.DELETED, b"file")]
    assert loops_on(image) == []


def test_a_block_device_is_a_bottom_and_is_held(scratch: Path, layers: Layers) -> None:
    image = make_image("ext4", scratch)
    with image.open("rb+") as file:
        device, name = syscalls.loop_attach(file.fileno(), read_only=False)
    try:
        overlay = kernel.Overlay((name,), str(layers.top))
        with kernel.mounted(overlay, str(layers.mnt)):
            assert (layers.mnt / "file").read_text() == "bottom"
            assert syscalls.blkroget(device)
            state = guard.assess(mountinfo.overlay_at(layers.mnt).bottoms[0])
            assert (state.hold, state.image) == (Hold.DEVICE, str(image))
        assert not syscalls.blkroget(device)
    finally:
        os.close(device)


def test_a_device_mounted_read_write_is_refused(scratch: Path, layers: Layers) -> None:
    image = make_image("ext4", scratch)
    place = scratch / "place"
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        (loop,) = loops_on(image)
        with pytest.raises(errors.Refused, match="is mounted read-write"):
            kernel.open_overlay(kernel.Overlay((f"/dev/{loop}",), str(layers.top)))
        assert Path(f"/sys/block/{loop}/ro").read_text() == "0\n"
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\x1f\x8b", "compressed with gzip"),
        (b"QFI\xfb", "a qcow2 disk"),
        (bytes(510) + b"\x55\xaa", "a disk with partitions"),
        (b"nothing", "is not a directory, nor an image of a known format"),
        (b"", "is not a directory, nor an image of a known format"),
    ],
)
def test_what_is_no_image_is_named(start: bytes, words: str, scratch: Path, layers: Layers) -> None:
    image = scratch / "image"
    image.write_bytes(start)
    with pytest.raises(errors.UsageError, match=words):
        kernel.open_overlay(overlay_of(image, layers))
    assert loops_on(image) == []
    assert not layers.base.joinpath("top.work", "work").exists()


def test_a_damaged_image_is_named(scratch: Path, layers: Layers) -> None:
    image = make_image("squashfs", scratch)
    image.write_bytes(image.read_bytes()[:96])
    with pytest.raises(errors.OperationFailed, match=r"squashfs on .* cannot be mounted"):
        kernel.open_overlay(overlay_of(image, layers))
    assert loops_on(image) == []


def test_a_file_system_the_kernel_lacks_is_named(scratch: Path, layers: Layers) -> None:
    magics = {
        "iso9660": bytes(32769) + b"CD001",
        "romfs": b"-rom1fs-",
        "cramfs": b"\x45\x3d\xcd\x28",
    }
    for kind, magic in magics.items():
        try:
            os.close(syscalls.fsopen(kind))
        except OSError:
            image = scratch / "image"
            image.write_bytes(magic.ljust(65536, b"\0"))
            with pytest.raises(errors.EnvironmentLacks, match=f"{kind}, which this kernel lacks"):
                kernel.open_overlay(overlay_of(image, layers))
            return
    pytest.skip("needs: a kernel without iso9660, romfs or cramfs")


def test_a_journal_to_replay_is_named(scratch: Path, layers: Layers) -> None:
    """The read-only device keeps ext4 from replaying it, as it must."""
    image = make_image("ext4", scratch)
    place = scratch / "place"
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        (place / "new").write_text("in the journal")
        subprocess.run(["sync", "-f", str(place)], check=True)
        torn = scratch / "torn"
        shutil.copy(image, torn)  # as after a crash
    finally:
        subprocess.run(["umount", str(place)], check=True)
    with pytest.raises(errors.Refused, match="was not unmounted in order"):
        kernel.open_overlay(overlay_of(torn, layers))
    assert loops_on(torn) == []


def test_without_loop_devices_that_is_said(scratch: Path, layers: Layers) -> None:
    # Not on /dev/shm, which is hidden below.
    image = Path(shutil.copy(make_image("erofs", scratch), layers.base / "image"))

    def without() -> object:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
        syscalls.mount("none", "/dev", "tmpfs", 0, None)
        return kernel.open_overlay(overlay_of(image, layers))

    assert "EnvironmentLacks" in (said := in_child(without))
    assert "this machine has no loop devices" in said


def test_in_a_user_namespace_privilege_is_named(scratch: Path, layers: Layers) -> None:
    image = make_image("erofs", scratch)
    scratch.chmod(0o755)
    for path in (image, layers.top):
        os.chown(path, 65534, 65534)
    (layers.base / "mine").mkdir()
    os.chown(layers.base, 65534, 65534)
    for above in layers.base.parents:
        if not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o001)
    said = in_user_namespace(lambda: kernel.open_overlay(overlay_of(image, layers)))
    assert said.startswith("NoPrivilege: "), said
    assert loops_on(image) == []


def test_what_a_crash_left_of_a_name_is_no_obstacle(scratch: Path, layers: Layers) -> None:
    image = make_image("erofs", scratch)
    names = Path(runstate.DIRECTORY, "images")
    names.mkdir(parents=True, exist_ok=True)
    left = [names / f"loop{number}" for number in range(64)]
    left = [name for name in left if not name.is_symlink()]
    for name in left:
        name.symlink_to("/proc/self/fd/99999")
    try:
        with kernel.mounted(overlay_of(image, layers), str(layers.mnt)):
            assert (layers.mnt / "file").read_text() == "bottom"
            (recorded,) = mountinfo.overlay_at(layers.mnt).bottoms
            assert not os.path.lexists(recorded)
    finally:
        for name in left:
            name.unlink(missing_ok=True)


def test_kernels_that_want_a_place_for_each_layer(
    scratch: Path, layers: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 6.15 a layer had to be on an attached mount: it is, while it is looked up."""
    image = make_image("erofs", scratch)
    monkeypatch.setattr(images, "_takes_detached_mounts", lambda: False)
    before = mountinfo.read()
    with kernel.mounted(overlay_of(image, layers), str(layers.mnt)):
        assert (layers.mnt / "file").read_text() == "bottom"
        assert [entry.fstype for entry in mountinfo.read() if entry not in before] == ["overlay"]
        assert os.listdir(f"{runstate.DIRECTORY}/images") == []
    assert loops_on(image) == []
