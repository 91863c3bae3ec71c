"""Hostile archives: refused as a whole, nothing outside, nothing half-made."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from overlay.archives.archive import Format, import_directory, import_tar
from overlay.archives.item import HostileLayer, Limits
from overlay.archives.sink import OverlayMarks
from overlay.errors import FallthruError, OperationFailed, Refused
from tests.conftest import Layers
from tests.treediff import snapshot

Build = Callable[[tarfile.TarFile], None]


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **pax: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.pax_headers = kind, link, dict(pax)
    info.mode = 0o755
    return info


def packed(layers: Layers, *members: tarfile.TarInfo, data: bytes = b"") -> str:
    path = layers.base / "hostile.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for info in members:
            if info.isreg():
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


OUTSIDE = "/tmp/fallthru-hostile-was-here"
HOSTILE = {
    "absolute": [member(OUTSIDE)],
    "dots": [member("a/../../x")],
    "only dots": [member("..", tarfile.DIRTYPE)],
    "symlink then through it": [member("d", tarfile.SYMTYPE, "/tmp"), member("d/x")],
    "relative symlink": [member("d", tarfile.SYMTYPE, ".."), member("d/x")],
    "symlinked directory in the middle": [
        member("a", tarfile.DIRTYPE),
        member("a/b", tarfile.SYMTYPE, "../.."),
        member("a/b/c/x"),
    ],
    "whiteout through a symlink": [member("d", tarfile.SYMTYPE, ".."), member("d/.wh.x")],
    "opaque through a symlink": [
        member("d", tarfile.SYMTYPE, "/tmp"),
        member("d/e/.wh..wh..opq"),
    ],
    "hard link outward": [member("x", tarfile.LNKTYPE, "../../../../etc/passwd")],
    "absolute hard link": [member("x", tarfile.LNKTYPE, "/etc/passwd")],
    "hard link through a symlink": [
        member("d", tarfile.SYMTYPE, "/etc"),
        member("x", tarfile.LNKTYPE, "d/passwd"),
    ],
    "hard link to nothing": [member("x", tarfile.LNKTYPE, "later")],
    "hard link to a directory": [
        member("d", tarfile.DIRTYPE),
        member("x", tarfile.LNKTYPE, "d"),
    ],
    "device": [member("null", tarfile.CHRTYPE)],
    "block device": [member("sda", tarfile.BLKTYPE)],
    "whiteout of dots": [member(".wh...")],
    "whiteout of nothing": [member(".wh.")],
    "a file beside itself": [member("f"), member("f/x")],
    "a long name": [member("n" * 300)],
    "a NUL in a name": [member("x", path="a\0b")],
    "unknown type": [member("x", b"Z")],
    "empty symlink": [member("x", tarfile.SYMTYPE, "")],
    "a time beyond all": [member("x", mtime="9" * 40)],
    "a time that is none": [member("x", mtime="1e5")],
    "opaque root": [member(".wh..wh..opq")],
}


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_refused(layers: Layers, case: str) -> None:
    path = packed(layers, *HOSTILE[case], data=b"hostile")
    before = snapshot(layers.base)
    with pytest.raises(FallthruError) as caught:
        import_tar(path, str(layers.base / "out"))
    assert isinstance(caught.value, Refused | OperationFailed)
    assert snapshot(layers.base) == before
    assert not os.path.lexists(OUTSIDE)


def test_marks_that_are_smuggled_in_act_on_nothing(layers: Layers) -> None:
    """They are stored as those of an overlay inside the union (docs/marks.md)."""
    attributes = {
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.user.x": "kept",
    }
    path = packed(layers, member("d", tarfile.DIRTYPE, **attributes))
    import_tar(path, str(layers.base / "out"))
    found = set(os.listxattr(layers.base / "out" / "d"))
    assert found == {
        "trusted.overlay.overlay.redirect",
        "trusted.overlay.overlay.opaque",
        "user.x",
    }


def test_a_device_that_would_be_a_whiteout_is_refused_though_devices_are_taken(
    layers: Layers,
) -> None:
    null = member("null", tarfile.CHRTYPE)
    null.devmajor, null.devminor = 1, 3
    import_tar(packed(layers, null), str(layers.base / "out"), devices=True)
    assert (layers.base / "out" / "null").stat().st_rdev == os.makedev(1, 3)
    with pytest.raises(HostileLayer, match="whiteout"):
        import_tar(
            packed(layers, member("w", tarfile.CHRTYPE)), str(layers.base / "2"), devices=True
        )


def test_limits(layers: Layers) -> None:
    many = [member(f"f{number}") for number in range(20)]
    path = packed(layers, *many, data=b"x" * 1000)
    for limits in (Limits(entries=19), Limits(bytes=19_999)):
        with pytest.raises(HostileLayer, match="too large"):
            import_tar(path, str(layers.base / "out"), limits=limits)
        assert not (layers.base / "out").exists()
    import_tar(path, str(layers.base / "out"), limits=Limits(entries=20, bytes=20_000))


def test_bombs(layers: Layers) -> None:
    """Much from little: a file of zeros, and a header that claims to be one."""
    bomb = layers.base / "bomb.tar.gz"
    for kind in (tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        info = member("zeros", kind)
        info.size = 1 << 33
        with gzip.open(bomb, "wb", 9) as file:
            file.write(info.tobuf(tarfile.GNU_FORMAT))
            for _ in range(64):
                file.write(bytes(1 << 20))
        with pytest.raises(FallthruError):
            import_tar(str(bomb), str(layers.base / "out"), limits=Limits(bytes=1 << 32))
        assert not (layers.base / "out").exists()


@pytest.mark.parametrize("compressed", [False, True])
def test_cut_short_or_damaged_anywhere(layers: Layers, compressed: bool) -> None:
    path = packed(layers, member("a"), member("b", user="x" * 600), data=b"data" * 700)
    data = Path(path).read_bytes()[: 512 * 24]
    if compressed:
        data = gzip.compress(data)
    step = max(1, len(data) // 60)
    broken = layers.base / "broken"
    for at in range(0, len(data) - 1, step):
        flipped = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        for how, bad in (("cut", data[:at]), ("flipped", flipped)):
            broken.write_bytes(bad)
            out = layers.base / f"out-{how}-{at}"
            try:
                import_tar(str(broken), str(out))
            except FallthruError:
                assert not out.exists()
            else:
                # What has no checksum, as content in a plain tar or time and system in
                # the header of gzip, cannot be told; nor can the end of the end.
                assert not compressed or (how == "flipped" and at < 10)
    left = [name for name in os.listdir(layers.base) if name.startswith(".fallthru")]
    assert left == []


def test_an_aufs_branch_with_symlinks_and_odd_names(layers: Layers) -> None:
    branch = layers.base / "branch"
    branch.mkdir()
    (branch / "link").symlink_to("/etc")
    (branch / ".wh.gone").touch()
    (branch / ".wh..wh.aufs").touch()
    (branch / "d").mkdir()
    (branch / "d" / ".wh..wh..opq").touch()
    import_directory(str(branch), str(layers.base / "out"), Format.AUFS, style=OverlayMarks())
    out = layers.base / "out"
    assert sorted(os.listdir(out)) == ["d", "gone", "link"]
    assert stat.S_ISCHR((out / "gone").lstat().st_mode)
    assert os.readlink(out / "link") == "/etc"
    assert os.getxattr(out / "d", "trusted.overlay.opaque") == b"y"
