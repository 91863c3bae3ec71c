"""What an initramfs does to mount a root, by the shells that are in one; no machine boots."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from overlay import kernel, mountinfo, profiles
from overlay.spec.filesystems import attached
from tests.conftest import Layers
from tests.fsimages import IMAGE_PREFIX, MKFS, needs_filesystem
from tests.overlay.bootstage import SHELLS, Stage
from tests.overlay.test_images import make_image
from tests.running import REPOSITORY

STATUS = f"cd {shlex.quote(str(REPOSITORY))} && {shlex.quote(sys.executable)} -m overlay status"
LAYERS = "/run/initramfs/fallthru"


@pytest.fixture
def scratch(root: None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=IMAGE_PREFIX, dir="/dev/shm") as path:
        yield Path(path)


@pytest.fixture(params=sorted(SHELLS))
def stage(request: pytest.FixtureRequest, scratch: Path) -> Stage:
    return Stage.built(scratch / "stage", request.param)


@pytest.fixture
def dash(scratch: Path) -> Stage:
    return Stage.built(scratch / "stage", "dash")


@pytest.fixture
def disks() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def pair(scratch: Path, disks: ExitStack) -> tuple[str, str]:
    """Two disks: a bottom, and one with room for a top."""
    return (
        disks.enter_context(attached(make_image("squashfs", scratch))),
        disks.enter_context(attached(disk_with(scratch, "keep"))),
    )


def disk_with(scratch: Path, name: str, *options: str, kind: str = "ext4") -> Path:
    """An image for a disk: a fresh file system."""
    needs_filesystem(kind)
    command, least = MKFS[kind]
    image = scratch / name
    with image.open("wb") as file:
        file.truncate(least << 20)
    subprocess.run([*command, *options, str(image)], check=True, capture_output=True)
    return image


def is_read_only(device: str) -> bool:
    return Path(f"/sys/block/{Path(device).name}/ro").read_text().strip() == "1"


def mounts_of(text: str) -> dict[str, mountinfo.MountEntry]:
    entries = mountinfo.parse(line.encode() for line in text.splitlines())
    return {entry.mount_point: entry for entry in entries}


@pytest.mark.parametrize("kind", ["squashfs", "erofs", "ext4", "iso9660", "xfs", "btrfs"])
def test_any_kind_of_bottom_becomes_a_root_that_can_be_written(
    dash: Stage, scratch: Path, disks: ExitStack, kind: str
) -> None:
    disk = disks.enter_context(attached(make_image(kind, scratch)))
    before = (scratch / "image").read_bytes()
    bottoms = f"bottom:{disk}"
    if kind == "xfs":  # which refuses to mount a copy beside its original, unless told otherwise
        shutil.copyfile(scratch / "image", scratch / "copy")
        bottoms += f",bottom:{disks.enter_context(attached(scratch / 'copy'))}"
    then = f"cat file; echo top >file; cat file; cat {LAYERS}/bottom.0/file {LAYERS}/top/*/*/file"
    done = dash.mount(f"fallthru=top:tmpfs,{bottoms}", then)
    assert done.stdout == "bottomtop\nbottomtop\n", done.stderr
    assert (scratch / "image").read_bytes() == before


@pytest.mark.parametrize("profile", sorted(profiles.PROFILES))
def test_the_mount_is_what_fallthru_mount_makes(
    stage: Stage, scratch: Path, layers: Layers, profile: str, disks: ExitStack
) -> None:
    """The same options, by the kernel's own account, as the program that is no shell script."""
    image = make_image("squashfs", scratch)
    disk = disks.enter_context(attached(image))
    word = f"fallthru=top:tmpfs,bottom:{disk},profile:{profile}"
    done = stage.mount(word, "cat /proc/self/mountinfo")
    booted = mounts_of(done.stdout)[str(stage.place / "root")]
    overlay = kernel.Overlay((str(image),), str(layers.top), profile=profile)
    with kernel.mounted(overlay, str(layers.mnt)):
        ours = next(each for each in mountinfo.read() if each.mount_point == str(layers.mnt))
    names = ("lowerdir", "lowerdir+", "upperdir", "workdir")

    def compared(entry: mountinfo.MountEntry) -> tuple[object, ...]:
        options = {pair for pair in entry.super_options if pair[0] not in names}
        return entry.source, set(entry.vfs_options), options

    assert compared(booted) == compared(ours)


def test_a_top_on_a_disk_is_there_at_the_next_boot(stage: Stage, pair: tuple[str, str]) -> None:
    bottom, keep = pair
    word = f"fallthru=top:{keep}:/tops/web,bottom:{bottom}"
    first = stage.mount(word, "echo kept >new; rm file; sync")
    assert first.returncode == 0, first.stderr
    second = stage.mount(word, f"ls; cat new; ls {LAYERS}/top/tops; stat -c %a {LAYERS}/top/tops/*")
    assert second.stdout.split() == ["new", "kept", "web", "web.work", "755", "700"], second.stderr


def test_without_a_path_the_top_has_a_place_of_its_own(dash: Stage, pair: tuple[str, str]) -> None:
    bottom, keep = pair
    done = dash.mount(f"fallthru=top:{keep},bottom:{bottom}", f"ls -d {LAYERS}/top/fallthru/*")
    assert done.stdout.split() == [f"{LAYERS}/top/fallthru/top{end}" for end in ("", ".work")]


def test_a_disk_is_found_by_its_label_and_bottoms_are_in_order(
    stage: Stage, scratch: Path, disks: ExitStack
) -> None:
    """Also by one that the command line could not have as it is."""
    label = f"a,b {os.getpid()}"
    disks.enter_context(attached(disk_with(scratch, "upper", "-L", label)))
    tree = scratch / "tree"
    tree.mkdir()
    (tree / "which").write_text("upper")
    (tree / "file").write_text("upper")
    upper = scratch / "upper.squashfs"
    subprocess.run(["mksquashfs", tree, upper, "-quiet", "-no-progress"], check=True)
    keep = disks.enter_context(attached(upper))
    lower = disks.enter_context(attached(make_image("squashfs", scratch, "lower")))
    word = f"fallthru=top:LABEL=a\\054b\\040{os.getpid()},bottom:{keep},bottom:{lower}"
    done = stage.mount(word, "cat file which; cat /proc/self/mountinfo")
    assert done.stdout.startswith("upperupper"), done.stderr
    overlay = mountinfo.overlays(mounts_of(done.stdout[10:]).values())[-1]
    assert overlay.bottoms == (f"{LAYERS}/bottom.0", f"{LAYERS}/bottom.1")


def test_an_image_on_a_disk_is_a_bottom_also_beside_the_top(
    stage: Stage, scratch: Path, disks: ExitStack
) -> None:
    """A live stick: what it runs, and what it keeps, on one file system."""
    live = scratch / "live"
    (live / "a b").mkdir(parents=True)
    make_image("squashfs", scratch).rename(live / "a b" / "root.img")
    disk = disks.enter_context(attached(disk_with(scratch, "disk", "-d", str(live))))
    word = f"fallthru=top:{disk},bottom:{disk}:/a\\040b/root.img"
    then = f"cat file; echo top >file; cat {LAYERS}/top/fallthru/top/file; losetup -nO BACK-FILE"
    done = stage.mount(word, then)
    assert done.stdout.startswith("bottomtop\n"), done.stderr
    assert "root.img" in done.stdout
    assert not is_read_only(disk)
    # On a disk of its own, that disk is held as well.
    alone = stage.mount(f"fallthru=top:tmpfs,bottom:{disk}:/a\\040b/root.img", "cat file")
    assert alone.stdout == "bottom", alone.stderr
    assert is_read_only(disk)


def test_a_directory_on_a_disk_is_a_bottom(dash: Stage, scratch: Path, disks: ExitStack) -> None:
    tree = scratch / "tree"
    (tree / "systems/web").mkdir(parents=True)
    (tree / "systems/web/file").write_text("web")
    disk = disks.enter_context(attached(disk_with(scratch, "disk", "-d", str(tree))))
    done = dash.mount(f"fallthru=top:tmpfs,bottom:{disk}:/systems/web", "ls; cat file")
    assert done.stdout == "file\nweb", done.stderr


def test_the_bottom_is_held_and_status_tells(dash: Stage, scratch: Path, disks: ExitStack) -> None:
    """The kernel refuses to write to it, and what was done is noted as fallthru itself does."""
    disk = disks.enter_context(attached(make_image("ext4", scratch)))
    remount = f"! mount -o remount,rw {LAYERS}/bottom.0 2>/dev/null"
    done = dash.mount(f"fallthru=top:tmpfs,bottom:{disk}", f"{remount}; {STATUS} --json")
    assert is_read_only(disk)
    # The machine may have other overlays, as a container has for its root.
    (status,) = (each for each in json.loads(done.stdout) if each["booted"])
    (bottom,) = status["bottoms"]
    assert status["profile"] == "document"
    assert status["top"] == f"{LAYERS}/top/fallthru/top"
    assert (bottom["hold"], bottom["held_by_fallthru"]) == ("device", True)
    text = dash.mount(f"fallthru=top:tmpfs,bottom:{disk}", STATUS).stdout
    assert "document, writable, the root that this machine booted on" in text


def test_systemd_does_not_remount_the_root_by_the_bottoms_fstab(
    dash: Stage, scratch: Path, disks: ExitStack
) -> None:
    mask = "/run/systemd/system.control/systemd-remount-fs.service"
    for number, (fstab, masked) in enumerate(
        (("# UUID=1 / ext4\nUUID=2 /home ext4\n", False), ("UUID=1\t/\text4\n", True))
    ):
        tree = scratch / f"tree{number}"
        (tree / "etc").mkdir(parents=True)
        (tree / "etc/fstab").write_text(fstab)
        image = disk_with(scratch, f"disk{number}", "-d", str(tree))
        disk = disks.enter_context(attached(image))
        done = dash.mount(f"fallthru=top:tmpfs,bottom:{disk}", f"readlink {mask} || echo none")
        assert done.stdout.strip() == ("/dev/null" if masked else "none"), done.stderr


#: Counts the mounts before and after, and lists what is left in /run.
COUNTED = """
code=0
grep -c . /proc/self/mountinfo
"$@" || code=$?
grep -c . /proc/self/mountinfo
find /run -mindepth 1 -not -path /run/initramfs -not -path '/run/blkid*' -not -path '/run/mount*'
exit $code
"""
REFUSALS = (
    ("fallthru=bottom:{bottom}", "the top is missing"),
    ("fallthru=top:tmpfs", "a bottom is missing"),
    ("fallthru=top:tmpfs,bottom:{bottom},color:red", "color:red is not known"),
    ("fallthru=top:tmpfs,bottom:{bottom},profile:none", "no profile none"),
    ("fallthru=top:tmpfs,bottom:{bottom},size:1;reboot", "is no size"),
    ("fallthru=top:{keep},bottom:{bottom},profile:throwaway", "cannot be mounted again"),
    ("fallthru=top:tmpfs,bottom:/etc", "/etc is not a device"),
    ("fallthru=top:tmpfs,bottom:file", "is not a device"),
    ("fallthru=top:tmpfs,bottom:LABEL=not\\04there,wait:0", "three octal digits"),
    ("fallthru=top:tmpfs,bottom:UUID=not-there,wait:0", "there is no device UUID=not-there"),
    ("fallthru=top:tmpfs,bottom:{bottom},bottom:{empty}", "no file system that is known"),
    ("fallthru=top:tmpfs,bottom:{bottom},bottom:{broken}", "cannot be mounted read-only"),
    ("fallthru=top:{bottom},bottom:{keep}", "a top cannot be on squashfs"),
    ("fallthru=top:{keep},bottom:{keep}", "is the top's device"),
    ("fallthru=top:{keep},bottom:{keep}:/directory", "is not read-only"),
    ("fallthru=top:tmpfs,bottom:{keep}:/away/passwd", "leaves its file system"),
    ("fallthru=top:tmpfs,bottom:{keep}:/passwd", "leaves its file system"),
    ("fallthru=top:tmpfs,bottom:{keep}:/directory/none", "is not there"),
    ("fallthru=top:{keep}:/away/top,bottom:{bottom}", "a symlink on its way"),
    ("fallthru=top:{keep}:/directory/../top,bottom:{bottom}", "cannot have the path"),
    ("fallthru=top:{keep}:/directory/a:b,bottom:{bottom}", "cannot have the path"),
    ("fallthru=top:{keep}:/stubs,bottom:{bottom}", "the top holds fallthrus"),
)


def test_what_cannot_be_is_refused_and_nothing_is_left(
    stage: Stage, scratch: Path, disks: ExitStack
) -> None:
    tree = scratch / "tree"
    (tree / "directory").mkdir(parents=True)
    (tree / "stubs/etc").mkdir(parents=True)
    os.setxattr(tree / "stubs/etc", "trusted.overlay.redirect", b"/old")
    (tree / "away").symlink_to("/etc")
    (tree / "passwd").symlink_to("/etc/passwd")
    (scratch / "empty").write_bytes(bytes(1 << 20))
    broken = make_image("squashfs", scratch, "broken")
    data = bytearray(broken.read_bytes())
    data[96:] = bytes(len(data) - 96)  # after the superblock
    broken.write_bytes(data)
    images = {
        "bottom": make_image("squashfs", scratch, "bottom"),
        "keep": disk_with(scratch, "keep", "-d", str(tree)),
        "empty": scratch / "empty",
        "broken": broken,
    }
    nodes = {name: disks.enter_context(attached(image)) for name, image in images.items()}
    for word, said in REFUSALS:
        done = stage.run(word.format(**nodes), "mount", str(stage.place / "root"), wrapped=COUNTED)
        assert done.returncode == 1, word
        assert said in done.stderr, word
        assert "mount-root:" not in done.stderr, word  # the shell's own complaints
        before, after, *left = done.stdout.split()
        assert before == after, word
        assert set(left) <= {"/run/fallthru"}, word
        assert not any(map(is_read_only, nodes.values())), word


def test_what_cannot_be_unmounted_again_keeps_what_it_holds(
    stage: Stage, pair: tuple[str, str]
) -> None:
    """To undo removes empty directories, and never what is in a top."""
    bottom, keep = pair
    word = f"fallthru=top:{keep},bottom:{bottom}"
    assert stage.mount(word, "echo kept >new").returncode == 0
    umount = stage.place / "lib/bin/umount"
    umount.unlink()
    umount.symlink_to("/bin/false")
    assert stage.mount(f"{word},bottom:UUID=none,wait:0").returncode == 1
    assert stage.mount(word, "cat new").stdout == "kept\n"


def test_a_top_with_fallthrus_boots_with_the_profile_that_reads_them(
    stage: Stage, pair: tuple[str, str]
) -> None:
    bottom, keep = pair
    word = f"fallthru=top:{keep},bottom:{bottom}"
    # A chmod by this profile copies no data: the file becomes a stub.
    assert stage.mount(f"{word},profile:fallthru", "chmod 600 file").returncode == 0
    refused = stage.mount(word, "cat file")
    assert refused.returncode == 1
    assert "the top holds fallthrus" in refused.stderr
    again = stage.mount(f"{word},profile:fallthru", "cat file; echo data >file")
    assert again.stdout == "bottom", again.stderr
    # Written, it has data of its own, and only the redirect is left.
    assert stage.mount(word, "cat file").stdout == "data\n"


def test_the_top_of_other_bottoms_is_refused(dash: Stage, scratch: Path, disks: ExitStack) -> None:
    keep = disks.enter_context(attached(disk_with(scratch, "keep")))
    nodes = [
        disks.enter_context(attached(make_image("ext4", scratch, name))) for name in ("one", "two")
    ]
    assert dash.mount(f"fallthru=top:{keep},bottom:{nodes[0]}", "echo x >file").returncode == 0
    other = dash.mount(f"fallthru=top:{keep},bottom:{nodes[1]}", "true")
    assert other.returncode == 1
    assert "the top was made for other bottoms" in other.stderr
    assert [is_read_only(node) for node in nodes] == [True, False]


def test_the_last_word_counts_and_devices_are_told(stage: Stage) -> None:
    word = "fallthru=nonsense fallthru=top:LABEL=a\\040b:/t,bottom:/dev/sda2,bottom:UUID=1:/i"
    assert stage.run(word, "asked").returncode == 0
    assert stage.run(word, "devices").stdout == "LABEL=a b\n/dev/sda2\nUUID=1\n"
    assert stage.run("fallthru=top:tmpfs,bottom:/dev/x", "devices").stdout == "/dev/x\n"
    assert stage.run("xfallthru=top:tmpfs", "asked").returncode == 1


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("needs: shellcheck")
    sources = REPOSITORY / "overlay/initramfs"
    scripts = [
        sources / "mount-root",
        *sources.glob("initramfs-tools/*"),
        *sources.glob("dracut/*"),
    ]
    assert len(scripts) == 7
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
