"""Layers made by somebody hostile: nothing outside of them is read or written."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from overlay.errors import TopInUse
from overlay.marks import MarkFamily
from overlay.union import Union
from tests.conftest import Layers
from tests.rawoverlay import overlay
from tests.running import in_child, in_user_namespace

REDIRECT, METACOPY = "trusted.overlay.redirect", "trusted.overlay.metacopy"


def fails(number: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 (the number is what is asserted)
        call()
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[number]


@pytest.fixture
def secret(layers: Layers) -> Path:
    """A directory outside of all layers."""
    outside = layers.base / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "secret").write_bytes(b"secret")
    return outside


def test_a_symlink_in_the_place_of_a_directory(layers: Layers, secret: Path) -> None:
    """On the top it covers the bottom's directory, and leads where it leads in the union."""
    (layers.bottom / "d").mkdir()
    (layers.bottom / "d" / "file").touch()
    (layers.top / "d").symlink_to(secret)
    with Union(layers.top, [layers.bottom]) as union:
        for call in (
            lambda: union.stat("d/secret"),
            lambda: union.open("d/secret", os.O_RDONLY),
            lambda: union.creat("d/new"),
            lambda: union.readdir("d"),
        ):
            fails(errno.ENOENT, call)
    assert sorted(os.listdir(secret)) == ["secret", "sub"]


def test_a_symlink_put_there_meanwhile(layers: Layers, secret: Path) -> None:
    """Between the lookup and the write: what is written goes where the lookup was."""
    (layers.bottom / "d" / "e").mkdir(parents=True)
    with Union(layers.top, [layers.bottom]) as union:
        union.stat("d/e")
        real = os.mkdir

        def swapping(path: object, *args: object, **kwargs: object) -> None:
            real(path, *args, **kwargs)  # type: ignore[arg-type]
            (layers.top / "d").rename(layers.top / "away")
            (layers.top / "d").symlink_to(secret)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "mkdir", swapping)
            union.mkdir("d/new")
    assert os.listdir(layers.top / "away") == ["new"]
    assert sorted(os.listdir(secret)) == ["secret", "sub"]


@pytest.mark.parametrize(
    "redirect", [b"../outside", b"/../outside", b"/", b"", b"a//b", b".", b"x" * 256, b"/a\0b"]
)
def test_redirects_that_no_overlay_wrote(layers: Layers, secret: Path, redirect: bytes) -> None:
    (layers.bottom / "d").mkdir()
    (layers.top / "d").mkdir()
    os.setxattr(layers.top / "d", REDIRECT, redirect)
    with Union(layers.top, [layers.bottom]) as union:
        fails(errno.EIO, lambda: union.stat("d"))
        fails(errno.EIO, lambda: union.readdir("/"))
        fails(errno.EIO, lambda: union.creat("d/new"))


def test_redirects_stay_in_the_layers(layers: Layers, secret: Path) -> None:
    """A symlink on a redirect's way is not followed, be it absolute or relative."""
    (layers.bottom / "out").symlink_to(secret)
    (layers.top / "d").mkdir()
    os.setxattr(layers.top / "d", REDIRECT, b"/out/sub")
    with (layers.top / "file").open("wb") as stub:
        stub.truncate(6)
    os.setxattr(layers.top / "file", METACOPY, b"")
    os.setxattr(layers.top / "file", REDIRECT, b"/out/secret")
    with Union(layers.top, [layers.bottom]) as union:
        assert union.readdir("d") == []
        fails(errno.EIO, lambda: union.open("file", os.O_RDONLY))
        fails(errno.EIO, lambda: union.open("file", os.O_WRONLY))


def test_redirects_in_a_circle(layers: Layers) -> None:
    """They only lead down, so a circle ends at the last layer."""
    upper = layers.base / "upper"
    for layer in (layers.top, upper, layers.bottom):
        for name, to in (("a", b"/b"), ("b", b"/a")):
            (layer / name).mkdir(parents=True)
            os.setxattr(layer / name, REDIRECT, to)
            (layer / name / f"{layer.name}-{name}").touch()
    with Union(layers.top, [upper, layers.bottom], directory_copyup=False) as union:
        names = [entry.name for entry in union.readdir("a")]
    assert names == [b"bottom-a", b"top-a", b"upper-b"]


@pytest.mark.parametrize("value", [b"y", b"\x00\x04\x00", bytes(100), b"\x01\x04\x00\x00"])
def test_metacopy_marks_that_no_overlay_wrote(layers: Layers, value: bytes) -> None:
    (layers.bottom / "file").write_bytes(b"content")
    (layers.top / "file").touch()
    os.setxattr(layers.top / "file", METACOPY, value)
    with Union(layers.top, [layers.bottom]) as union:
        fails(errno.EIO, lambda: union.stat("file"))


def test_a_fallthru_to_something_else(layers: Layers) -> None:
    """A stub of a file whose place below a fifo has taken must not wait for a writer."""
    os.mkfifo(layers.bottom / "file")
    (layers.top / "file").touch()
    os.truncate(layers.top / "file", 7)
    os.setxattr(layers.top / "file", METACOPY, b"")
    with Union(layers.top, [layers.bottom]) as union:
        fails(errno.EIO, lambda: union.open("file", os.O_RDONLY))
        fails(errno.EIO, lambda: union.chmod("file", 0o600))
        fails(errno.EIO, lambda: union.open("file", os.O_RDWR))


def test_devices_of_a_layer_are_not_opened(layers: Layers) -> None:
    os.mknod(layers.bottom / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with Union(layers.top, [layers.bottom]) as union:
        fails(errno.EACCES, lambda: union.open("null", os.O_RDONLY))
        fails(errno.EACCES, lambda: union.open("null", os.O_WRONLY))
        os.close(union.open("null", os.O_PATH))
        union.chmod("null", 0o600)
        assert (layers.top / "null").stat().st_rdev == os.makedev(1, 3)


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", b"a:b,c", b"-", "é".encode()])
def test_names_of_any_bytes(layers: Layers, name: bytes) -> None:
    os.mkdir(os.fsencode(layers.bottom) + b"/" + name)
    with Union(layers.top, [layers.bottom]) as union:
        os.close(union.creat(name + b"/" + name))
        assert [entry.name for entry in union.readdir(name)] == [name]
        union.rename(name + b"/" + name, b"moved")
        union.rmdir(name)
        assert [entry.name for entry in union.readdir("/")] == [b"moved"]
        with pytest.raises(OSError, match="No such file") as caught:
            union.stat(name)
        assert os.fsencode(caught.value.filename) == name


def test_marks_of_the_layers_are_not_shown(layers: Layers) -> None:
    """Nor can they be set: what is set is an inner overlay's, stored one level down."""
    (layers.bottom / "d").mkdir()
    with Union(layers.top, [layers.bottom]) as union:
        union.setxattr("d", "trusted.overlay.opaque", b"y")
        assert union.getxattr("d", "trusted.overlay.opaque") == b"y"
        assert union.listxattr("d") == ["trusted.overlay.opaque"]
        assert os.listxattr(layers.top / "d") == ["trusted.overlay.overlay.opaque"]
        union.setxattr("d", "user.overlay.redirect", b"/etc")  # of the other family: data
        union.removexattr("d", "trusted.overlay.opaque")
        assert union.listxattr("d") == ["user.overlay.redirect"]


def test_a_union_in_a_user_namespace(root: None, tmp_path: Path) -> None:
    """By an ordinary user, with user. marks; a mount made in the same place reads them."""
    for path in (tmp_path, *list(tmp_path.parents)[:2]):
        os.chmod(path, 0o755)
    base = tmp_path / "base"
    (base / "bottom" / "d").mkdir(parents=True)
    (base / "bottom" / "d" / "file").write_bytes(b"content")
    (base / "bottom" / "gone").touch()
    (base / "top").mkdir()
    for path in (base, *base.rglob("*")):
        os.chown(path, 65534, 65534)

    def action() -> str:
        from overlay import kernel
        from overlay.kernel import Overlay

        with Union(base / "top", [base / "bottom"]) as union:
            assert union._stack.family is MarkFamily.USER
            union.unlink("gone")
            union.unlink("d/file")
            union.rmdir("d")
            union.mkdir("d")
            os.close(union.creat("d/new"))
            union.chmod("d/new", 0o640)
            assert [entry.name for entry in union.readdir("/")] == [b"d"]
        (base / "mnt").mkdir()
        layers = Overlay((str(base / "bottom"),), str(base / "top"))
        with kernel.mounted(layers, str(base / "mnt")) as mnt:
            return f"{os.listdir(mnt)} {os.listdir(mnt + '/d')}"

    assert in_user_namespace(action) == "['d'] ['new']"
    assert os.getxattr(base / "top" / "d", "user.overlay.opaque") == b"y"


def test_an_ordinary_user_is_told_what_is_missing(layers: Layers) -> None:
    """Marks that cannot be read would be taken for none, and deleted files come back."""

    def action() -> object:
        os.setresuid(65534, 65534, 65534)
        return Union(layers.top, [layers.bottom])

    assert in_child(action).startswith("NoPrivilege: an ordinary user is not shown")


def test_a_mounted_top_is_left_alone(layers: Layers) -> None:
    options = {"index": "on"}
    with (
        overlay(layers.mnt, [layers.bottom], layers.top, layers.work, options),
        pytest.raises(TopInUse, match="is mounted"),
    ):
        Union(layers.top, [layers.bottom], layers.work)
    Union(layers.top, [layers.bottom], layers.work).close()


def test_a_capability_no_kernel_wrote(layers: Layers) -> None:
    """An attribute that cannot be read cannot be copied; nothing is left of the attempt."""
    (layers.bottom / "file").touch()
    os.setxattr(layers.bottom / "file", "user.fine", struct.pack("I", 1))
    os.setxattr(layers.bottom / "file", "security.capability", b"")
    with Union(layers.top, [layers.bottom]) as union:
        fails(errno.EINVAL, lambda: union.open("file", os.O_WRONLY))
        os.close(union.open("file", os.O_RDONLY))
    assert os.listdir(layers.top) == []
    assert os.listdir(layers.work / "work") == []
