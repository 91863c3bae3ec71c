"""``fallthru boot``: what it puts into a system, and what it says of one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay.booting import files as bootfiles
from overlay.booting import line as bootline
from overlay.booting.files import TOOLS, Maker
from overlay.errors import EnvironmentLacks, OperationFailed, Refused, UsageError
from overlay.profiles import PROFILES
from overlay.spec.filesystems import attached
from tests.fsimages import IMAGE_PREFIX
from tests.overlay.bootstage import Stage
from tests.running import fallthru

HOOK = {Maker.INITRAMFS_TOOLS: "etc/initramfs-tools/hooks/fallthru"}


def system(place: Path, maker: Maker) -> Path:
    """The tree of a system with that maker, and programs that need not run."""
    for directory in (maker.directory, "boot", "etc/initramfs-tools/hooks", "usr/sbin"):
        (place / directory).mkdir(parents=True, exist_ok=True)
    for tool in TOOLS:
        (place / "usr/sbin" / tool).touch()
    return place


def tree(place: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(place)): (path.stat().st_mode, path.read_bytes())
        for path in place.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("maker", list(Maker))
def test_what_is_installed_is_whole_and_goes_again(tmp_path: Path, maker: Maker) -> None:
    root = system(tmp_path, maker)
    before = tree(root)
    directories = {path for path in root.rglob("*") if path.is_dir()}
    done = fallthru("boot", "install", "--root", root)
    assert done.returncode == 0, done.stderr
    made = tree(root).keys() - before.keys()
    assert [line for line in done.stdout.splitlines() if line.startswith("/")] == [
        str(root / file.path) for file in bootfiles.files(maker)
    ]
    assert made == {file.path for file in bootfiles.files(maker)}
    assert done.stdout.splitlines()[-1] == f"next: chroot {root} {maker.command}"
    assert fallthru("boot", "install", "--root", root).stdout.count("\n") == 1  # nothing to do
    removed = fallthru("boot", "remove", "--root", root)
    assert removed.returncode == 0, removed.stderr
    assert tree(root) == before
    kept = {path for path in root.rglob("*") if path.is_dir()}
    assert directories <= kept
    assert not [path for path in kept if "fallthru" in path.name]


def test_every_script_is_one_that_its_shell_reads(tmp_path: Path) -> None:
    for maker in Maker:
        for file in bootfiles.files(maker):
            if file.path.endswith("profiles"):
                continue
            shell = "bash" if file.content.startswith(b"#!/bin/bash") else "dash"
            done = subprocess.run([shell, "-n"], input=file.content, check=False)
            assert done.returncode == 0, file.path
            assert b"python" not in file.content, file.path


def test_the_hooks_take_along_what_the_script_calls() -> None:
    called = set(re.findall(r'"\$bin/(\w+)"', content("mount-root")))
    assert called == TOOLS.keys()
    (listed,) = re.findall(r"for tool in (.*); do", content("hooks/fallthru"))
    assert set(listed.split()) == TOOLS.keys()
    (listed,) = re.findall(r'tools="(.*)"', content("module-setup.sh"))
    assert set(listed.split()) == TOOLS.keys()


def content(name: str) -> str:
    found = {file.path: file.content.decode() for maker in Maker for file in bootfiles.files(maker)}
    return next(text for path, text in found.items() if path.endswith(name))


def test_a_profile_has_the_options_that_a_mount_has() -> None:
    text = content("profiles")
    lines = [line.split(" ") for line in text.splitlines() if not line.startswith("#")]
    assert {name: set(options.split(",")) for name, options in lines} == {
        name: {f"{key}={value}" if value else key for key, value, _ in profile.pinned}
        for name, profile in PROFILES.items()
    }


def test_a_write_that_fails_has_no_effect(
    tmp_path: Path, root: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the file: the hook, which has the rest used, is not there."""
    place = system(tmp_path, Maker.INITRAMFS_TOOLS)
    chosen = bootfiles.files(Maker.INITRAMFS_TOOLS)
    assert chosen[-1].path == HOOK[Maker.INITRAMFS_TOOLS]
    os_rename = os.rename
    for number, failing in enumerate(chosen):

        def rename(source: str, target: str, failing: str = failing.path) -> None:
            if target.endswith(failing):
                raise OSError(28, "No space left on device")
            os_rename(source, target)

        monkeypatch.setattr(os, "rename", rename)
        with pytest.raises(OperationFailed, match="No space left"):
            bootfiles.install(str(place), Maker.INITRAMFS_TOOLS)
        monkeypatch.setattr(os, "rename", os_rename)
        there = {file.path for file in chosen if (place / file.path).exists()}
        assert there == {file.path for file in chosen[:number]}
        assert not [path for path in place.rglob(".*") if path.is_file()]
        assert len(bootfiles.remove(str(place), Maker.INITRAMFS_TOOLS)) == number


def test_what_somebody_else_put_there_is_left_alone(tmp_path: Path) -> None:
    place = system(tmp_path, Maker.INITRAMFS_TOOLS)
    (place / HOOK[Maker.INITRAMFS_TOOLS]).write_text("#!/bin/sh\n# my own fallthru\n")
    before = tree(place)
    for verb in ("install", "remove"):
        done = fallthru("boot", verb, "--root", place)
        assert done.returncode == 4
        assert "not fallthru's" in done.stderr
        assert tree(place) == before


def test_a_symlink_leads_nothing_out_of_the_system(tmp_path: Path) -> None:
    place = tmp_path / "system"
    system(place, Maker.INITRAMFS_TOOLS)
    (tmp_path / "outside").mkdir()
    (place / "etc/initramfs-tools/scripts").symlink_to(tmp_path / "outside")
    with pytest.raises(Refused, match="out of"):
        bootfiles.install(str(place), Maker.INITRAMFS_TOOLS)
    assert not list((tmp_path / "outside").iterdir())
    assert not (place / "etc/initramfs-tools/fallthru").exists()


def test_check_says_what_is_missing_and_then_that_all_is_well(tmp_path: Path) -> None:
    place = system(tmp_path, Maker.INITRAMFS_TOOLS)
    (place / "usr/sbin/getfattr").unlink()
    (place / "boot/initrd.img-6.1").touch()

    def wrong() -> dict[str, str]:
        done = fallthru("boot", "check", "--root", place, "--json")
        answer = json.loads(done.stdout)
        found = {each["what"]: each["remedy"] for each in answer["checks"] if not each["ok"]}
        assert done.returncode == (1 if found else 0)
        assert answer["maker"] == "initramfs-tools"
        return found

    assert len(wrong()) == 7  # a program, five files, the initramfs
    assert wrong()["getfattr: missing"] == "apt-get install attr"
    (place / "usr/sbin/getfattr").touch()
    fallthru("boot", "install", "--root", place)
    (old,) = wrong().items()
    assert old == (
        f"{place}/boot/initrd.img-6.1: made before the hook was there",
        "update-initramfs -u",
    )
    (place / "boot/initrd.img-6.1").touch()
    assert not wrong()
    changed = place / "etc/initramfs-tools/fallthru/mount-root"
    changed.write_bytes(changed.read_bytes() + b"\n")
    (place / "boot/initrd.img-6.1").touch()
    assert list(wrong()) == [f"{changed}: of another version, or changed"]


def test_without_a_maker_there_is_nowhere_to_install(tmp_path: Path) -> None:
    done = fallthru("boot", "install", "--root", tmp_path)
    assert done.returncode == 3
    assert "neither initramfs-tools nor dracut" in done.stderr


# ------------------------------------------------------------------------------ the word


def test_sources_are_taken_as_they_are() -> None:
    made = bootline.word(
        ["LABEL=my CD:/live/a,b.img", "/dev/disk/by-path/pci-0:1:/x", "PARTUUID=7"],
        "UUID=1:/tops/web",
        profile="fallthru",
        wait=5,
    )
    assert made == (
        "fallthru=top:UUID=1:/tops/web,bottom:LABEL=my\\040CD:/live/a\\054b.img,"
        "bottom:/dev/disk/by-path/pci-0:1:/x,bottom:PARTUUID=7,profile:fallthru,wait:5"
    )
    memory = bootline.word(["UUID=1"], "tmpfs", profile="throwaway", size="75%")
    assert memory == "fallthru=top:tmpfs,bottom:UUID=1,profile:throwaway,size:75%"


@pytest.fixture
def scratch(root: None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=IMAGE_PREFIX, dir="/dev/shm") as path:
        yield Path(path)


def test_paths_become_devices_and_the_initramfs_finds_them_there(scratch: Path) -> None:
    """What `line` says of a running system, the script that reads it mounts."""
    tree, disk = scratch / "tree", scratch / "mnt"
    (tree / "sys tem/etc").mkdir(parents=True)
    (tree / "sys tem/etc/file").write_text("bottom")
    subprocess.run(["mkfs.ext4", "-q", "-d", tree / "sys tem", tree / "image", "4M"], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-d", tree, scratch / "disk", "32M"], check=True)
    disk.mkdir()
    with attached(scratch / "disk") as node:
        subprocess.run(["mount", node, disk], check=True)
        try:
            top, image, directory = disk / "tops/web", disk / "image", disk / "sys tem"
            word = fallthru("boot", "line", "--bottom", image, "--top", top)
            here = fallthru("boot", "line", "--bottom", directory, "--top", top)
            alone = fallthru("boot", "line", "--bottom", directory, "--top", "tmpfs")
            spaced = fallthru("boot", "line", "--bottom", image, "--top", disk / "a b")
        finally:
            subprocess.run(["umount", disk], check=True)
        assert word.stdout.count("UUID=") == 2, word.stderr
        assert (here.returncode, spaced.returncode) == (4, 2)
        assert "the top's file system" in here.stderr
        stage = Stage.built(scratch / "stage", "dash")
        then = "cat etc/file; echo top >etc/file; cat /run/initramfs/fallthru/top/tops/web/etc/file"
        assert stage.mount(word.stdout.strip(), then).stdout == "bottomtop\n"
        assert stage.mount(alone.stdout.strip(), then[:12]).stdout == "bottom", alone.stdout


def test_what_no_boot_could_find_is_refused(tmpfs_dir: Path) -> None:
    with pytest.raises(EnvironmentLacks, match="no device to boot from"):
        bootline.word([str(tmpfs_dir)], "tmpfs")
    with pytest.raises(EnvironmentLacks, match="no device to boot from"):
        bootline.word(["UUID=1"], str(tmpfs_dir / "top"))
    for bottoms, top, size, profile in (
        ([], "tmpfs", None, "document"),
        (["/not/there"], "tmpfs", None, "document"),
        (["UUID=1"], "UUID=2", None, "throwaway"),
        (["UUID=1"], "UUID=2", "1G", "document"),
        (["UUID=1"], "UUID=2", None, "none"),
        (["UUID=1"], "UUID=2:/a/b c", None, "document"),
        (["UUID=1\n"], "tmpfs", None, "document"),
    ):
        with pytest.raises(UsageError):
            bootline.word(bottoms, top, size=size, profile=profile)
