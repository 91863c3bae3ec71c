"""``mount -t fallthru`` by the real mount(8), which finds the helper by its own rules."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from overlay import kernel, mountinfo, syscalls
from overlay.errors import UsageError
from overlay.mounthelper import complete
from overlay.mountoptions import parse, split
from tests.conftest import Layers, make_layers
from tests.fsimages import make_image
from tests.processes import PATIENCE
from tests.running import fallthru


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)


def mount(layers: Layers, options: str = "", *flags: str) -> subprocess.CompletedProcess[str]:
    named = f"bottom={layers.bottom},top={layers.top}" + (f",{options}" if options else "")
    return run("mount", "-t", "fallthru", *flags, "-o", named, "none", layers.mnt)


def mounted_at(mount_point: Path) -> list[str]:
    """The types of what is mounted there, the uppermost last."""
    return [each.fstype for each in mountinfo.read() if each.mount_point == str(mount_point)]


def options_at(mount_point: Path) -> set[str]:
    return set(mountinfo.overlay_at(mount_point).vfs_options)


@pytest.mark.usefixtures("helper")
class TestMount:
    def test_mounts_and_umount_takes_it_away(self, layers: Layers) -> None:
        (layers.bottom / "file").write_text("bottom")
        done = mount(layers, "profile=fallthru,nosuid,nodev,x-systemd.requires=/srv,X-mine=1")
        assert (done.returncode, done.stderr) == (0, "")
        (layers.mnt / "file").write_text("changed")
        found = mountinfo.overlay_at(layers.mnt)
        assert found.source == "fallthru:fallthru"
        assert (found.top, found.work) == (str(layers.top), f"{layers.top}.work")
        assert {"nosuid", "nodev", "noatime", "rw"} <= set(found.vfs_options)
        assert run("umount", layers.mnt).returncode == 0
        assert not os.path.ismount(layers.mnt)
        assert (layers.bottom / "file").read_text() == "bottom"
        assert (layers.top / "file").read_text() == "changed"

    def test_overlayfs_names_and_options(self, layers: Layers) -> None:
        second = layers.base / "second"
        second.mkdir()
        (second / "low").touch()
        (layers.bottom / "high").touch()
        named = f"lowerdir={layers.bottom}:{second},upperdir={layers.top},workdir={layers.work}"
        done = run("mount", "-t", "fallthru", "-o", f"{named},uuid=null", "none", layers.mnt)
        try:
            assert (done.returncode, done.stderr) == (0, "")
            assert sorted(os.listdir(layers.mnt)) == ["high", "low"]
            found = mountinfo.overlay_at(layers.mnt)
            assert found.bottoms == (str(layers.bottom), str(second))
            assert found.options["uuid"] == "null"
        finally:
            run("umount", layers.mnt)

    def test_a_line_of_fstab(self, layers: Layers, tmp_path: Path) -> None:
        quoted = layers.base / "a,b c"
        quoted.mkdir()
        (quoted / "file").touch()
        bottom = str(quoted).replace(" ", "\\040")
        fstab = tmp_path / "fstab"
        fstab.write_text(
            f'none {layers.mnt} fallthru bottom="{bottom}",top={layers.top},nofail,_netdev 0 0\n'
        )
        done = run("mount", "-T", fstab, layers.mnt)
        try:
            assert (done.returncode, done.stderr) == (0, "")
            assert os.listdir(layers.mnt) == ["file"]
            fstab.write_text(fstab.read_text().replace("nofail", "ro,noexec"))
            assert run("mount", "-T", fstab, "-o", "remount", layers.mnt).returncode == 0
            assert {"ro", "noexec"} <= options_at(layers.mnt)
        finally:
            run("umount", layers.mnt)

    def test_all_of_fstab(self, layers: Layers, tmp_path: Path) -> None:
        """In its order, one over the other; what fails does not keep the rest from being there."""
        (layers.bottom / "file").write_text("bottom")
        for name in ("top2", "mnt2", "mnt3"):
            (layers.base / name).mkdir()
        fstab = tmp_path / "fstab"
        fstab.write_text(
            f"fallthru:document {layers.mnt} fallthru bottom={layers.bottom},top={layers.top} 0 0\n"
            f"none {layers.base}/mnt3 fallthru bottom=/nowhere,top={layers.base}/top3 0 0\n"
            f"fallthru:fallthru {layers.base}/mnt2 fallthru "
            f"bottom={layers.mnt},top={layers.base}/top2 0 0\n"
            f"none {layers.base}/mnt4 fallthru noauto,bottom=/,top=/nowhere 0 0\n"
        )
        try:
            done = run("mount", "-a", "-T", fstab)
            assert done.returncode == 64  # some succeeded (mount(8))
            assert "/nowhere does not exist" in done.stderr
            assert (layers.base / "mnt2" / "file").read_text() == "bottom"
            assert mountinfo.overlay_at(layers.base / "mnt2").source == "fallthru:fallthru"
            # What is mounted already is left alone.
            lines = fstab.read_text().splitlines(keepends=True)
            fstab.write_text(lines[0] + lines[2])
            done = run("mount", "-a", "-T", fstab)
            assert (done.returncode, done.stderr) == (0, "")
        finally:
            run("umount", layers.base / "mnt2", layers.mnt)

    @pytest.mark.parametrize("kind", ["directory", "image", "index"])
    def test_all_of_fstab_again(self, layers: Layers, tmp_path: Path, kind: str) -> None:
        """What is mounted is known by its layers, whatever the first field says."""
        (layers.bottom / "file").write_text("bottom")
        bottom = str(layers.bottom)
        if kind == "image":
            bottom = str(tmp_path / "bottom.ext2")
            make_image("ext2", Path(bottom), mkfs_options=("-d", str(layers.bottom)))
        elif kind == "index":
            index = layers.base / "index"
            done = fallthru("prime", "--shared", "--bottom", bottom, "-o", index)
            assert done.returncode == 0, done.stderr
            bottom += f",shared-index={index},profile=fallthru"
        fstab = tmp_path / "fstab"
        fstab.write_text(f"none {layers.mnt} fallthru top={layers.top},bottom={bottom} 0 0\n")
        try:
            for _ in range(2):
                done = run("mount", "-a", "-T", fstab)
                assert (done.returncode, done.stderr) == (0, "")
                assert mounted_at(layers.mnt) == ["overlay"]
            assert (layers.mnt / "file").read_text() == "bottom"
            # A remount by the line finds the same layers, too.
            assert run("mount", "-T", fstab, "-o", "remount,ro", layers.mnt).returncode == 0
            assert "ro" in options_at(layers.mnt)
        finally:
            for _ in mounted_at(layers.mnt):
                run("umount", layers.mnt)

    def test_other_layers_are_not_mounted_already(self, layers: Layers) -> None:
        other = layers.base / "other"
        other.mkdir()
        assert mount(layers).returncode == 0
        try:
            assert "is mounted already" in mount(layers, "", "-v").stdout
            for changed in (replace(layers, bottom=other), replace(layers, top=other)):
                done = mount(changed)
                assert done.returncode == 32
                assert f"something is mounted at {layers.mnt} already" in done.stderr
            assert mount(layers, "profile=throwaway").returncode == 32
            assert mounted_at(layers.mnt) == ["overlay"]
        finally:
            run("umount", layers.mnt)

    def test_mounting_read_only(self, layers: Layers) -> None:
        done = mount(layers, "", "-r")
        try:
            assert (done.returncode, done.stderr) == (0, "")
            with pytest.raises(OSError, match="Read-only"):
                (layers.mnt / "new").touch()
        finally:
            run("umount", layers.mnt)

    def test_fake_and_verbose(self, layers: Layers) -> None:
        done = mount(layers, "profile=throwaway", "-f", "-v")
        assert done.returncode == 0
        assert f"lowerdir={layers.bottom}" in done.stdout
        assert not os.path.ismount(layers.mnt)

    def test_sloppy_passes_over_what_nobody_knows(self, layers: Layers) -> None:
        assert mount(layers, "frobnicate=1").returncode == 1
        done = mount(layers, "frobnicate=1", "-s")
        assert (done.returncode, done.stderr) == (0, "")
        run("umount", layers.mnt)

    def test_in_the_mount_namespace_of_another(self, layers: Layers) -> None:
        other = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", "echo ready; read -r _"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        try:
            named = f"bottom={layers.bottom},top={layers.top}"
            done = run(*("mount.fallthru", "none", layers.mnt, "-N", str(other.pid), "-o", named))
            assert (done.returncode, done.stderr) == (0, "")
            assert not os.path.ismount(layers.mnt)
            there = mountinfo.overlays(mountinfo.read(other.pid))
            assert str(layers.mnt) in [each.mount_point for each in there]
        finally:
            other.communicate(b"\n")


@pytest.mark.usefixtures("helper")
class TestRemount:
    def test_read_only_and_back(self, layers: Layers) -> None:
        mount(layers, "nosuid")
        try:
            remount = ("mount", "-t", "fallthru", "-o")
            assert run(*remount, "remount,ro", layers.mnt).returncode == 0
            assert {"ro", "noatime"} <= options_at(layers.mnt)
            with pytest.raises(OSError, match="Read-only"):
                (layers.mnt / "new").touch()
            assert run(*remount, "remount,rw", layers.mnt).returncode == 0
            (layers.mnt / "new").touch()
        finally:
            run("umount", layers.mnt)

    def test_refused_while_something_is_written(self, layers: Layers) -> None:
        mount(layers)
        try:
            with open(layers.mnt / "open", "w", encoding="ascii"):
                done = run("mount.fallthru", "none", layers.mnt, "-o", "remount,ro")
            assert done.returncode == 32
            assert "files open for writing" in done.stderr
            assert "rw" in options_at(layers.mnt)
        finally:
            run("umount", layers.mnt)

    def test_other_layers_are_refused(self, layers: Layers) -> None:
        mount(layers)
        try:
            other = make_layers(layers.base / "mnt")
            named = f"remount,bottom={other.bottom},top={layers.top}"
            done = run("mount.fallthru", "none", layers.mnt, "-o", named)
            assert done.returncode == 1
            assert "cannot change the bottoms" in done.stderr
        finally:
            run("umount", layers.mnt)


@pytest.mark.usefixtures("helper")
class TestTwoSteps:
    """The document's way: the bottom read-only, then the top over it (L229–L230)."""

    def test_the_top_over_what_is_mounted_there(self, layers: Layers) -> None:
        (layers.bottom / "file").write_text("bottom")
        syscalls.mount(layers.bottom, layers.mnt, None, 0x1000, None)  # MS_BIND
        assert run("mount", "-o", "remount,bind,ro", layers.mnt).returncode == 0
        done = run("mount", "-t", "fallthru", "-o", "union", layers.top, layers.mnt)
        try:
            assert (done.returncode, done.stderr) == (0, "")
            (layers.mnt / "file").write_text("changed")
            assert (layers.bottom / "file").read_text() == "bottom"
            assert (layers.top / "file").read_text() == "changed"
            assert run("umount", layers.mnt).returncode == 0
            assert (layers.mnt / "file").read_text() == "bottom"
        finally:
            run("umount", "-R", layers.mnt)

    def test_all_of_fstab_twice(self, layers: Layers, tmp_path: Path) -> None:
        """Both steps as lines, as they are for a file system on a device."""
        (layers.bottom / "file").write_text("bottom")
        image = tmp_path / "bottom.ext2"
        make_image("ext2", image, mkfs_options=("-d", str(layers.bottom)))
        fstab = tmp_path / "fstab"
        fstab.write_text(
            f"{image} {layers.mnt} ext2 loop,ro 0 0\n{layers.top} {layers.mnt} fallthru union 0 0\n"
        )
        try:
            for _ in range(2):
                done = run("mount", "-a", "-T", fstab)
                assert (done.returncode, done.stderr) == (0, "")
                assert mounted_at(layers.mnt) == ["ext2", "overlay"]
            assert (layers.mnt / "file").read_text() == "bottom"
        finally:
            for _ in mounted_at(layers.mnt):
                run("umount", layers.mnt)

    def test_a_writable_bottom_is_refused(self, layers: Layers) -> None:
        done = run("mount", "-t", "fallthru", "-o", "union", layers.top, layers.mnt)
        assert done.returncode == 32
        assert "is not read-only" in done.stderr
        assert "mount -o ro" in done.stderr


@pytest.mark.usefixtures("helper")
class TestRefusals:
    def test_a_top_in_use_names_the_user(self, layers: Layers) -> None:
        mount(layers)
        other = layers.base / "other"
        other.mkdir()
        try:
            done = mount(replace(layers, mnt=other))
            assert done.returncode == 32
            assert f"in use by the overlay at {layers.mnt}" in done.stderr
        finally:
            run("umount", layers.mnt)

    def test_a_top_of_other_bottoms(self, layers: Layers) -> None:
        mount(layers)
        run("umount", layers.mnt)
        other = layers.base / "other"
        other.mkdir()
        done = mount(replace(layers, bottom=other))
        assert done.returncode == 32
        assert "was made for other bottoms" in done.stderr

    def test_the_same_directory_twice(self, layers: Layers) -> None:
        done = mount(replace(layers, top=layers.bottom))
        assert done.returncode == 1
        assert "same directory" in done.stderr

    def test_overlays_on_overlays_on_overlays(self, layers: Layers) -> None:
        below, made = str(layers.bottom), []
        try:
            for level in range(3):
                mnt, top = layers.base / f"mnt{level}", layers.base / f"top{level}"
                mnt.mkdir()
                top.mkdir()
                done = mount(replace(layers, bottom=Path(below), top=top, mnt=mnt))
                if done.returncode:
                    break
                made.append(mnt)
                below = str(mnt)
            assert len(made) == 2
            assert f"{made[-1]} is an overlay over an overlay" in done.stderr
        finally:
            for mnt in reversed(made):
                run("umount", mnt)

    def test_what_is_missing_is_named(self, layers: Layers) -> None:
        done = run("mount", "-t", "fallthru", "-o", f"bottom={layers.bottom}", "none", layers.mnt)
        assert done.returncode == 1
        assert "top= is missing" in done.stderr
        done = mount(replace(layers, bottom=layers.base / "nowhere"))
        assert done.returncode == 32
        assert "nowhere does not exist" in done.stderr


def test_installing_leaves_what_others_put_there(tmp_path: Path) -> None:
    (tmp_path / "mount.fallthru").write_text("theirs")
    done = fallthru("install-helper", "--directory", tmp_path)
    assert done.returncode == 4
    assert (tmp_path / "mount.fallthru").read_text() == "theirs"


def test_installing_and_removing(tmp_path: Path) -> None:
    link = tmp_path / "mount.fallthru"
    for _ in range(2):
        assert fallthru("install-helper", "--directory", tmp_path).returncode == 0
        assert os.access(link, os.X_OK)
    assert os.listdir(tmp_path) == ["mount.fallthru"]
    assert fallthru("install-helper", "--remove", "--directory", tmp_path).returncode == 0
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("a=1,b", [("a", "1"), ("b", "")]),
        ('a="x,y",b', [("a", "x,y"), ("b", "")]),
        ("a=x\\,y,b", [("a", "x,y"), ("b", "")]),
        ("a=x\\:y", [("a", "x\\:y")]),
        ("", []),
    ],
)
def test_splitting(options: str, expected: list[tuple[str, str]]) -> None:
    assert split(options) == expected


def test_a_source_that_says_another_profile() -> None:
    request = parse("bottom=/b,top=/t,profile=fallthru")
    assert complete(parse("bottom=/b,top=/t"), "fallthru:throwaway", "/m").overlay.profile == (
        "throwaway"
    )
    with pytest.raises(UsageError, match="say"):
        complete(request, "fallthru:document", "/m")
    with pytest.raises(UsageError, match="no profile"):
        complete(request, "fallthru:nonsense", "/m")


def test_what_options_mean() -> None:
    request = parse(
        "user,exec,bottom=/a\\:b:/c,top=/t,work=/w,metacopy=on,volatile,allow-submounts"
    )
    assert request.overlay.bottoms == ("/a:b", "/c")
    assert (request.overlay.top, request.overlay.work) == ("/t", "/w")
    assert request.overlay.options == (("metacopy", "on"), ("volatile", ""))
    assert request.overlay.attributes == (kernel.ATTRIBUTES["nosuid"] | kernel.ATTRIBUTES["nodev"])
    assert request.allow_submounts
