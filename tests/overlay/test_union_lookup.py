"""Lookup (L84–L108, L276–L322): what is found, and what a walk writes."""

from __future__ import annotations

import errno
import os

import pytest

from overlay.union import Union
from tests.conftest import Layers
from tests.fsimages import tmpfs
from tests.overlay.unions import fails, is_whiteout, names, read

OPAQUE, REDIRECT = "trusted.overlay.opaque", "trusted.overlay.redirect"
METACOPY = "trusted.overlay.metacopy"


def test_an_opaque_directory_hides_and_a_fallthru_overrides_it(layers: Layers) -> None:
    (layers.bottom / "d" / "sub").mkdir(parents=True)
    (layers.bottom / "d" / "hidden").touch()
    (layers.bottom / "d" / "shown").write_bytes(b"below")
    (layers.top / "d" / "sub").mkdir(parents=True)
    os.setxattr(layers.top / "d", OPAQUE, b"y")
    os.setxattr(layers.top / "d" / "sub", REDIRECT, b"/d/sub")
    with (layers.top / "d" / "shown").open("wb") as stub:
        stub.truncate(5)
    os.setxattr(layers.top / "d" / "shown", METACOPY, b"")
    os.setxattr(layers.top / "d" / "shown", REDIRECT, b"/d/shown")
    with Union(layers.top, [layers.bottom]) as union:
        fails(errno.ENOENT, lambda: union.stat("d/hidden"))
        assert read(union, "d/shown") == b"below"
        assert names(union, "d") == ["shown", "sub"]
        fd = union.open("d/shown", os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"!")
        os.close(fd)
        assert (layers.top / "d" / "shown").read_bytes() == b"below!"


def test_several_bottoms_merge_from_top_to_bottom(layers: Layers) -> None:
    upper = layers.base / "upper"
    for layer, name in ((upper, "one"), (layers.bottom, "two")):
        (layer / "d").mkdir(parents=True)
        (layer / "d" / name).touch()
        (layer / "d" / "both").write_text(layer.name)
    with Union(layers.top, [upper, layers.bottom]) as union:
        assert names(union, "d") == ["both", "one", "two"]
        assert read(union, "d/both") == b"upper"


@pytest.mark.parametrize("redirect", [b"/a/old", b"old"])
def test_a_renamed_directory_is_found(layers: Layers, redirect: bytes) -> None:
    """What a kernel with redirect_dir=on left: the document has no such renames."""
    (layers.bottom / "a" / "old").mkdir(parents=True)
    (layers.bottom / "a" / "old" / "file").write_bytes(b"moved along")
    (layers.top / "a" / "new").mkdir(parents=True)
    os.setxattr(layers.top / "a" / "new", REDIRECT, redirect)
    with Union(layers.top, [layers.bottom]) as union:
        assert read(union, "a/new/file") == b"moved along"
        union.chmod("a/new/file", 0o600)
        assert (layers.top / "a" / "new" / "file").read_bytes() == b"moved along"
        assert names(union, "a/new") == ["file"]


def test_walking_makes_matching_directories(layers: Layers) -> None:
    """A directory is matched when something is looked up in it, not when a path ends at it."""
    (layers.bottom / "a" / "b" / "c").mkdir(parents=True)
    os.chmod(layers.bottom / "a", 0o710)
    os.setxattr(layers.bottom / "a", "user.x", b"value")
    os.utime(layers.bottom / "a", ns=(10, 20))
    with Union(layers.top, [layers.bottom]) as union:
        union.stat("a")
        assert os.listdir(layers.top) == []
        union.stat("a/b")
        copy = layers.top / "a"
        assert (oct(copy.stat().st_mode), copy.stat().st_mtime_ns) == ("0o40710", 20)
        assert os.getxattr(copy, "user.x") == b"value"
        assert os.listdir(copy) == []
        union.stat("a/b/c")
        assert os.listdir(copy) == ["b"]
        assert os.listdir(copy / "b") == []
        # What happened on the top is no change of the union.
        assert union.stat("a").st_mtime_ns == 20


def test_matching_can_wait_until_something_is_written(layers: Layers) -> None:
    (layers.bottom / "a" / "b").mkdir(parents=True)
    with Union(layers.top, [layers.bottom], matching=False) as union:
        union.stat("a/b")
        assert os.listdir(layers.top) == []
        os.close(union.creat("a/b/new"))
        assert os.listdir(layers.top / "a" / "b") == ["new"]


def test_a_walk_that_reads_does_not_need_a_writable_top(layers: Layers) -> None:
    """Only writing calls may meet ENOSPC (L629)."""
    (layers.bottom / "a").mkdir()
    (layers.bottom / "a" / "file").write_bytes(b"content")
    small = layers.base / "small"
    small.mkdir()
    with tmpfs(small, options={"nr_inodes": "7"}):
        (small / "top").mkdir()
        with Union(small / "top", [layers.bottom]) as union:
            while True:
                try:
                    (small / str(len(os.listdir(small)))).touch()
                except OSError:
                    break
            assert read(union, "a/file") == b"content"
            assert names(union, "a") == ["file"]
            fails(errno.ENOSPC, lambda: union.creat("a/new"))


def test_symlinks_are_followed_in_the_union(layers: Layers) -> None:
    (layers.bottom / "etc").mkdir()
    (layers.bottom / "etc" / "passwd").write_bytes(b"the union's")
    (layers.bottom / "etc" / "up").symlink_to("../../../etc/passwd")
    (layers.bottom / "abs").symlink_to("/etc")
    (layers.bottom / "loop").symlink_to("loop")
    with Union(layers.top, [layers.bottom]) as union:
        assert read(union, "abs/passwd") == b"the union's"
        assert read(union, "etc/up") == b"the union's"
        fails(errno.ELOOP, lambda: union.stat("loop"))
        fails(errno.ELOOP, lambda: union.open("abs", os.O_RDONLY | os.O_NOFOLLOW))


@pytest.mark.parametrize(("count", "works"), [(40, True), (41, False)])
def test_forty_symlinks_are_followed(layers: Layers, count: int, works: bool) -> None:
    (layers.bottom / "0").write_bytes(b"end")
    for number in range(count):
        (layers.bottom / str(number + 1)).symlink_to(str(number))
    with Union(layers.top, [layers.bottom]) as union:
        if works:
            assert read(union, str(count)) == b"end"
        else:
            fails(errno.ELOOP, lambda: union.stat(str(count)))


def test_names_and_depth_have_no_limit_but_255(layers: Layers) -> None:
    name = b"n" * 255
    here = os.open(layers.bottom, os.O_RDONLY)
    for _ in range(40):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open(b"file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    path = b"/".join([name] * 40)
    assert len(path) > 2 * 4096
    with Union(layers.top, [layers.bottom]) as union:
        os.close(union.open(path + b"/file", os.O_WRONLY))
        union.mkdir(path + b"/new")
        assert [entry.name for entry in union.readdir(path)] == [b"file", b"new"]
        union.unlink(path + b"/file")
        union.rmdir(path + b"/new")
        fails(errno.ENOTEMPTY, lambda: union.rmdir(name))
        fails(errno.ENAMETOOLONG, lambda: union.mkdir(b"n" * 256))


def test_what_is_on_the_top_covers_another_type(layers: Layers) -> None:
    (layers.bottom / "x").mkdir()
    (layers.bottom / "x" / "hidden").touch()
    (layers.bottom / "y").touch()
    (layers.top / "x").write_bytes(b"file")
    (layers.top / "y").mkdir()
    with Union(layers.top, [layers.bottom]) as union:
        assert read(union, "x") == b"file"
        fails(errno.ENOTDIR, lambda: union.stat("x/hidden"))
        union.rmdir("y")
        assert is_whiteout(layers.top / "y")
