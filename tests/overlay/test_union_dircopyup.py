"""Directory copyup (L108–L111, L126, L533–L537): written by the engine, read by the kernel."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlay import kernel
from overlay.errors import Refused
from overlay.kernel import Overlay
from overlay.marks import MarkFamily, Whiteout
from overlay.priming import sharedindex
from overlay.spec.fuzz.trees import Tree, engine_tree, mounted_tree
from overlay.union import Union
from tests.conftest import Layers
from tests.rawoverlay import overlay

OPAQUE, REDIRECT = "trusted.overlay.opaque", "trusted.overlay.redirect"
METACOPY = "trusted.overlay.metacopy"
ALL_TIMES = 1 << 62  # every time counts


def fill(bottom: Path) -> None:
    """One entry of each type in ``d``."""
    directory = bottom / "d"
    (directory / "sub" / "deep").mkdir(parents=True)
    (directory / "sub" / "file").write_bytes(b"in sub")
    (directory / "file").write_bytes(b"content" * 100)
    os.chown(directory / "file", 5, 6)
    os.chmod(directory / "file", 0o4711)
    os.setxattr(directory / "file", "user.x", b"value")
    (directory / "link").symlink_to("file")
    os.mkfifo(directory / "fifo")
    os.mknod(directory / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    for path in directory.iterdir():
        os.utime(path, ns=(1, 2), follow_symlinks=False)
    os.utime(directory, ns=(3, 4))


@contextmanager
def mounted(layers: Layers) -> Iterator[Path]:
    view = Overlay((str(layers.bottom),), str(layers.top), profile="fallthru")
    with kernel.mounted(view, str(layers.mnt)):
        yield layers.mnt


def shown_by_kernel(layers: Layers) -> Tree:
    with mounted(layers) as mnt:
        return mounted_tree(str(mnt), ALL_TIMES)


def shown_by_engine(layers: Layers) -> Tree:
    return engine_tree((str(layers.bottom),), layers.top, ALL_TIMES)


def test_readdir_makes_fallthrus_and_the_directory_opaque(layers: Layers) -> None:
    fill(layers.bottom)
    before = shown_by_engine(layers)
    with Union(layers.top, [layers.bottom]) as union:
        found = union.readdir("d")
    names = [b"fifo", b"file", b"link", b"null", b"sub"]
    assert [entry.name for entry in found] == names
    top = layers.top / "d"
    assert sorted(os.listdir(os.fsencode(top))) == names
    assert os.getxattr(top, OPAQUE) == b"y"
    assert os.getxattr(top / "file", REDIRECT) == b"/d/file"
    assert os.getxattr(top / "file", METACOPY) == b""
    assert (top / "file").stat().st_blocks == 0
    assert os.getxattr(top / "sub", REDIRECT) == b"/d/sub"
    assert os.listdir(top / "sub") == []
    assert shown_by_engine(layers) == before
    assert shown_by_kernel(layers) == before


def test_only_the_first_readdir_copies(layers: Layers) -> None:
    fill(layers.bottom)
    with Union(layers.top, [layers.bottom]) as union:
        first = union.readdir("d")
        before = (layers.top / "d").stat().st_ctime_ns
        assert union.readdir("d") == first
        assert (layers.top / "d").stat().st_ctime_ns == before


def test_what_was_changed_before_stays_so(layers: Layers) -> None:
    fill(layers.bottom)
    with Union(layers.top, [layers.bottom]) as union:
        union.unlink("d/link")
        union.mkdir("d/new")
        union.chmod("d/file", 0o600)
        os.close(union.creat("d/sub/mine"))
        before = shown_by_engine(layers)
        union.readdir("d")
        union.readdir("d/sub")
    assert shown_by_engine(layers) == before
    assert shown_by_kernel(layers) == before
    # No whiteout is left, for nothing is below any more.
    assert sorted(os.listdir(layers.top / "d")) == ["fifo", "file", "new", "null", "sub"]


def test_inode_numbers_and_links_are_right_afterwards(layers: Layers) -> None:
    """L561 and L631: d_ino is what stat says, before and after; links count from then on."""
    fill(layers.bottom)
    with Union(layers.top, [layers.bottom], directory_copyup=False) as union:
        merged = union.readdir("d")
        file = union.stat("d/file").st_ino
    with Union(layers.top, [layers.bottom]) as union:
        copied = union.readdir("d")
        for entries in (merged, copied):
            for entry in entries:
                assert entry.type == stat.S_IFMT(union.lstat(b"d/" + entry.name).st_mode)
        for entry in copied:
            assert entry.ino == union.lstat(b"d/" + entry.name).st_ino
        assert union.stat("d/file").st_ino == file == (layers.bottom / "d/file").stat().st_ino
        assert union.stat("d").st_nlink == 3
        union.mkdir("d/another")
        assert union.stat("d").st_nlink == 4


def test_the_root_stays_merged(layers: Layers) -> None:
    """The kernel merges the layers' roots whatever is marked, so a fallthru is no use there."""
    (layers.bottom / "file").touch()
    with Union(layers.top, [layers.bottom]) as union:
        assert [entry.name for entry in union.readdir("/")] == [b"file"]
        union.unlink("file")
        assert union.readdir("/") == []
    assert OPAQUE not in os.listxattr(layers.top)
    assert shown_by_kernel(layers).keys() == {b"."}


def test_what_the_kernel_left_gets_its_redirects(layers: Layers) -> None:
    """Stubs and renamed directories found their other part by name: now they cannot."""
    fill(layers.bottom)
    stubs = {"metacopy": "on", "redirect_dir": "on"}
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, stubs) as mnt:
        os.chmod(mnt / "d" / "file", 0o600)
        (mnt / "d" / "sub").rename(mnt / "d" / "moved")
        (mnt / "d" / "moved" / "new").touch()
    assert METACOPY in os.listxattr(layers.top / "d" / "file")
    before = shown_by_engine(layers)
    with Union(layers.top, [layers.bottom]) as union:
        union.readdir("d")
        union.readdir("d/moved")
        assert shown_by_engine(layers) == before
        fd = union.open("d/file", os.O_RDONLY)
        assert os.read(fd, 1000) == b"content" * 100
        os.close(fd)
    assert os.getxattr(layers.top / "d" / "moved", OPAQUE) == b"y"
    assert os.getxattr(layers.top / "d" / "moved" / "deep", REDIRECT) == b"/d/sub/deep"
    assert shown_by_kernel(layers) == before


def test_a_fallthru_says_where_its_file_is_in_all_bottoms(layers: Layers) -> None:
    """With several bottoms, one of which has renamed a directory itself."""
    upper = layers.base / "upper"
    (layers.bottom / "old").mkdir()
    (layers.bottom / "old" / "file").write_bytes(b"content")
    (upper / "d").mkdir(parents=True)
    os.setxattr(upper / "d", REDIRECT, b"/old")
    os.mknod(upper / "old", stat.S_IFCHR, 0)
    with Union(layers.top, [upper, layers.bottom]) as union:
        union.readdir("d")
        assert os.getxattr(layers.top / "d" / "file", REDIRECT) == b"/d/file"
        fd = union.open("d/file", os.O_RDONLY)
        assert os.read(fd, 100) == b"content"
        os.close(fd)


def test_attribute_whiteouts_are_not_shown_afterwards(layers: Layers) -> None:
    fill(layers.bottom)
    with Union(layers.top, [layers.bottom], whiteouts=Whiteout.XATTR) as union:
        union.unlink("d/file")
        assert b"file" not in {entry.name for entry in union.readdir("d")}
        before = shown_by_engine(layers)
    assert shown_by_kernel(layers) == before


def test_without_it_the_entries_are_merged_in_memory(layers: Layers) -> None:
    fill(layers.bottom)
    with Union(layers.top, [layers.bottom], directory_copyup=False, matching=False) as union:
        assert len(union.readdir("d")) == 5
    assert os.listdir(layers.top) == []


def test_user_marks_have_no_directory_copyup(layers: Layers) -> None:
    """No mount in a user namespace could read them: overlayfs refuses metacopy there."""
    fill(layers.bottom)
    with Union(layers.top, [layers.bottom], family=MarkFamily.USER) as union:
        assert len(union.readdir("d")) == 5
        union.rmdir("d/sub/deep")
        assert union.readdir("d/sub")[0].name == b"file"
    assert os.listdir(layers.top / "d") == ["sub"]


def test_a_shared_index(layers: Layers) -> None:
    """The engine and a mount see the same through the bottoms' shared index."""
    fill(layers.bottom)
    before = shown_by_engine(layers)
    index = layers.base / "bottom.meta"
    sharedindex.build(str(index), [str(layers.bottom)])
    with Union(layers.top, [layers.bottom], index=index) as union:
        assert len(union.readdir("d")) == 5
        fd = union.open("d/file", os.O_RDWR)
        assert os.read(fd, 1000) == b"content" * 100
        os.close(fd)
        union.unlink("d/link")
        union.utime("d/file", (1, 2))
    del before[b"./d/link"]
    view = Overlay((str(layers.bottom),), str(layers.top), profile="fallthru", index=str(index))
    with kernel.mounted(view, str(layers.mnt)):
        after = mounted_tree(str(layers.mnt), ALL_TIMES)
    assert after.keys() == before.keys()
    assert after[b"./d/file"] == before[b"./d/file"]
    (layers.bottom / "new").touch()
    with pytest.raises(Refused):
        Union(layers.top, [layers.bottom], index=index)


def test_a_stub_with_two_names_is_filled_where_it_is(layers: Layers) -> None:
    (layers.bottom / "d").mkdir()
    (layers.bottom / "d" / "file").write_bytes(b"content")
    with Union(layers.top, [layers.bottom]) as union:
        union.readdir("d")
        os.link(layers.top / "d" / "file", layers.top / "d" / "second")
        os.close(union.open("d/file", os.O_RDWR))
        union.utime("d/second", (1, 1))
        assert union.stat("d/file").st_mtime_ns == 1
        assert union.stat("d/file").st_nlink == 2
    assert (layers.top / "d" / "second").read_bytes() == b"content"


def test_a_fallthru_whose_file_is_gone(layers: Layers) -> None:
    (layers.bottom / "d").mkdir()
    (layers.bottom / "d" / "file").write_bytes(b"content")
    with Union(layers.top, [layers.bottom]) as union:
        union.readdir("d")
        (layers.bottom / "d" / "file").unlink()
        for flags in (os.O_RDONLY, os.O_WRONLY):
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                union.open("d/file", flags)
        union.unlink("d/file")
        assert union.readdir("d") == []
