"""The document's own examples (L113–L130), and its lookup (L84–L108, L276–L322)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

import pytest

from overlay import syscalls
from overlay.errors import EnvironmentLacks, Refused, TopInUse, UsageError
from overlay.union import Union
from tests.conftest import Layers
from tests.overlay.unions import fails, is_whiteout, names, read
from tests.rawoverlay import overlay

OPAQUE, REDIRECT = "trusted.overlay.opaque", "trusted.overlay.redirect"
METACOPY = "trusted.overlay.metacopy"


@pytest.fixture
def union(layers: Layers) -> Iterator[Union]:
    """The document's names on the bottom, and an open union over them."""
    (layers.bottom / "oldfile").write_bytes(b"old content")
    (layers.bottom / "olddir").mkdir()
    (layers.bottom / "shareddir" / "sub").mkdir(parents=True)
    (layers.bottom / "shareddir" / "file").write_bytes(b"shared")
    with Union(layers.top, [layers.bottom]) as opened:
        yield opened


# ------------------------------------------------------------------ the examples


def test_creat_makes_a_file_on_the_top(union: Union, layers: Layers) -> None:
    os.close(union.creat("/newfile"))
    assert os.listdir(layers.top) == ["newfile"]


def test_unlink_makes_a_whiteout(union: Union, layers: Layers) -> None:
    union.unlink("/oldfile")
    assert is_whiteout(layers.top / "oldfile")
    fails(errno.ENOENT, lambda: union.stat("/oldfile"))
    fails(errno.ENOENT, lambda: union.unlink("/oldfile"))


def test_unlink_of_what_the_top_alone_has_leaves_nothing(union: Union, layers: Layers) -> None:
    os.close(union.creat("/newfile"))
    union.unlink("/newfile")
    assert os.listdir(layers.top) == []


def test_editing_copies_up_at_open_time(union: Union, layers: Layers) -> None:
    fd = union.open("/oldfile", os.O_WRONLY)
    assert (layers.top / "oldfile").read_bytes() == b"old content"
    os.write(fd, b"new")
    os.close(fd)
    assert read(union, "/oldfile") == b"new content"
    assert (layers.bottom / "oldfile").read_bytes() == b"old content"


@pytest.mark.parametrize(("size", "content"), [(0, b""), (3, b"old"), (13, b"old content\0\0")])
def test_truncate_keeps_that_many_bytes(union: Union, size: int, content: bytes) -> None:
    union.truncate("/oldfile", size)
    assert read(union, "/oldfile") == content


def test_touch_chmod_and_chown_copy_up(union: Union, layers: Layers) -> None:
    union.utime("/oldfile", (1, 2))
    assert (layers.top / "oldfile").stat().st_mtime_ns == 2
    union.chmod("/oldfile", 0o640)
    union.chown("/oldfile", 7, 8)
    st = (layers.top / "oldfile").stat()
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o640, 7, 8)


def test_mkdir_makes_a_directory_on_the_top(union: Union, layers: Layers) -> None:
    union.mkdir("/newdir", 0o750)
    assert stat.S_IMODE((layers.top / "newdir").stat().st_mode) == 0o750
    assert OPAQUE not in os.listxattr(layers.top / "newdir")


def test_rmdir_makes_a_whiteout_and_mkdir_an_opaque_directory(union: Union, layers: Layers) -> None:
    union.rmdir("/olddir")
    assert is_whiteout(layers.top / "olddir")
    union.mkdir("/olddir")
    assert os.getxattr(layers.top / "olddir", OPAQUE) == b"y"


def test_a_directory_that_replaces_one_does_not_show_the_old_content(union: Union) -> None:
    union.unlink("/shareddir/file")
    union.rmdir("/shareddir/sub")
    union.rmdir("/shareddir")
    union.mkdir("/shareddir")
    assert names(union, "/shareddir") == []


def test_link_copies_up(union: Union, layers: Layers) -> None:
    union.link("/oldfile", "/newlink")
    assert os.path.samefile(layers.top / "oldfile", layers.top / "newlink")
    assert union.stat("/newlink").st_nlink == 2


def test_symlink_is_nothing_special(union: Union, layers: Layers) -> None:
    union.symlink("/oldfile", "/symlink")
    assert os.listdir(layers.top) == ["symlink"]
    assert read(union, "/symlink") == b"old content"


def test_rename_leaves_a_whiteout(union: Union, layers: Layers) -> None:
    union.rename("/oldfile", "/newfile")
    assert is_whiteout(layers.top / "oldfile")
    assert read(union, "/newfile") == b"old content"
    assert names(union) == ["newfile", "olddir", "shareddir"]


def test_rename_of_a_directory_is_exdev(union: Union, layers: Layers) -> None:
    fails(errno.EXDEV, lambda: union.rename("/olddir", "/moved"))
    union.mkdir("/mine")
    error = fails(errno.EXDEV, lambda: union.rename("/mine", "/moved"))
    assert (error.filename, error.filename2) == ("/mine", "/moved")
    assert sorted(os.listdir(layers.top)) == ["mine"]


def test_own_directories_move_if_asked_to(union: Union, layers: Layers) -> None:
    union.close()
    with Union(layers.top, [layers.bottom], move_directories=True) as other:
        fails(errno.EXDEV, lambda: other.rename("/olddir", "/moved"))
        other.mkdir("/mine")
        other.rename("/mine", "/olddir")
        # In the place of a bottom's directory it must not show that one's entries.
        assert os.getxattr(layers.top / "olddir", OPAQUE) == b"y"


def test_rename_takes_the_place_of_an_empty_directory_with_whiteouts(layers: Layers) -> None:
    (layers.bottom / "d").mkdir()
    (layers.bottom / "d" / "gone").touch()
    with Union(layers.top, [layers.bottom], move_directories=True) as union:
        union.unlink("d/gone")
        union.mkdir("mine")
        os.close(union.creat("mine/file"))
        union.rename("mine", "d")
        assert names(union, "d") == ["file"]
        assert names(union) == ["d"]


def test_whiteouts_are_not_made_by_mknod(union: Union, layers: Layers) -> None:
    fails(errno.EPERM, lambda: union.mknod("/dev", stat.S_IFCHR | 0o600, 0))
    union.mknod("/null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    assert os.listdir(layers.top) == ["null"]


def test_flags_of_an_inode(union: Union, layers: Layers) -> None:
    union.set_flags("/oldfile", 0x10)
    assert union.get_flags("/oldfile") == 0x10
    fails(errno.EPERM, lambda: union.open("/oldfile", os.O_WRONLY))
    fails(errno.EPERM, lambda: union.unlink("/oldfile"))
    # As the kernel stores it, so that the top stays workable.
    assert os.getxattr(layers.top / "oldfile", "trusted.overlay.protattr") == b"i"
    union.set_flags("/oldfile", 0)
    union.unlink("/oldfile")


@pytest.mark.parametrize("replaces", [False, True])
def test_flags_are_inherited(union: Union, replaces: bool) -> None:
    """Though what is new is made elsewhere; 0x40 is FS_NODUMP_FL."""
    union.set_flags("/shareddir", 0x40)
    if replaces:
        union.unlink("/shareddir/file")
    os.close(union.creat("/shareddir/file" if replaces else "/shareddir/new"))
    union.mkdir("/shareddir/newdir")
    assert union.get_flags("/shareddir/newdir") == 0x40
    assert union.get_flags("/shareddir/file" if replaces else "/shareddir/new") == 0x40


# ------------------------------------------------------------------ opening a union


def test_a_top_serves_one_union(union: Union, layers: Layers) -> None:
    with pytest.raises(TopInUse):
        Union(layers.top, [layers.bottom])
    union.close()
    Union(layers.top, [layers.bottom]).close()


def test_layers_that_overlap_are_refused(layers: Layers) -> None:
    with pytest.raises(UsageError):
        Union(layers.bottom, [layers.bottom])


def test_a_top_without_attributes_is_refused(layers: Layers) -> None:
    syscalls.mount(None, layers.mnt, "ramfs", 0, None)
    try:
        (layers.mnt / "top").mkdir()
        with pytest.raises(EnvironmentLacks, match="extended attributes") as caught:
            Union(layers.mnt / "top", [layers.bottom])
        assert caught.value.hint
        assert os.listdir(layers.mnt) == ["top"]
    finally:
        syscalls.umount2(layers.mnt)


def test_a_volatile_top_is_refused(layers: Layers) -> None:
    options = {"volatile": ""}
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, options):
        pass
    with pytest.raises(Refused, match="volatile"):
        Union(layers.top, [layers.bottom], layers.work)


def test_errors_name_the_path_of_the_union(union: Union) -> None:
    error = fails(errno.ENOENT, lambda: union.stat("/shareddir/nothing"))
    assert error.filename == "/shareddir/nothing"


def test_the_bottom_cannot_be_changed_by_a_descriptor(union: Union, layers: Layers) -> None:
    """L433: whatever is done with it; the mount it came through is read-only."""
    fd = union.open("/oldfile", os.O_RDONLY)
    try:
        fails(errno.EROFS, lambda: os.fchmod(fd, 0))
        fails(errno.EROFS, lambda: os.setxattr(fd, "user.x", b""))
        before = os.fstat(fd).st_atime_ns
        os.utime(layers.bottom / "oldfile", ns=(1, 1))
        os.read(fd, 10)
        assert os.fstat(fd).st_atime_ns == 1 != before
    finally:
        os.close(fd)


def test_exchange_needs_both(union: Union) -> None:
    exchange = syscalls.RENAME_EXCHANGE
    fails(errno.ENOENT, lambda: union.rename("/oldfile", "/nothing", exchange))
    os.close(union.creat("/newfile"))
    union.rename("/oldfile", "/newfile", exchange)
    assert (read(union, "/oldfile"), read(union, "/newfile")) == (b"", b"old content")
