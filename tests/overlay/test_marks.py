"""Marks: what we write, the kernel reads; what the kernel writes, we read."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import syscalls
from overlay.errors import Refused
from overlay.marks import (
    NO_MARKS,
    TEMPORARY_PREFIX,
    HostileMark,
    MarkFamily,
    Marks,
    Metacopy,
    Whiteout,
    check_redirect,
    clear_mark,
    escape_attribute,
    is_fallthru,
    is_private,
    parse_metacopy,
    read_marks,
    set_metacopy,
    set_opaque,
    set_redirect,
    set_xattr_whiteouts,
    unescape_attribute,
    visible_xattrs,
    write_fallthru,
    write_whiteout,
)
from tests.conftest import Layers, make_layers
from tests.fsimages import loop_filesystem, tmpfs
from tests.rawoverlay import overlay

TRUSTED, USER = MarkFamily.TRUSTED, MarkFamily.USER
FAMILIES = [TRUSTED, USER]
STUBS = {"metacopy": "on", "redirect_dir": "on"}


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def marks_of(path: Path, family: MarkFamily = TRUSTED) -> Marks:
    with opened(path.parent) as fd:
        return read_marks(fd, os.fsencode(path.name), path.lstat(), family)


@pytest.fixture(params=["tmpfs", "ext2", "ext4", "xfs", "btrfs"])
def any_layers(request: pytest.FixtureRequest, root: None, tmp_path: Path) -> Iterator[Layers]:
    """Layers on each of the file systems that tops are made of."""
    if request.param == "tmpfs":
        with tmpfs(tmp_path):
            yield make_layers(tmp_path)
    else:
        with loop_filesystem(request.param, 16) as mounted:
            yield make_layers(mounted)


def options(family: MarkFamily, extra: dict[str, str] | None = None) -> dict[str, str]:
    return {**({"userxattr": ""} if family is USER else {}), **(extra or {})}


# ------------------------------------------------- written here, read by the kernel


@pytest.mark.parametrize("family", FAMILIES)
def test_the_kernel_honours_our_whiteouts_and_opaque(
    any_layers: Layers, family: MarkFamily
) -> None:
    for directory in ("plain", "x", "opaque"):
        (any_layers.bottom / directory).mkdir()
        for name in ("hidden", "shown"):
            (any_layers.bottom / directory / name).write_text(name)
        (any_layers.top / directory).mkdir()
    with opened(any_layers.work) as work:
        with opened(any_layers.top / "plain") as fd:
            write_whiteout(fd, b"hidden", family)
        with opened(any_layers.top / "x") as fd:
            write_whiteout(fd, b"hidden", family, form=Whiteout.XATTR, work_fd=work)
        with opened(any_layers.top / "opaque") as fd:
            set_opaque(fd, family)
    (any_layers.top / "opaque" / "own").touch()
    # In an upper layer readdir would list an xattr whiteout: the top becomes a lower one here.
    over = any_layers.base / "over"
    over.mkdir()
    with overlay(
        any_layers.mnt, [any_layers.top, any_layers.bottom], over, any_layers.work, options(family)
    ):
        assert os.listdir(any_layers.mnt / "plain") == ["shown"]
        assert os.listdir(any_layers.mnt / "x") == ["shown"]
        assert os.listdir(any_layers.mnt / "opaque") == ["own"]
        for directory in ("plain", "x", "opaque"):
            assert not os.path.lexists(any_layers.mnt / directory / "hidden")


def test_the_kernel_reads_our_fallthrus_of_every_type(any_layers: Layers) -> None:
    below, above = any_layers.bottom / "d", any_layers.top / "d"
    below.mkdir()
    above.mkdir()
    content = os.urandom(70_001)
    (below / "file").write_bytes(content)
    (below / "empty").touch()
    (below / "without").write_text("no fallthru for this one")
    (below / "sub").mkdir(0o711)
    (below / "sub" / "inner").write_text("inner")
    (below / "link").symlink_to("file")
    os.mkfifo(below / "fifo", 0o640)
    os.mknod(below / "chr", stat.S_IFCHR | 0o606, os.makedev(1, 3))
    os.mknod(below / "blk", stat.S_IFBLK | 0o660, os.makedev(7, 99))
    os.mknod(below / "sock", stat.S_IFSOCK | 0o755)
    os.chown(below / "file", 1234, 4321)
    os.chmod(below / "file", 0o4751)
    os.setxattr(below / "file", "user.note", b"kept")
    os.chown(below / "link", 7, 8, follow_symlinks=False)
    for entry in below.iterdir():
        os.utime(entry, ns=(10**18 + 3, 10**18 + 5), follow_symlinks=False)
    names = sorted(entry.name for entry in below.iterdir() if entry.name != "without")
    with opened(above) as fd, opened(below) as source, opened(any_layers.work) as work:
        set_opaque(fd, TRUSTED)
        for number, name in enumerate(names):
            raw = os.fsencode(name)
            write_fallthru(
                fd,
                raw,
                (below / name).lstat(),
                b"/d/" + raw,
                TRUSTED,
                work_fd=work if number % 2 else None,
                target=b"file" if name == "link" else None,
                xattrs=visible_xattrs(source, raw, TRUSTED),
            )
    assert list(any_layers.work.iterdir()) == []
    stub = (above / "file").lstat()
    assert stub.st_size == 70_001
    assert stub.st_blocks * 512 < 16_384, "the stub is sparse"

    def seen(directory: Path, name: str) -> tuple[object, ...]:
        s = (directory / name).lstat()
        size = 0 if stat.S_ISDIR(s.st_mode) else s.st_size
        return (s.st_mode, s.st_uid, s.st_gid, size, s.st_mtime_ns, s.st_rdev)

    for name in names:
        assert is_fallthru(
            marks_of(above / name),
            (above / name).lstat(),
            parent_opaque=True,
            bottom=(below / name).lstat(),
        ), name
    with overlay(any_layers.mnt, [any_layers.bottom], any_layers.top, any_layers.work, STUBS):
        union = any_layers.mnt / "d"
        assert sorted(os.listdir(union)) == names
        for name in names:
            assert seen(union, name) == seen(below, name), name
        assert (union / "file").read_bytes() == content
        assert os.getxattr(union / "file", "user.note") == b"kept"
        assert os.readlink(union / "link") == "file"
        assert (union / "sub" / "inner").read_text() == "inner"
        with (union / "file").open("ab") as file:
            file.write(b"!")
        assert (union / "file").read_bytes() == content + b"!"
    assert (below / "file").read_bytes() == content
    # The data is there now: the kernel took the metacopy away and left the redirect.
    assert marks_of(above / "file").metacopy is None
    assert not is_fallthru(marks_of(above / "file"), (above / "file").lstat(), parent_opaque=True)


def test_the_kernel_reads_no_fallthru_of_the_users_family(layers: Layers) -> None:
    """It refuses redirect_dir and metacopy with userxattr: such tops are for the engine alone."""
    (layers.bottom / "d" / "sub").mkdir(parents=True)
    (layers.bottom / "d" / "sub" / "inner").write_text("inner")
    (layers.bottom / "d" / "file").write_text("file")
    (layers.top / "d").mkdir()
    with opened(layers.top / "d") as fd, opened(layers.work) as work:
        set_opaque(fd, USER)
        for name in (b"sub", b"file"):
            below = (layers.bottom / "d" / os.fsdecode(name)).lstat()
            write_fallthru(fd, name, below, b"/d/" + name, USER, work_fd=work)
    assert marks_of(layers.top / "d" / "sub", USER) == Marks(redirect=b"/d/sub")
    assert marks_of(layers.top / "d" / "file", USER) == Marks(
        metacopy=Metacopy(), redirect=b"/d/file"
    )
    assert marks_of(layers.top / "d" / "sub", TRUSTED) == NO_MARKS
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, options(USER)):
        assert os.listdir(layers.mnt / "d" / "sub") == []
        with pytest.raises(PermissionError):
            (layers.mnt / "d" / "file").read_text()
    with pytest.raises(OSError, match="Invalid argument"):  # noqa: SIM117
        with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, options(USER, STUBS)):
            pass


# ------------------------------------------------- written by the kernel, read here


def test_we_read_the_kernels_marks(any_layers: Layers) -> None:
    bottom, top, mnt = any_layers.bottom, any_layers.top, any_layers.mnt
    for name in ("gone", "kept", "chmodded"):
        (bottom / name).write_text(name)
    for name in ("remade", "moved"):
        (bottom / name).mkdir()
        (bottom / name / "in").write_text("in")
    with overlay(mnt, [bottom], top, any_layers.work, STUBS):
        (mnt / "gone").unlink()
        (mnt / "chmodded").chmod(0o600)
        with (mnt / "kept").open("a") as file:
            file.write("!")
        (mnt / "remade" / "in").unlink()
        (mnt / "remade").rmdir()
        (mnt / "remade").mkdir()
        (mnt / "moved").rename(mnt / "here")
        (mnt / "here").rename(mnt / "remade" / "there")
        (mnt / "here").mkdir()
    assert marks_of(top / "gone").whiteout is Whiteout.DEVICE
    assert marks_of(top / "moved").whiteout is Whiteout.DEVICE
    assert marks_of(top / "chmodded").metacopy == Metacopy()
    assert marks_of(top / "kept").metacopy is None
    remade = marks_of(top / "remade")
    assert remade.opaque
    assert not remade.xattr_whiteouts
    assert marks_of(top / "remade" / "there").redirect == b"/moved"
    every = [marks_of(top / name) for name in ("chmodded", "kept", "remade")]
    # Origins need file handles, which every one of these file systems has.
    assert all("origin" in found.others for found in every[:2])


def test_we_read_a_relative_redirect_of_the_kernel(layers: Layers) -> None:
    (layers.bottom / "d" / "old").mkdir(parents=True)
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {"redirect_dir": "on"}):
        (layers.mnt / "d" / "old").rename(layers.mnt / "d" / "new")
    assert marks_of(layers.top / "d" / "new").redirect == b"old"


def test_the_kernel_and_we_escape_nested_marks_alike(layers: Layers) -> None:
    (layers.bottom / "f").touch()
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}):
        try:
            os.setxattr(layers.mnt / "f", "trusted.overlay.opaque", b"nested")
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            pytest.skip("needs: nested overlay marks (Linux 6.7)")
        inside = os.getxattr(layers.mnt / "f", "trusted.overlay.opaque")
    stored = escape_attribute("trusted.overlay.opaque", TRUSTED)
    assert stored == "trusted.overlay.overlay.opaque"
    assert os.getxattr(layers.top / "f", stored) == inside == b"nested"
    with opened(layers.top) as fd:
        assert visible_xattrs(fd, b"f", TRUSTED) == {"trusted.overlay.opaque": b"nested"}


def test_every_attribute_the_kernel_hides_is_private(layers: Layers) -> None:
    (layers.bottom / "f").write_text("f")
    names = ["user.seen", "user.overlay.seen", "trusted.seen", "trusted.overlay.mine"]
    for name in names:
        os.setxattr(layers.bottom / "f", name, b"")
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}):
        shown = set(os.listxattr(layers.mnt / "f"))
    assert shown == {name for name in names if not is_private(name, TRUSTED)}
    with opened(layers.bottom) as fd:
        assert set(visible_xattrs(fd, b"f", TRUSTED)) == shown


# --------------------------------------------------------------- order of effects


def test_a_whiteout_over_something_takes_one_step(layers: Layers) -> None:
    (layers.top / "file").write_text("x")
    (layers.top / "dir").mkdir()
    (layers.top / "dir" / "inside").touch()
    with opened(layers.top) as fd, opened(layers.work) as work:
        with pytest.raises(FileExistsError):
            write_whiteout(fd, b"file", TRUSTED)
        assert write_whiteout(fd, b"file", TRUSTED, work_fd=work) is None
        displaced = write_whiteout(fd, b"dir", TRUSTED, work_fd=work)
    assert displaced is not None
    assert displaced.startswith(TEMPORARY_PREFIX)
    assert os.listdir(layers.work) == [os.fsdecode(displaced)]
    assert os.listdir(layers.work / os.fsdecode(displaced)) == ["inside"]
    for name in ("file", "dir"):
        assert marks_of(layers.top / name).whiteout is Whiteout.DEVICE


def test_a_fallthru_replaces_nothing_and_leaves_nothing(layers: Layers) -> None:
    (layers.bottom / "f").write_text("f")
    (layers.bottom / "d").mkdir()
    (layers.top / "f").write_text("mine")
    (layers.top / "d").mkdir()
    with opened(layers.top) as fd, opened(layers.work) as work:
        for name in (b"f", b"d"):
            below = (layers.bottom / os.fsdecode(name)).lstat()
            for aside in (work, None):
                with pytest.raises(FileExistsError):
                    write_fallthru(fd, name, below, b"/" + name, TRUSTED, work_fd=aside)
        with pytest.raises(HostileMark):
            write_fallthru(fd, b"n", below, b"/../n", TRUSTED, work_fd=work)
    assert (layers.top / "f").read_text() == "mine"
    assert sorted(os.listdir(layers.top)) == ["d", "f"]
    assert os.listdir(layers.work) == []


def test_an_opaque_directory_takes_no_xattr_whiteouts(layers: Layers) -> None:
    with opened(layers.top) as fd, opened(layers.work) as work:
        set_opaque(fd, TRUSTED)
        with pytest.raises(Refused):
            write_whiteout(fd, b"n", TRUSTED, form=Whiteout.XATTR, work_fd=work)
        assert os.listdir(layers.work) == os.listdir(layers.top) == []
        clear_mark(fd, TRUSTED, "opaque")
        clear_mark(fd, TRUSTED, "opaque")
        set_xattr_whiteouts(fd, TRUSTED)
        assert read_marks(fd, None, os.fstat(fd), TRUSTED) == Marks(xattr_whiteouts=True)


# --------------------------------------------------------------------- values


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"/", b"//a", b"/a/", b"/a//b", b".", b"..", b"/..", b"/../../etc", b"/a/./b"),
        *(b"a/b", b"../a", b"a\0b", b"/a\0", b"x" * 256, b"/a/" + b"x" * 4096),
    ],
)
def test_hostile_redirects_are_named(value: bytes, layers: Layers) -> None:
    with pytest.raises(HostileMark):
        check_redirect(value)
    (layers.top / "d").mkdir()
    os.setxattr(layers.top / "d", "trusted.overlay.redirect", value)
    with pytest.raises(HostileMark):
        marks_of(layers.top / "d")


@pytest.mark.parametrize("value", [b"", b"/a/", b"/a//b", b"..", b"/../x", b"a/b", b"/..", b"."])
def test_the_kernel_follows_none_of_them_either(value: bytes, layers: Layers) -> None:
    (layers.bottom / "x").mkdir()
    (layers.top / "d").mkdir()
    os.setxattr(layers.top / "d", "trusted.overlay.redirect", value)
    with (
        overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {"redirect_dir": "on"}),
        pytest.raises(OSError, match="d"),
    ):
        os.listdir(layers.mnt / "d")


@given(st.lists(st.binary(min_size=1, max_size=255), min_size=1, max_size=40))
def test_any_path_of_names_is_a_redirect(names: list[bytes]) -> None:
    clean = [name.replace(b"/", b"_").replace(b"\0", b"_") for name in names]
    clean = [name if name not in (b".", b"..") else b"dots" for name in clean]
    path = b"/" + b"/".join(clean)
    assert check_redirect(path) == path
    assert check_redirect(clean[0]) == clean[0]


@given(st.integers(1, 255), st.binary(max_size=64), st.integers(0, 255))
def test_metacopy_values_round_trip(algorithm: int, digest: bytes, flags: int) -> None:
    value = Metacopy(algorithm, digest, flags)
    assert parse_metacopy(value.encode()) == value


@pytest.mark.parametrize("value", [b"\0", b"\0\4\0", b"\1\4\0\0", b"\0\5\0\0", b"\0\4\0\0x"])
def test_the_kernel_refuses_the_metacopies_that_we_refuse(value: bytes, layers: Layers) -> None:
    with pytest.raises(HostileMark):
        parse_metacopy(value)
    (layers.bottom / "f").write_text("1234")
    (layers.top / "f").write_text("4321")
    os.setxattr(layers.top / "f", "trusted.overlay.metacopy", value)
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, STUBS):
        refused = False
        try:
            (layers.mnt / "f").read_text()
        except OSError:
            refused = True
    # Without digests to verify the kernel reads no further than the size of the value.
    assert refused or len(value) >= 4


def test_a_digest_is_read(layers: Layers) -> None:
    (layers.top / "f").write_text("f")
    with opened(layers.top) as fd:
        set_metacopy(fd, TRUSTED, b"f", value=Metacopy(1, bytes(range(32))))
    assert os.getxattr(layers.top / "f", "trusted.overlay.metacopy") == bytes(
        [0, 36, 0, 1, *range(32)]
    )
    assert marks_of(layers.top / "f").metacopy == Metacopy(1, bytes(range(32)))


def test_marks_of_the_wrong_kind_mean_nothing(layers: Layers) -> None:
    (layers.top / "file").write_text("not empty")
    (layers.top / "dir").mkdir()
    (layers.top / "link").symlink_to("/etc")
    os.mkfifo(layers.top / "fifo")
    os.mknod(layers.top / "null", stat.S_IFCHR, os.makedev(1, 3))
    for name in ("file", "dir", "link", "fifo", "null"):
        for mark in ("whiteout", "opaque", "metacopy"):
            if (name, mark) not in (("dir", "opaque"), ("file", "metacopy")):
                path = layers.top / name
                os.setxattr(path, f"trusted.overlay.{mark}", b"y", follow_symlinks=False)
    for name in ("file", "dir", "link", "fifo", "null"):
        assert marks_of(layers.top / name) == NO_MARKS, name


def test_opaque_values_are_read_as_the_kernel_does(layers: Layers) -> None:
    for value in (b"", b"n", b"yy", b"Y"):
        os.setxattr(layers.top, "trusted.overlay.opaque", value)
        assert not marks_of(layers.top).opaque


def test_escaping_is_undone(layers: Layers) -> None:
    for name in ("trusted.overlay.x", "trusted.overlay.overlay.x", "user.a", "user.overlay.x"):
        for family in FAMILIES:
            assert unescape_attribute(escape_attribute(name, family), family) == name
            assert not is_private(escape_attribute(name, family), family)


def test_marks_are_not_followed_out_of_the_directory(layers: Layers, tmp_path: Path) -> None:
    outside = layers.base / "outside"
    outside.mkdir()
    (layers.top / "link").symlink_to(outside)
    with opened(layers.top) as fd:
        set_redirect(fd, TRUSTED, b"/x", b"link")
        assert syscalls.listxattr(fd, b"link") == ["trusted.overlay.redirect"]
    assert os.listxattr(outside) == []
