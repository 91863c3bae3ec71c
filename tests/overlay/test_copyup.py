"""File copyup (L105–L106, L324–L360): when, of what, and that nothing else happens."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Callable
from io import RawIOBase
from pathlib import Path
from unittest import mock

import pytest

from overlay import acl
from overlay.credentials import Credentials
from overlay.union import Union
from tests.conftest import Layers
from tests.fsimages import loop_filesystem, tmpfs
from tests.overlay.unions import fails

FIEMAP, SHARED = 0xC020660B, 0x2000
CAPABILITY = struct.pack("<IIIII", 0x2000001, 1 << 10, 0, 0, 0)


def dressed(path: Path) -> Path:
    """A file with everything a copy has to have."""
    path.write_bytes(b"content")
    entries = (
        acl.AclEntry(acl.Tag.USER_OBJ, 6),
        acl.AclEntry(acl.Tag.USER, 4, 1234),
        acl.AclEntry(acl.Tag.GROUP_OBJ, 4),
        acl.AclEntry(acl.Tag.MASK, 5),
        acl.AclEntry(acl.Tag.OTHER, 0),
    )
    os.chown(path, 1000, 1001)
    os.chmod(path, 0o6750)
    os.setxattr(path, acl.ACCESS, acl.encode(entries))
    os.setxattr(path, "security.capability", CAPABILITY)
    os.setxattr(path, "user.comment", b"\0binary\xff")
    os.setxattr(path, "trusted.overlay.overlay.opaque", b"y")
    os.utime(path, ns=(1_000_000_001, 2_000_000_002))
    return path


def everything(path: Path) -> object:
    st = path.stat()
    # xfs shows an access list a second time, as it stores it.
    names = [name for name in os.listxattr(path) if name != "trusted.SGI_ACL_FILE"]
    xattrs = {name: os.getxattr(path, name) for name in names}
    return (
        *(oct(st.st_mode), st.st_uid, st.st_gid, st.st_size, st.st_mtime_ns, xattrs),
        path.read_bytes(),
    )


# --------------------------------------------------------------------------- of what


@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs", "btrfs"])
def test_a_copy_has_everything(root: None, tmp_path: Path, kind: str) -> None:
    """On each file system a top can be on; the bottom is another one, on tmpfs."""
    bottom, mounted = tmp_path / "bottom", tmp_path / "mounted"
    bottom.mkdir()
    mounted.mkdir()
    with tmpfs(bottom), tmpfs(mounted) if kind == "tmpfs" else loop_filesystem(kind) as on:
        (on / "top").mkdir()
        original = dressed(bottom / "file")
        expected = everything(original)
        access = original.stat().st_atime_ns
        with Union(on / "top", [bottom]) as union:
            os.close(union.open("file", os.O_RDWR))
            assert union.getxattr("file", "trusted.overlay.opaque") == b"y"
        assert (on / "top" / "file").stat().st_atime_ns == access
        assert everything(on / "top" / "file") == expected


def test_every_type_is_copied_up(layers: Layers) -> None:
    make: dict[str, Callable[[Path], object]] = {
        "fifo": os.mkfifo,
        "link": lambda path: path.symlink_to("nowhere"),
        "device": lambda path: os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 200)),
        "dir": os.mkdir,
        "file": Path.touch,
    }
    for name, call in make.items():
        call(layers.bottom / name)
        os.utime(layers.bottom / name, ns=(5, 6), follow_symlinks=False)
    with socket.socket(socket.AF_UNIX) as unix:
        os.chdir(layers.bottom)
        unix.bind("socket")
        os.chdir("/")
    with Union(layers.top, [layers.bottom]) as union:
        for name in (*make, "socket"):
            union.chown(name, 9, 9, follow=False)
            before, after = (layers.bottom / name).lstat(), (layers.top / name).lstat()
            assert (after.st_mode, after.st_rdev) == (before.st_mode, before.st_rdev)
            assert (after.st_uid, after.st_mtime_ns) == (9, before.st_mtime_ns)
        assert union.readlink("link") == b"nowhere"


def test_inode_flags_come_along(layers: Layers) -> None:
    (layers.bottom / "file").touch()
    fd = os.open(layers.bottom / "file", os.O_RDONLY)
    fcntl.ioctl(fd, 0x40086602, struct.pack("l", 0x10))
    try:
        with Union(layers.top, [layers.bottom]) as union:
            assert union.get_flags("file") == 0x10
            fails(errno.EPERM, lambda: union.open("file", os.O_WRONLY))
            union.set_flags("file", 0)
            os.close(union.open("file", os.O_WRONLY))
    finally:
        fcntl.ioctl(fd, 0x40086602, struct.pack("l", 0))
        os.close(fd)


def test_holes_stay_holes(layers: Layers) -> None:
    with (layers.bottom / "sparse").open("wb") as file:
        file.seek(50 << 20)
        file.write(b"in the middle")
        file.truncate(100 << 20)
    with Union(layers.top, [layers.bottom]) as union:
        os.close(union.open("sparse", os.O_WRONLY))
    copy, original = (layers.top / "sparse").stat(), (layers.bottom / "sparse").stat()
    assert (copy.st_size, copy.st_blocks) == (original.st_size, original.st_blocks)
    with (layers.top / "sparse").open("rb") as file:
        file.seek(50 << 20)
        assert file.read(20) == b"in the middle" + bytes(7)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_blocks_are_shared_where_they_can_be(root: None, kind: str) -> None:
    with loop_filesystem(kind) as on:
        (on / "bottom").mkdir()
        (on / "top").mkdir()
        (on / "bottom" / "big").write_bytes(os.urandom(1 << 20))
        os.sync()
        with Union(on / "top", [on / "bottom"]) as union:
            os.close(union.open("big", os.O_WRONLY))
        assert (on / "top" / "big").read_bytes() == (on / "bottom" / "big").read_bytes()
        assert _first_extent_flags(on / "top" / "big") & SHARED


def _first_extent_flags(path: Path) -> int:
    request = struct.pack("=QQIIII", 0, 1 << 40, 1, 0, 1, 0) + bytes(56)
    with path.open("rb") as file:
        answer = fcntl.ioctl(file, FIEMAP, request)
    return int(struct.unpack_from("=I", answer, 32 + 40)[0])


@pytest.mark.parametrize("answer", [OSError(errno.EXDEV, "no"), 0])
def test_reading_and_writing_will_do(layers: Layers, answer: object) -> None:
    """Where the kernel cannot copy by itself, and where it says 0 instead."""
    content = os.urandom(3 << 20)
    (layers.bottom / "file").write_bytes(content)
    with (
        mock.patch.object(os, "copy_file_range", side_effect=[answer] * 3),
        Union(layers.top, [layers.bottom]) as union,
    ):
        os.close(union.open("file", os.O_WRONLY))
    assert (layers.top / "file").read_bytes() == content


@pytest.mark.parametrize(
    ("size", "copied"), [(0, 0), (4096, 4096), (1 << 20, 1 << 20), (2 << 20, 1 << 20)]
)
def test_truncation_copies_only_what_is_kept(layers: Layers, size: int, copied: int) -> None:
    """L120, L400–L401: counted by what the kernel was asked to copy."""
    content = os.urandom(1 << 20)
    (layers.bottom / "file").write_bytes(content)
    real, asked = os.copy_file_range, []

    def counting(source: int, copy: int, count: int, *offsets: int) -> int:
        asked.append(count)
        return real(source, copy, count, *offsets)

    with (
        mock.patch.object(os, "copy_file_range", counting),
        Union(layers.top, [layers.bottom]) as union,
    ):
        union.truncate("file", size)
    assert sum(asked) == copied
    assert (layers.top / "file").read_bytes() == content[:size].ljust(size, b"\0")
    assert (layers.top / "file").stat().st_blocks * 512 <= max(copied, 1 << 20)


def test_opening_to_truncate_copies_nothing(layers: Layers) -> None:
    (layers.bottom / "file").write_bytes(bytes(1 << 20))
    os.utime(layers.bottom / "file", ns=(1, 1))
    with (
        mock.patch.object(os, "copy_file_range", side_effect=AssertionError),
        Union(layers.top, [layers.bottom]) as union,
    ):
        os.close(union.open("file", os.O_WRONLY | os.O_TRUNC))
        assert union.stat("file").st_size == 0
        assert union.stat("file").st_mtime_ns > 1


# ------------------------------------------------------------------------------ when


@pytest.mark.parametrize(
    "flags",
    [
        os.O_RDONLY,
        os.O_RDONLY | os.O_APPEND,
        os.O_RDONLY | os.O_DIRECT,
        os.O_PATH,
        os.O_RDONLY | os.O_CREAT,
        os.O_RDONLY | os.O_NONBLOCK,
    ],
)
def test_reading_copies_nothing(layers: Layers, flags: int) -> None:
    (layers.bottom / "file").write_bytes(b"content")
    with Union(layers.top, [layers.bottom]) as union:
        os.close(union.open("file", flags))
        union.stat("file")
        union.access("file", os.R_OK | os.W_OK)
        union.listxattr("file")
        union.readdir("/")
    assert os.listdir(layers.top) == []


@pytest.mark.parametrize(
    "flags",
    [
        os.O_WRONLY,
        os.O_RDWR,
        os.O_WRONLY | os.O_APPEND,
        os.O_WRONLY | os.O_DIRECT,
        os.O_RDONLY | os.O_TRUNC,
        os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW,
    ],
)
def test_opening_to_write_copies(layers: Layers, flags: int) -> None:
    (layers.bottom / "file").write_bytes(b"content")
    with Union(layers.top, [layers.bottom]) as union:
        os.close(union.open("file", flags))
    assert os.listdir(layers.top) == ["file"]


def test_open_descriptors_stay_on_the_bottom(layers: Layers) -> None:
    """L350–L354: only what is opened after the copyup sees the updates."""
    (layers.bottom / "file").write_bytes(b"before")
    with Union(layers.top, [layers.bottom]) as union:
        early = union.open("file", os.O_RDONLY)
        writer = union.open("file", os.O_WRONLY)
        late = union.open("file", os.O_RDONLY)
        os.pwrite(writer, b"after!", 0)
        assert (os.pread(early, 9, 0), os.pread(late, 9, 0)) == (b"before", b"after!")
        for fd in (early, writer, late):
            os.close(fd)


def test_the_directory_keeps_its_time(layers: Layers) -> None:
    (layers.bottom / "d").mkdir()
    (layers.bottom / "d" / "file").touch()
    os.utime(layers.bottom / "d", ns=(1, 2))
    with Union(layers.top, [layers.bottom]) as union:
        os.close(union.open("d/file", os.O_WRONLY))
        assert union.stat("d").st_mtime_ns == 2


REFUSED: dict[str, tuple[int, Callable[[Union], object]]] = {
    "open": (errno.EACCES, lambda union: union.open("d/file", os.O_WRONLY)),
    "append": (errno.EACCES, lambda union: union.open("d/file", os.O_RDWR | os.O_APPEND)),
    "open to truncate": (errno.EACCES, lambda u: u.open("d/file", os.O_RDONLY | os.O_TRUNC)),
    "truncate": (errno.EACCES, lambda union: union.truncate("d/file", 0)),
    "chmod": (errno.EPERM, lambda union: union.chmod("d/file", 0o777)),
    "chown": (errno.EPERM, lambda union: union.chown("d/file", 1000, -1)),
    "utime": (errno.EPERM, lambda union: union.utime("d/file", (1, 1))),
    "touch": (errno.EACCES, lambda union: union.utime("d/file")),
    "setxattr": (errno.EACCES, lambda union: union.setxattr("d/file", "user.x", b"")),
    "chattr": (errno.EPERM, lambda union: union.set_flags("d/file", 0)),
    "link": (errno.EPERM, lambda union: union.link("d/file", "d/second")),
    "rename": (errno.EACCES, lambda union: union.rename("d/file", "d/moved")),
    "unlink": (errno.EACCES, lambda union: union.unlink("d/file")),
    "creat": (errno.EACCES, lambda union: union.creat("d/new")),
    "missing attribute": (errno.ENODATA, lambda u: u.removexattr("mine", "user.x")),
    "present attribute": (errno.EEXIST, lambda u: u.setxattr("mine", "user.y", b"", 1)),
}


@pytest.mark.parametrize("call", REFUSED)
def test_permission_comes_before_copyup(layers: Layers, call: str) -> None:
    """L361–L404: what may not be done costs no copy."""
    (layers.bottom / "d").mkdir()
    (layers.bottom / "d" / "file").write_bytes(b"not yours")
    (layers.bottom / "mine").touch()
    os.setxattr(layers.bottom / "mine", "user.y", b"")
    os.chown(layers.bottom / "mine", 1000, 1000)
    number, attempt = REFUSED[call]
    with (
        Union(layers.top, [layers.bottom], matching=False) as union,
        union.acting_as(Credentials.user(1000, 1000)),
    ):
        fails(number, lambda: attempt(union))
    assert os.listdir(layers.top) == []


# ----------------------------------------------------------------------- a full disk


def test_a_full_disk_leaves_the_union_as_it_was(root: None, tmp_path: Path) -> None:
    """L629, with the real thing: a copy that does not fit, at every amount of room."""
    bottom = tmp_path / "bottom"
    (bottom / "d").mkdir(parents=True)
    content = os.urandom(300 << 10)
    (bottom / "d" / "file").write_bytes(content)
    with loop_filesystem("ext4") as on:
        top = on / "top"
        top.mkdir()
        with Union(top, [bottom]) as union:
            used = _fill_disk(on / "ballast")
            for room in (0, 4 << 10, 64 << 10, 200 << 10):
                os.truncate(on / "ballast", used - room)
                fails(errno.ENOSPC, lambda: union.open("d/file", os.O_RDWR))
                assert os.listdir(top / "d" if (top / "d").exists() else top) == []
                assert os.listdir(on / "top.work" / "work") == []
                fd = union.open("d/file", os.O_RDONLY)
                assert os.pread(fd, 1 << 20, 0) == content
                os.close(fd)
                _fill_disk(on / "ballast")
            union.truncate("d/file", 0)
            os.unlink(on / "ballast")
            union.unlink("d/file")
            assert union.readdir("d") == []


def _fill_disk(path: Path) -> int:
    """Write a file until nothing fits any more; its size."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            while _fits(file, size):
                pass
        os.fsync(file)
        return file.tell()


def _fits(file: RawIOBase, size: int) -> bool:
    try:
        file.write(bytes(size))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True
