"""The kernel driver: what it mounts keeps its promises, and what it refuses leaves nothing."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay import errors, kernel, mountinfo, syscalls
from overlay.kernel import Overlay
from overlay.profiles import PROFILES
from tests.conftest import Layers, make_layers
from tests.fsimages import loop_filesystem, tmpfs
from tests.running import in_child, in_user_namespace

#: Names that mount(8), the option parser or mountinfo treat specially, and plain bytes.
AWKWARD_NAMES = [
    b"co:lon",
    b"com,ma",
    b"bl ank",
    b"new\nline",
    b"back\\slash",
    b"\xff\xfe",
    b"t\tab",
]


def overlay_of(layers: Layers, **changes: object) -> Overlay:
    settings = {"bottoms": (str(layers.bottom),), "top": str(layers.top), **changes}
    return Overlay(**settings)  # type: ignore[arg-type]


def listing(directory: Path) -> dict[str, tuple[int, ...]]:
    """Everything below ``directory``: path to (mode, size, mtime)."""
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(directory.rglob("*")):
        info = path.lstat()
        found[str(path)] = (info.st_mode, info.st_size, info.st_mtime_ns)
    return found


@pytest.fixture
def unchanged(layers: Layers) -> Iterator[Layers]:
    """Layers without a work directory; fails when the test leaves anything mounted or made."""
    layers.work.rmdir()
    before = mountinfo.read(), listing(layers.base)
    yield layers
    assert (mountinfo.read(), listing(layers.base)) == before


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_writes_go_to_the_top_and_the_bottom_stays(layers: Layers, profile: str) -> None:
    (layers.bottom / "file").write_text("from the bottom")
    before = listing(layers.bottom)
    with kernel.mounted(overlay_of(layers, profile=profile), str(layers.mnt)):
        assert (layers.mnt / "file").read_text() == "from the bottom"
        (layers.mnt / "file").write_text("changed")
        (layers.mnt / "new").write_text("new")
    assert listing(layers.bottom) == before
    assert (layers.top / "file").read_text() == "changed"
    assert (layers.top / "new").read_text() == "new"


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_the_mount_is_noatime_and_says_its_profile(layers: Layers, profile: str) -> None:
    with kernel.mounted(overlay_of(layers, profile=profile), str(layers.mnt)):
        mount = mountinfo.overlay_at(layers.mnt)
    assert "noatime" in mount.vfs_options
    assert mount.source == f"fallthru:{profile}"
    assert mount.top == str(layers.top)
    assert mount.bottoms == (str(layers.bottom),)


def test_document_refuses_to_rename_a_bottom_directory(layers: Layers) -> None:
    """L130, L512: renaming of directories returns EXDEV."""
    (layers.bottom / "dir").mkdir()
    with kernel.mounted(overlay_of(layers), str(layers.mnt)):
        with pytest.raises(OSError, match="cross-device") as caught:
            (layers.mnt / "dir").rename(layers.mnt / "elsewhere")
        assert caught.value.errno == errno.EXDEV


def test_fallthru_renames_directories_and_copies_metadata_alone(layers: Layers) -> None:
    (layers.bottom / "dir").mkdir()
    (layers.bottom / "big").write_bytes(b"x" * 100_000)
    with kernel.mounted(overlay_of(layers, profile="fallthru"), str(layers.mnt)):
        (layers.mnt / "dir").rename(layers.mnt / "elsewhere")
        (layers.mnt / "big").chmod(0o600)
    assert os.getxattr(layers.top / "elsewhere", "trusted.overlay.redirect") == b"dir"
    assert os.getxattr(layers.top / "big", "trusted.overlay.metacopy") == b""
    assert (layers.top / "big").stat().st_blocks == 0


def test_the_uppermost_bottom_covers_the_others(layers: Layers) -> None:
    lowest = layers.base / "lowest"
    lowest.mkdir()
    for directory, content in ((layers.bottom, "upper"), (lowest, "lowest")):
        (directory / "both").write_text(content)
    (lowest / "only").write_text("lowest")
    overlay = overlay_of(layers, bottoms=(str(layers.bottom), str(lowest)))
    with kernel.mounted(overlay, str(layers.mnt)):
        assert (layers.mnt / "both").read_text() == "upper"
        assert (layers.mnt / "only").read_text() == "lowest"
        assert mountinfo.overlay_at(layers.mnt).bottoms == overlay.bottoms


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_any_bytes_may_stand_in_paths(tmpfs_dir: Path, name: bytes) -> None:
    layers = make_layers_at(tmpfs_dir / os.fsdecode(name))
    (layers.bottom / "file").write_text("data")
    with kernel.mounted(overlay_of(layers), str(layers.mnt)):
        assert (layers.mnt / "file").read_text() == "data"
        mount = mountinfo.overlay_at(layers.mnt)
        assert mount.mount_point == str(layers.mnt)
        assert (mount.top, mount.bottoms) == (str(layers.top), (str(layers.bottom),))


def make_layers_at(base: Path) -> Layers:
    base.mkdir()
    return make_layers(base)


def test_the_work_directory_is_made_private_and_kept(layers: Layers) -> None:
    layers.work.rmdir()
    with kernel.mounted(overlay_of(layers), str(layers.mnt)):
        assert mountinfo.overlay_at(layers.mnt).work == str(layers.top) + ".work"
    assert layers.work.stat().st_mode & 0o777 == 0o700
    with kernel.mounted(overlay_of(layers), str(layers.mnt)):
        pass  # and the same top mounts again


def test_a_top_may_be_mounted_over_its_bottom_in_place(layers: Layers) -> None:
    """L230: the top is mounted at the same mount point as the bottom."""
    with tmpfs(layers.bottom):
        (layers.bottom / "file").write_text("bottom")
        with kernel.mounted(overlay_of(layers), str(layers.bottom)):
            (layers.bottom / "file").write_text("changed")
        assert (layers.bottom / "file").read_text() == "bottom"


def test_a_detached_overlay_is_invisible_and_dies_with_its_descriptor(layers: Layers) -> None:
    (layers.bottom / "file").write_text("data")
    before = mountinfo.read()
    tree = kernel.open_overlay(overlay_of(layers))
    try:
        assert mountinfo.read() == before
        fd = os.open("file", os.O_RDONLY, dir_fd=tree)
        assert os.read(fd, 10) == b"data"
        os.close(fd)
        with pytest.raises(errors.TopInUse, match="cannot be seen from here"):
            kernel.mount(overlay_of(layers), str(layers.mnt))
    finally:
        os.close(tree)
    kernel.mount(overlay_of(layers), str(layers.mnt))
    kernel.unmount(str(layers.mnt))


# ------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("role", ["bottom", "top"])
def test_a_missing_layer_is_named(unchanged: Layers, role: str) -> None:
    gone = str(unchanged.base / "gone")
    overlay = overlay_of(unchanged, **({"bottoms": (gone,)} if role == "bottom" else {"top": gone}))
    with pytest.raises(errors.UsageError, match=f"the {role} {gone} does not exist"):
        kernel.mount(overlay, str(unchanged.mnt))


def test_a_file_as_layer_is_named(unchanged: Layers) -> None:
    with pytest.raises(errors.UsageError, match="the bottom /etc/passwd is not a directory"):
        kernel.mount(overlay_of(unchanged, bottoms=("/etc/passwd",)), str(unchanged.mnt))


def test_a_missing_mount_point_is_named(unchanged: Layers) -> None:
    with pytest.raises(errors.UsageError, match="the mount point /nowhere/at/all does not exist"):
        kernel.mount(overlay_of(unchanged), "/nowhere/at/all")


@pytest.mark.parametrize(
    ("bottom", "top", "words"),
    [
        ("a", "a", "is the same directory as"),
        ("a", "a/top", "lies in"),
        ("a/bottom", "a", "contains"),
    ],
)
def test_overlapping_layers_are_refused(
    unchanged_base: Path, bottom: str, top: str, words: str
) -> None:
    base = unchanged_base
    overlay = Overlay((str(base / bottom),), str(base / top), work=str(base / "work"))
    with pytest.raises(errors.UsageError, match=words):
        kernel.mount(overlay, str(base / "mnt"))


@pytest.fixture
def unchanged_base(tmpfs_dir: Path) -> Iterator[Path]:
    for name in ("a", "a/top", "a/bottom", "mnt", "work"):
        (tmpfs_dir / name).mkdir()
    before = mountinfo.read(), listing(tmpfs_dir)
    yield tmpfs_dir
    assert (mountinfo.read(), listing(tmpfs_dir)) == before


def test_a_work_directory_inside_the_top_is_refused(unchanged: Layers) -> None:
    inside = unchanged.top / "work"
    with pytest.raises(errors.UsageError, match="overlap"):
        kernel.mount(overlay_of(unchanged, work=str(inside)), str(unchanged.mnt))
    assert not inside.exists()


def test_a_bottom_used_twice_is_refused(unchanged: Layers) -> None:
    overlay = overlay_of(unchanged, bottoms=(str(unchanged.bottom),) * 2)
    with pytest.raises(errors.UsageError, match="overlap, or one is used twice"):
        kernel.mount(overlay, str(unchanged.mnt))


def test_a_top_in_use_is_refused_and_its_owner_named(layers: Layers) -> None:
    """L437–L438, L482: the top may be mounted exactly once."""
    second = layers.base / "second"
    second.mkdir()
    with kernel.mounted(overlay_of(layers), str(layers.mnt)):
        with pytest.raises(errors.TopInUse, match=str(layers.mnt)) as caught:
            kernel.mount(overlay_of(layers), str(second))
        assert caught.value.exit_code == 4


def test_a_top_in_use_by_plain_overlayfs_is_refused(layers: Layers) -> None:
    options = f"lowerdir={layers.bottom},upperdir={layers.top},workdir={layers.work},index=off"
    subprocess.run(["mount", "-t", "overlay", "plain", "-o", options, str(layers.mnt)], check=True)
    try:
        second = layers.base / "second"
        second.mkdir()
        with pytest.raises(errors.TopInUse, match=str(layers.mnt)):
            kernel.mount(overlay_of(layers), str(second))
    finally:
        syscalls.umount2(layers.mnt)


def test_a_busy_mount_point_is_refused(unchanged: Layers) -> None:
    with tmpfs(unchanged.mnt), pytest.raises(errors.MountPointBusy, match="mounted at"):
        kernel.mount(overlay_of(unchanged), str(unchanged.mnt))


def test_a_top_made_for_other_bottoms_is_refused(layers: Layers) -> None:
    with kernel.mounted(overlay_of(layers), str(layers.mnt)):
        (layers.mnt / "file").write_text("mine")
    other = layers.base / "other"
    other.mkdir()
    with pytest.raises(errors.Refused, match="made for other bottoms"):
        kernel.mount(overlay_of(layers, bottoms=(str(other),)), str(layers.mnt))
    assert (layers.top / "file").read_text() == "mine"


def test_a_throwaway_top_is_not_mounted_again(layers: Layers) -> None:
    with kernel.mounted(overlay_of(layers, profile="throwaway"), str(layers.mnt)):
        (layers.mnt / "file").write_text("lost after a crash")
    with pytest.raises(errors.Refused, match="throwaway"):
        kernel.mount(overlay_of(layers), str(layers.mnt))


def test_a_read_only_top_is_refused(tmpfs_dir: Path) -> None:
    (tmpfs_dir / "bottom").mkdir()
    (tmpfs_dir / "mnt").mkdir()
    with loop_filesystem("ext4", read_only=True) as top:
        overlay = Overlay((str(tmpfs_dir / "bottom"),), str(top), work=str(tmpfs_dir / "work"))
        with pytest.raises(errors.UsageError, match="read-only file system"):
            kernel.mount(overlay, str(tmpfs_dir / "mnt"))
    assert not (tmpfs_dir / "work").exists()


def test_a_top_without_xattrs_is_refused(tmpfs_dir: Path) -> None:
    for name in ("bottom", "ramfs", "mnt"):
        (tmpfs_dir / name).mkdir()
    syscalls.mount("none", tmpfs_dir / "ramfs", "ramfs", 0, None)
    try:
        (tmpfs_dir / "ramfs/top").mkdir()
        overlay = Overlay((str(tmpfs_dir / "bottom"),), str(tmpfs_dir / "ramfs/top"))
        with pytest.raises(errors.EnvironmentLacks, match="extended attributes") as caught:
            kernel.mount(overlay, str(tmpfs_dir / "mnt"))
        assert caught.value.exit_code == 3
        assert not (tmpfs_dir / "ramfs/top.work").exists()
    finally:
        syscalls.umount2(tmpfs_dir / "ramfs")


def test_what_one_file_system_can_do_is_not_believed_of_the_next(tmpfs_dir: Path) -> None:
    """The kernel gives the device number of an unmounted file system to the next one."""
    for name in ("bottom", "place", "mnt"):
        (tmpfs_dir / name).mkdir()
    overlay = Overlay((str(tmpfs_dir / "bottom"),), str(tmpfs_dir / "place/top"))
    with tmpfs(tmpfs_dir / "place"):
        (tmpfs_dir / "place/top").mkdir()
        device = (tmpfs_dir / "place").stat().st_dev
        with kernel.mounted(overlay, str(tmpfs_dir / "mnt")):
            pass
    syscalls.mount("none", tmpfs_dir / "place", "ramfs", 0, None)
    try:
        (tmpfs_dir / "place/top").mkdir()
        if (tmpfs_dir / "place").stat().st_dev != device:
            pytest.skip("needs: a device number that is given out again")
        with pytest.raises(errors.EnvironmentLacks, match="extended attributes"):
            kernel.mount(overlay, str(tmpfs_dir / "mnt"))
    finally:
        syscalls.umount2(tmpfs_dir / "place")


def test_a_top_that_is_a_file_systems_root_needs_a_directory(tmpfs_dir: Path) -> None:
    (tmpfs_dir / "bottom").mkdir()
    (tmpfs_dir / "mnt").mkdir()
    with loop_filesystem("ext2") as top:
        overlay = Overlay((str(tmpfs_dir / "bottom"),), str(top))
        with pytest.raises(errors.UsageError, match="not on the top's file system") as caught:
            kernel.mount(overlay, str(tmpfs_dir / "mnt"))
        assert "a directory in it" in (caught.value.hint or "")
        assert not Path(f"{top}.work").exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [(("bogus", "1"), "Unknown parameter 'bogus'"), (("metacopy", "maybe"), "Bad value")],
)
def test_the_kernels_own_words_explain_a_bad_option(
    unchanged: Layers, option: tuple[str, str], words: str
) -> None:
    with pytest.raises(errors.UsageError, match=words):
        kernel.mount(overlay_of(unchanged, options=(option,)), str(unchanged.mnt))


def test_layers_cannot_be_smuggled_in_as_options(unchanged: Layers) -> None:
    with pytest.raises(errors.UsageError, match="names a layer"):
        kernel.mount(overlay_of(unchanged, options=(("upperdir", "/"),)), str(unchanged.mnt))


def test_an_unknown_profile_is_named(unchanged: Layers) -> None:
    with pytest.raises(errors.UsageError, match="'loose'"):
        kernel.mount(overlay_of(unchanged, profile="loose"), str(unchanged.mnt))


def test_a_bottom_that_may_change_is_refused_when_asked(unchanged: Layers) -> None:
    """L259–L263–L264: that it is read-only now is no promise; tmpfs has no handle to make one."""
    with pytest.raises(errors.Refused, match="may change while the overlay is mounted"):
        kernel.mount(overlay_of(unchanged, require_read_only=True), str(unchanged.mnt))


def test_a_bottom_on_a_read_only_device_is_taken_when_asked(layers: Layers) -> None:
    with loop_filesystem("ext4", read_only=True) as bottom:
        overlay = overlay_of(layers, bottoms=(str(bottom),), require_read_only=True)
        with kernel.mounted(overlay, str(layers.mnt)):
            assert (layers.mnt / "lost+found").is_dir()


# ------------------------------------------------------------------ stubs and profiles


def test_a_top_with_file_fallthrus_is_refused_by_document(layers: Layers) -> None:
    (layers.bottom / "dir").mkdir()
    (layers.bottom / "dir/big").write_bytes(b"x" * 5000)
    with kernel.mounted(overlay_of(layers, profile="fallthru"), str(layers.mnt)):
        (layers.mnt / "dir/big").chmod(0o600)
    with pytest.raises(errors.UnreadableTop, match="dir/big") as caught:
        kernel.mount(overlay_of(layers), str(layers.mnt))
    assert "--profile fallthru" in (caught.value.hint or "")
    with kernel.mounted(overlay_of(layers, profile="fallthru"), str(layers.mnt)):
        assert (layers.mnt / "dir/big").read_bytes() == b"x" * 5000


def test_a_top_that_plain_overlayfs_gave_stubs_is_refused_too(layers: Layers) -> None:
    """Nothing was recorded by us, so the top is looked through before its first mount."""
    (layers.bottom / "big").write_bytes(b"x" * 5000)
    options = f"lowerdir={layers.bottom},upperdir={layers.top},workdir={layers.work},metacopy=on"
    subprocess.run(["mount", "-t", "overlay", "plain", "-o", options, str(layers.mnt)], check=True)
    (layers.mnt / "big").chmod(0o600)
    syscalls.umount2(layers.mnt)
    with pytest.raises(errors.UnreadableTop, match="big"):
        kernel.mount(overlay_of(layers), str(layers.mnt))


# ------------------------------------------------------------------------- unmounting


def test_unmount_refuses_what_is_no_overlay(layers: Layers) -> None:
    with pytest.raises(errors.UsageError, match="not a mount point"):
        kernel.unmount(str(layers.mnt))
    with (
        tmpfs(layers.mnt),
        pytest.raises(errors.UsageError, match="another file system is mounted"),
    ):
        kernel.unmount(str(layers.mnt))
    with pytest.raises(errors.UsageError, match="no overlay at /nowhere"):
        kernel.unmount("/nowhere")


def test_a_busy_overlay_names_who_uses_it(layers: Layers) -> None:
    kernel.mount(overlay_of(layers), str(layers.mnt))
    with subprocess.Popen(["cat"], cwd=layers.mnt, stdin=subprocess.PIPE) as user:
        with pytest.raises(errors.MountPointBusy, match=rf"cat \({user.pid}\)"):
            kernel.unmount(str(layers.mnt))
        kernel.unmount(str(layers.mnt), lazy=True)
        assert not os.path.ismount(layers.mnt)
        user.communicate()


def test_a_mount_inside_is_named(layers: Layers) -> None:
    (layers.bottom / "inner").mkdir()
    busy = pytest.raises(errors.MountPointBusy, match="inner is mounted in it")
    with kernel.mounted(overlay_of(layers), str(layers.mnt)), tmpfs(layers.mnt / "inner"), busy:
        kernel.unmount(str(layers.mnt))


# ------------------------------------------------------------------- without privilege


@pytest.fixture
def users_layers(root: None) -> Iterator[Layers]:
    """Layers that belong to nobody (65534), on a tmpfs that everybody can reach."""
    with tempfile.TemporaryDirectory(prefix="fallthru-test-", dir="/dev/shm") as scratch:
        Path(scratch).chmod(0o755)
        with tmpfs(Path(scratch)):
            layers = make_layers(Path(scratch))
            for directory in (layers.base, layers.bottom, layers.top, layers.work, layers.mnt):
                os.chown(directory, 65534, 65534)
            yield layers


def test_an_ordinary_user_is_told_what_is_missing(users_layers: Layers) -> None:
    def attempt() -> None:
        os.setresuid(65534, 65534, 65534)
        kernel.mount(overlay_of(users_layers), str(users_layers.mnt))

    said = in_child(attempt)
    assert said.startswith("NoPrivilege: mounting an overlay needs privilege")


def test_a_user_namespace_mounts_with_user_marks(users_layers: Layers) -> None:
    layers = users_layers
    (layers.bottom / "file").write_text("bottom")

    def use() -> str:
        with kernel.mounted(overlay_of(layers), str(layers.mnt)):
            mount = mountinfo.overlay_at(layers.mnt)
            (layers.mnt / "file").unlink()
            (layers.mnt / "file").mkdir()
        return f"{mount.family} {os.getxattr(layers.top / 'file', 'user.overlay.opaque')!r}"

    assert in_user_namespace(use) == "user b'y'"


def test_the_fallthru_profile_is_refused_in_a_user_namespace(users_layers: Layers) -> None:
    def attempt() -> None:
        kernel.mount(overlay_of(users_layers, profile="fallthru"), str(users_layers.mnt))

    said = in_user_namespace(attempt)
    assert said == "EnvironmentLacks: the fallthru profile cannot be used in a user namespace"


# ------------------------------------------------------------------------ description


def test_describe_is_a_command_that_mount_accepts(layers: Layers) -> None:
    (layers.bottom / "file").write_text("data")
    command = overlay_of(layers).describe(str(layers.mnt))
    subprocess.run(["sh", "-c", command], check=True)
    try:
        assert (layers.mnt / "file").read_text() == "data"
        by_command = mountinfo.overlay_at(layers.mnt)
    finally:
        kernel.unmount(str(layers.mnt))
    with kernel.mounted(overlay_of(layers), str(layers.mnt)):
        by_us = mountinfo.overlay_at(layers.mnt)
    assert by_command.source == by_us.source
    for option in ("redirect_dir", "metacopy", "index", "xino"):
        assert by_command.options.get(option) == by_us.options.get(option)
