"""Check has nothing to say about tops that the kernel wrote, however rich their history."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay import kernel, syscalls
from overlay.checking import pool as checkpool
from overlay.checking.check import Suspect, check, suspect_at
from overlay.checking.repair import repair
from overlay.checking.work import handle_of
from overlay.errors import FallthruError, Refused, TopInUse, UsageError
from overlay.inuse import top_in_use
from overlay.kernel import Overlay
from overlay.marks import MarkFamily, set_opaque, write_fallthru
from tests.conftest import Layers, make_layers
from tests.fsimages import loop_filesystem, tmpfs
from tests.overlay.plants import populate, stub, visible, whiteout, xattr
from tests.running import in_child, in_user_namespace

PROFILES = ["document", "fallthru", "throwaway"]


def overlay_of(layers: Layers, profile: str, *more: Path) -> Overlay:
    bottoms = (*map(str, more), str(layers.bottom))
    return Overlay(bottoms, str(layers.top), profile=profile)


def bottom_tree(bottom: Path) -> None:
    for directory in ("a", "a/b", "a/b/c", "d", "d/e", "f"):
        (bottom / directory).mkdir()
        for name in ("one", "two"):
            (bottom / directory / name).write_text(f"{directory}/{name}" * 50)
    (bottom / "link").symlink_to("a/one")
    (bottom / "a" / "hard").hardlink_to(bottom / "d" / "one")
    os.mkfifo(bottom / "d" / "fifo")


def live_a_little(mnt: Path, directories_rename: bool) -> None:
    """Every way to change a union, once."""
    (mnt / "a/one").write_text("changed")
    (mnt / "a/two").chmod(0o600)
    os.chown(mnt / "a/b/one", 1, 1)
    os.setxattr(mnt / "a/b/two", "user.colour", b"red")
    (mnt / "a/hard").write_text("changed by one of its names")
    (mnt / "d/two").unlink()
    (mnt / "d/fifo").rename(mnt / "d/pipe")
    (mnt / "link").unlink()
    (mnt / "link").mkdir()
    subprocess.run(["rm", "-r", str(mnt / "d/e")], check=True)
    (mnt / "d/e").mkdir()
    (mnt / "d/e/one").write_text("in an opaque directory")
    (mnt / "new/deep").mkdir(parents=True)
    (mnt / "a/b/c/one").rename(mnt / "new/deep/moved")
    (mnt / "a/b/c/two").rename(mnt / "a/b/c/renamed")
    (mnt / "d/e").rename(mnt / "new/e")
    (mnt / "f/one").chmod(0o640)
    (mnt / "f/alias").hardlink_to(mnt / "f/one")
    (mnt / "f/alias").rename(mnt / "new/alias")
    (mnt / "f/two").chmod(0o640)
    (mnt / "new/two").hardlink_to(mnt / "f/two")
    (mnt / "f/two").rename(mnt / "new/two too")
    if directories_rename:
        (mnt / "a/b/c").rename(mnt / "a/b/c2")
        (mnt / "a/b").rename(mnt / "new/b")
        (mnt / "new/b/c2").rename(mnt / "c")
        (mnt / "a/b").mkdir()
        (mnt / "a/b/again").write_text("at the old place")
        (mnt / "f").rename(mnt / "f2")
        (mnt / "f2").rename(mnt / "f")


@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("profile", PROFILES)
def test_a_top_that_the_kernel_wrote_is_clean(tmp_path: Path, kind: str, profile: str) -> None:
    base = tmp_path / "fs"
    base.mkdir()
    with tmpfs(base) if kind == "tmpfs" else loop_filesystem(kind) as mount_point:
        layers = make_layers(mount_point)
        bottom_tree(layers.bottom)
        with kernel.mounted(overlay_of(layers, profile), str(layers.mnt)):
            live_a_little(layers.mnt, profile == "fallthru")
        codes = [
            each.code for each in check(Suspect(str(layers.top), (str(layers.bottom),))).findings
        ]
        # A volatile top can't be mounted again: that is what it is.
        assert codes == (["volatile"] if profile == "throwaway" else [])


NAMES = ["a", "a/b", "a/b/c", "a/one", "a/two", "a/b/one", "d", "d/e", "d/e/one", "f", "f/one"]
NAMES += ["x", "x/y", "x/y/z", "a/x", "d/a", "f/a", "f/a/b", "d/one", "a/hard", "link", "x/one"]


def random_step(mnt: Path, chance: random.Random) -> None:
    one, other = (mnt / chance.choice(NAMES) for _ in range(2))
    match chance.randrange(11):
        case 0:
            one.write_text("written")
        case 1:
            one.unlink()
        case 2:
            subprocess.run(["rm", "-rf", str(one)], check=False)
        case 3:
            one.mkdir()
        case 4 | 5 | 6:
            one.rename(other)
        case 7:
            other.hardlink_to(one)
        case 8:
            one.chmod(chance.choice([0o700, 0o755, 0o644]))
        case 9:
            syscalls.renameat2(-100, one, -100, other, syscalls.RENAME_EXCHANGE)
        case 10:
            one.symlink_to("elsewhere")


@pytest.mark.parametrize("seed", range(12))
def test_a_random_history_leaves_nothing_to_find(layers: Layers, seed: int) -> None:
    """Two mounts one after the other, the second over the first's top as its upper bottom."""
    chance = random.Random(seed)
    profile = chance.choice(["document", "fallthru"])
    bottom_tree(layers.bottom)
    middle = layers.base / "middle"
    with kernel.mounted(overlay_of(layers, profile), str(layers.mnt)):
        for _ in range(150):
            try:
                random_step(layers.mnt, chance)
            except OSError:
                continue
    assert check(Suspect(str(layers.top), (str(layers.bottom),))).findings == ()
    layers.top.rename(middle)
    subprocess.run(["rm", "-r", str(layers.work)], check=True)
    layers.top.mkdir()
    with kernel.mounted(overlay_of(layers, profile, middle), str(layers.mnt)):
        for _ in range(150):
            try:
                random_step(layers.mnt, chance)
            except OSError:
                continue
    both = (str(middle), str(layers.bottom))
    assert check(Suspect(str(layers.top), both)).findings == ()


def test_fallthrus_of_a_primed_directory_are_clean(layers: Layers) -> None:
    populate(layers)
    top = layers.top / "keep"
    top.mkdir()
    fd, below = os.open(top, os.O_RDONLY), os.open(layers.bottom / "keep", os.O_RDONLY)
    try:
        set_opaque(fd, MarkFamily.TRUSTED)
        for name in (b"a", b"b"):
            st = os.stat(name, dir_fd=below)
            write_fallthru(fd, name, st, b"/keep/" + name, MarkFamily.TRUSTED, work_fd=None)
    finally:
        os.close(fd)
        os.close(below)
    assert check(Suspect(str(layers.top), (str(layers.bottom),)), notes=True).findings == ()
    (layers.bottom / "keep" / "a").unlink()
    report = check(Suspect(str(layers.top), (str(layers.bottom),)))
    assert [(each.code, each.path) for each in report.findings] == [("stub-gone", b"keep/a")]


def mount_over_data(layers: Layers, data: Path) -> int:
    fs = syscalls.fsopen("overlay")
    try:
        syscalls.fsconfig_string(fs, "lowerdir+", layers.bottom)
        try:
            syscalls.fsconfig_string(fs, "datadir+", data)
        except OSError:
            pytest.skip("needs: data-only layers appended one by one (6.8)")
        for key, value in (("upperdir", layers.top), ("workdir", layers.work)):
            syscalls.fsconfig_string(fs, key, value)
        for key in ("metacopy", "redirect_dir", "index"):
            syscalls.fsconfig_string(fs, key, "on")
        syscalls.fsconfig_create(fs)
        return syscalls.fsmount(fs)
    finally:
        os.close(fs)


def test_data_only_bottoms_hold_data(layers: Layers) -> None:
    """Two files of a bottom share one blob, and both have new attributes on the top."""
    populate(layers)
    data = layers.base / "data"
    data.mkdir()
    (data / "blob").write_text("0123456789")
    for name in ("far", "near"):
        stub(layers.bottom / name, 10, b"/blob")
    mount = mount_over_data(layers, data)
    try:
        root = Path(f"/proc/self/fd/{mount}")
        for name in ("far", "near"):
            (root / name).chmod(0o600)
            assert (root / name).read_text() == "0123456789"
        (root / "near").rename(root / "dir" / "moved")
    finally:
        os.close(mount)
    bottoms = (str(layers.bottom),)
    assert os.getxattr(layers.top / "far", "trusted.overlay.metacopy") == b""
    assert check(Suspect(str(layers.top), bottoms, None, (str(data),))).findings == ()
    found = check(Suspect(str(layers.top), bottoms)).findings
    assert [(each.code, each.path) for each in found] == [
        ("stub-gone", b"dir/moved"),
        ("stub-gone", b"far"),
    ]


def test_a_stub_straight_into_a_data_only_bottom_has_no_data(layers: Layers) -> None:
    """The kernel follows such a redirect from a bottom only; from the top it is EIO."""
    populate(layers)
    data = layers.base / "data"
    data.mkdir()
    (data / "blob").write_text("0123456789")
    stub(layers.top / "far", 10, b"/blob")
    mount = mount_over_data(layers, data)
    try:
        with pytest.raises(OSError, match="Input/output error"):
            os.stat(f"/proc/self/fd/{mount}/far")
    finally:
        os.close(mount)
    suspect = Suspect(str(layers.top), (str(layers.bottom),), None, (str(data),))
    assert [each.code for each in check(suspect).findings] == ["stub-gone"]


def test_a_stub_over_a_stub_has_no_data(layers: Layers) -> None:
    populate(layers)
    for layer in (layers.top, layers.bottom):
        stub(layer / "empty", 6)
    assert visible(layers)["empty"] == ("error", errno.EIO)
    (found,) = check(Suspect(str(layers.top), (str(layers.bottom),))).findings
    assert (found.code, found.path) == ("stub-gone", b"empty")


def test_what_a_bottom_hides_is_nothing(layers: Layers) -> None:
    populate(layers)
    whiteout(layers.bottom / "hidden")
    whiteout(layers.top / "hidden")
    (layers.top / "moved").mkdir()
    xattr(layers.top / "moved", "redirect", b"/hidden")
    found = check(Suspect(str(layers.top), (str(layers.bottom),))).findings
    assert [(each.code, each.path) for each in found] == [
        ("whiteout-nothing", b"hidden"),
        ("redirect-gone", b"moved"),
    ]


def test_an_overlay_inside_this_one_keeps_its_marks(layers: Layers) -> None:
    populate(layers)
    (layers.top / "storage" / "layer").mkdir(parents=True)
    xattr(layers.top / "storage" / "layer", "opaque", family="user")
    xattr(layers.top / "storage" / "layer", "overlay.opaque")
    assert check(Suspect(str(layers.top), (str(layers.bottom),)), notes=True).findings == ()


def test_the_roots_of_two_file_systems_are_two_bottoms(layers: Layers) -> None:
    """Both have the same inode number, and so the same handle; the kernel sees it too."""
    with loop_filesystem("ext4") as one, loop_filesystem("ext4") as other:
        fd = os.open(one, os.O_RDONLY)
        try:
            handle = handle_of(fd)
        finally:
            os.close(fd)
        if handle is None or not handle.uuid:
            pytest.skip("needs: FS_IOC_GETFSUUID (6.9)")
        overlay = Overlay((str(one),), str(layers.top))
        with kernel.mounted(overlay, str(layers.mnt)):
            pass
        assert check(Suspect(str(layers.top), (str(one),))).findings == ()
        found = check(Suspect(str(layers.top), (str(other),))).findings
        assert [each.code for each in found] == ["root-origin"]
        with pytest.raises(FallthruError):
            kernel.mount(Overlay((str(other),), str(layers.top)), str(layers.mnt))


# ----------------------------------------------------------------- what is protected


def test_a_mounted_top_is_told_and_never_repaired(layers: Layers) -> None:
    populate(layers)
    whiteout(layers.top / "none")
    before = visible(layers)
    suspect = Suspect(str(layers.top), (str(layers.bottom),))
    # Held by a descriptor alone: mountinfo does not show it, and nobody may look there.
    tree = kernel.open_overlay(overlay_of(layers, "document"))
    try:
        assert top_in_use(str(layers.top))
        report = check(suspect)
        assert report.live
        assert [each.code for each in report.findings] == ["whiteout-nothing"]
        with pytest.raises(TopInUse):
            repair(suspect, lambda _: True)
        assert (layers.top / "none").is_char_device()
    finally:
        os.close(tree)
    assert not top_in_use(str(layers.top))
    assert repair(suspect, lambda _: True).left.findings == ()
    assert visible(layers) == before


def test_asking_whether_a_top_is_in_use_leaves_no_trace(layers: Layers) -> None:
    before = (os.listxattr(layers.top), sorted(os.listdir(layers.base)), os.stat(layers.top))
    assert not top_in_use(str(layers.top))
    after = (os.listxattr(layers.top), sorted(os.listdir(layers.base)), os.stat(layers.top))
    assert after == before


def test_the_engines_hold_on_a_top_is_respected(layers: Layers) -> None:
    populate(layers)
    fd = os.open(layers.work, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(TopInUse):
            repair(Suspect(str(layers.top), (str(layers.bottom),)), lambda _: True)
    finally:
        os.close(fd)


def test_whiteouts_are_not_taken_away_unasked_over_an_empty_bottom(layers: Layers) -> None:
    """A bottom that is not mounted is an empty directory."""
    populate(layers)
    empty = layers.base / "not-mounted"
    empty.mkdir()
    outcome = repair(Suspect(str(layers.top), (str(empty),)), lambda _: False)
    assert [each.code for each in outcome.left.findings] == ["whiteout-nothing"]
    assert (layers.top / "gone").is_char_device()


def test_whiteouts_are_not_taken_away_unasked_over_another_bottom(layers: Layers) -> None:
    populate(layers)
    visible(layers)
    other = layers.base / "other"
    other.mkdir()
    (other / "something").touch()
    outcome = repair(Suspect(str(layers.top), (str(other),)), lambda _: False)
    codes = [each.code for each in outcome.left.findings]
    assert codes == ["root-origin", "whiteout-nothing"]
    assert outcome.repaired == ()
    assert (layers.top / "gone").is_char_device()


def test_layers_that_are_not_there(layers: Layers) -> None:
    with pytest.raises(UsageError):
        check(Suspect(str(layers.base / "none"), (str(layers.bottom),)))
    with pytest.raises(UsageError):
        check(Suspect(str(layers.top), ()))
    with pytest.raises(UsageError):
        suspect_at(str(layers.mnt))
    with pytest.raises(UsageError):
        check(Suspect(str(layers.top), (str(layers.base / "none"),)))


# ------------------------------------------------------------------- hostile layers

AWKWARD = [b"new\nline", b"\xff\xfe", b"com,ma:colon", b"-n", b"n" * 255, b"#1", b"\\x41 tab\t"]


def test_awkward_names(layers: Layers) -> None:
    populate(layers)
    top = os.fsencode(layers.top)
    for name in AWKWARD:
        os.mkdir(os.path.join(top, name))
        os.mknod(os.path.join(top, name, name), stat.S_IFCHR, 0)
    suspect = Suspect(str(layers.top), (str(layers.bottom),))
    expected = sorted(name + b"/" + name for name in AWKWARD)
    assert [each.path for each in check(suspect).findings] == expected
    assert repair(suspect, lambda _: True).left.findings == ()
    assert all(os.listdir(os.path.join(top, name)) == [] for name in AWKWARD)


def test_symlinks_are_never_followed(layers: Layers) -> None:
    populate(layers)
    outside = layers.base / "outside"
    outside.mkdir()
    whiteout(outside / "none")
    (layers.top / "link").symlink_to(outside)
    (layers.bottom / "out").symlink_to("/")
    (layers.top / "moved").mkdir()
    xattr(layers.top / "moved", "redirect", b"/out/etc")
    suspect = Suspect(str(layers.top), (str(layers.bottom),))
    assert [each.code for each in check(suspect).findings] == ["redirect-gone"]
    repair(suspect, lambda _: True)
    assert (outside / "none").is_char_device()


def test_what_is_mounted_below_a_top_is_left_alone(layers: Layers) -> None:
    populate(layers)
    (layers.top / "sub").mkdir()
    with tmpfs(layers.top / "sub"):
        whiteout(layers.top / "sub" / "none")
        suspect = Suspect(str(layers.top), (str(layers.bottom),))
        assert check(suspect).findings == ()


def test_a_very_deep_tree(layers: Layers) -> None:
    depth, name = 120, "d" * 100
    fd = os.open(layers.top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.mknod("none", stat.S_IFCHR, 0, dir_fd=fd)
    os.close(fd)
    suspect = Suspect(str(layers.top), (str(layers.bottom),))
    (found,) = check(suspect).findings
    assert len(found.path) == depth * (len(name) + 1) + len("none")
    # An empty bottom: asked about, and said yes to.
    assert repair(suspect, lambda _: True).left.findings == ()
    subprocess.run(["rm", "-r", str(layers.top)], check=True)


@pytest.fixture
def shared_dir(root: None) -> Iterator[Path]:
    """A directory that ordinary users may enter and write to."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="fallthru-test-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def test_what_may_not_be_read_is_told(shared_dir: Path) -> None:
    layers = make_layers(shared_dir)
    (layers.top / "open").mkdir()
    (layers.top / "closed").mkdir(mode=0)

    def ordinary_user() -> list[tuple[str, bytes]]:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        # setuid made the process undumpable, and its /proc files root's.
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        suspect = Suspect(str(layers.top), (str(layers.bottom),), family="user")
        return [(each.code, each.path) for each in check(suspect).findings]

    assert in_child(ordinary_user) == str([("unreadable", b"closed")])


def test_trusted_marks_need_privilege(layers: Layers) -> None:
    def ordinary_user() -> object:
        os.setresuid(65534, 65534, 65534)
        return check(Suspect(str(layers.top), (str(layers.bottom),)))

    assert in_child(ordinary_user).startswith("NoPrivilege: only root may read trusted.* marks")


def test_user_marks_in_a_user_namespace(shared_dir: Path) -> None:
    """A top of an unprivileged overlay: opaque and whiteouts in the other family."""

    def unprivileged() -> str:
        home = shared_dir / "home"
        home.mkdir()
        layers = make_layers(home)
        for name in ("dir", "keep"):
            (layers.bottom / name).mkdir()
            (layers.bottom / name / "a").touch()
        with kernel.mounted(overlay_of(layers, "document"), str(layers.mnt)):
            (layers.mnt / "dir/a").unlink()
            subprocess.run(["rm", "-r", str(layers.mnt / "keep")], check=True)
            (layers.mnt / "keep").mkdir()
        suspect = Suspect(str(layers.top), (str(layers.bottom),), family="user")
        clean = check(suspect).findings
        whiteout(layers.top / "keep" / "a")
        return str((clean, [each.code for each in check(suspect).findings]))

    assert in_user_namespace(unprivileged) == "((), ['whiteout-opaque'])"


# ------------------------------------------------------------------------ processes


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_processes_finds_the_same_in_the_same_order(
    layers: Layers, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that this small a tree is handed to and fro many times.
    monkeypatch.setattr(checkpool, "_ALONE", 100)
    monkeypatch.setattr(checkpool, "_BUDGET", 200)
    expected = []
    (layers.bottom / "something").touch()
    for outer in range(40):
        for inner in range(10):
            directory = layers.top / f"{outer:02}" / f"{inner}"
            directory.mkdir(parents=True)
            for number in range(10):
                (directory / f"f{number}").touch()
            if (outer + inner) % 7 == 0:
                whiteout(directory / "none")
                expected.append(os.fsencode((directory / "none").relative_to(layers.top)))
    report = check(Suspect(str(layers.top), (str(layers.bottom),)), workers=workers)
    assert [each.path for each in report.findings] == sorted(expected)
    assert report.entries == 40 * (1 + 10 * 11) + len(expected)


def test_the_working_directory_stays(layers: Layers) -> None:
    populate(layers)
    before = Path.cwd()
    check(Suspect(str(layers.top), (str(layers.bottom),)))
    assert Path.cwd() == before


def test_a_volatile_top_is_refused_until_accepted(layers: Layers) -> None:
    populate(layers)
    with kernel.mounted(overlay_of(layers, "throwaway"), str(layers.mnt)):
        (layers.mnt / "new").write_text("perhaps lost")
    with pytest.raises(Refused):
        kernel.mount(overlay_of(layers, "document"), str(layers.mnt))
    repair(Suspect(str(layers.top), (str(layers.bottom),)), lambda _: True)
    assert visible(layers)["new"] == ("file", b"perhaps lost")
