"""A layer's tree, however deep and hostile, and what its file system can do."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlay import probes
from overlay.errors import UsageError
from overlay.layer import Layer, capabilities, first_fallthru_stub, top_shortcomings
from overlay.marks import MarkFamily, set_metacopy, set_redirect
from overlay.probes import LayerCapabilities
from tests.conftest import Layers, make_layers
from tests.fsimages import loop_filesystem, tmpfs
from tests.rawoverlay import overlay

PATH_MAX = 4096
EXCHANGE = "exchanging two names (RENAME_EXCHANGE)"


@contextmanager
def path_fd(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def make_deep(root: Path, name: str, depth: int) -> None:
    """``depth`` directories in one another, and a file at the end."""
    fd = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("end", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


# ---------------------------------------------------------------------- the tree


def test_walk_lists_everything_in_byte_order(layers: Layers) -> None:
    names = [b"a", b"a-b", b"a/c", b"a/c/d", b"a.b", b"a0", b"\xff\xfe", b"new\nline", b"z,:\\ "]
    base = os.fsencode(layers.top)
    for name in names:
        if name in (b"a", b"a/c"):
            os.mkdir(os.path.join(base, name))
    for name in names:
        if name not in (b"a", b"a/c"):
            Path(os.fsdecode(os.path.join(base, name))).touch()
    with Layer.open(str(layers.top)) as layer:
        walked = [entry.path for entry in layer.walk()]
        assert walked == sorted(names)
        assert [entry.path for entry in layer.walk(b"a")] == [b"a/c", b"a/c/d"]
        for entry in layer.walk():
            assert entry.st == os.lstat(os.path.join(base, entry.path))
            assert layer.lstat(entry.path).st_ino == entry.st.st_ino
            assert entry.name == os.path.basename(entry.path)


@pytest.mark.parametrize(
    ("name", "depth"),
    [("d", max(1500, sys.getrecursionlimit() + 500)), ("n" * 255, 40), ("é" * 127, 101)],
)
def test_walk_goes_deeper_than_any_limit(layers: Layers, name: str, depth: int) -> None:
    make_deep(layers.top, name, depth)
    raw = os.fsencode(name)
    deepest = b"/".join([raw] * depth + [b"end"])
    before = len(os.listdir("/proc/self/fd"))
    with Layer.open(str(layers.top)) as layer:
        entries = list(layer.walk())
        assert len(entries) == depth + 1
        assert entries[-1].path == deepest
        assert stat.S_ISREG(layer.lstat(deepest).st_mode)
        fd = layer.open_file(deepest, os.O_RDONLY)
        os.close(fd)
        with layer.parent(deepest) as (fd, last):
            set_metacopy(fd, MarkFamily.TRUSTED, last)
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(deepest) > PATH_MAX or depth > sys.getrecursionlimit()
    with path_fd(layers.top) as top:
        assert first_fallthru_stub(top, "trusted") == deepest


def test_walk_needs_few_descriptors(layers: Layers) -> None:
    import resource

    make_deep(layers.top, "d", 300)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, limits[1]))
    try:
        with Layer.open(str(layers.top)) as layer:
            count = sum(1 for _ in layer.walk())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert count == 301


def test_nothing_is_followed_out_of_a_layer(layers: Layers) -> None:
    secret = layers.base / "secret"
    secret.mkdir()
    (secret / "file").write_text("secret")
    (layers.top / "out").symlink_to(secret)
    (layers.top / "loop").symlink_to("loop")
    (layers.top / "up").symlink_to("..")
    (layers.top / "d").mkdir()
    (layers.top / "d" / "abs").symlink_to("/")
    with Layer.open(str(layers.top)) as layer:
        assert [entry.path for entry in layer.walk()] == [b"d", b"d/abs", b"loop", b"out", b"up"]
        for path in (b"out", b"loop", b"up", b"d/abs", b"..", b"d/../..", b"/etc"):
            with pytest.raises(OSError, match=r"symbolic|cross-device|directory"):
                layer.open_dir(path)
        for path in (b"out/file", b"up/secret/file", b"../secret/file", b"d/abs/etc/passwd"):
            with pytest.raises(OSError, match=r"symbolic|cross-device|Not a dir"):
                layer.open_file(path, os.O_RDONLY)
            with pytest.raises(OSError, match=r"symbolic|cross-device|Not a dir"):
                layer.lstat(path)


def test_siblings_are_opened_from_their_parent(layers: Layers) -> None:
    """Each as by its whole path; nothing is followed, and a moved parent is still meant."""
    paths = ["a", "b", "a/1", "a/2", "a/3", "b/1", "b/1/x", "b/1/y", "b/2", "b/3", "a/1/x"]
    for path in paths:
        (layers.top / path).mkdir()
    (layers.top / "a" / "link").symlink_to("1")
    (layers.top / "a" / "file").touch()
    with Layer.open(str(layers.top)) as layer:
        for path in paths:
            fd = layer.open_sibling(path.encode())
            assert os.fstat(fd).st_ino == (layers.top / path).stat().st_ino
            os.close(fd)
        for name in (b"1", b"2"):
            os.close(layer.open_sibling(b"a/" + name))
        for name in (b"link", b"file"):
            with pytest.raises(NotADirectoryError):
                layer.open_sibling(b"a/" + name)
        with pytest.raises(FileNotFoundError):
            layer.open_sibling(b"a/4")
        (layers.top / "a").rename(layers.top / "c")
        (layers.top / "a" / "3").mkdir(parents=True)
        fd = layer.open_sibling(b"a/3")
        assert os.fstat(fd).st_ino == (layers.top / "c" / "3").stat().st_ino
        os.close(fd)
        before = len(os.listdir("/proc/self/fd"))
    assert len(os.listdir("/proc/self/fd")) == before - 2


def test_entries_that_vanish_are_left_out(layers: Layers) -> None:
    for number in range(5):
        (layers.top / f"d{number}").mkdir()
        (layers.top / f"d{number}" / "f").touch()
    seen = []
    with Layer.open(str(layers.top)) as layer:
        for entry in layer.walk():
            seen.append(entry.path)
            if entry.path == b"d1":
                for number in (1, 3):
                    (layers.top / f"d{number}" / "f").unlink()
                    (layers.top / f"d{number}").rmdir()
    assert seen == [b"d0", b"d0/f", b"d1", b"d2", b"d2/f", b"d3", b"d4", b"d4/f"]


def test_a_private_look_sees_what_mounts_cover(layers: Layers) -> None:
    (layers.bottom / "sub").mkdir()
    (layers.bottom / "sub" / "under").touch()
    with tmpfs(layers.bottom / "sub") as covering:
        (covering / "over").touch()
        with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}):
            assert os.listdir(layers.mnt / "sub") == ["under"]
        with Layer.open(str(layers.bottom), private=True) as layer:
            assert [entry.path for entry in layer.walk()] == [b"sub", b"sub/under"]
        with Layer.open(str(layers.bottom)) as layer:
            assert [entry.path for entry in layer.walk()] == [b"sub", b"sub/over"]


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_layer_that_is_none_is_a_usage_error(layers: Layers, name: str) -> None:
    (layers.base / "file").touch()
    for private in (False, True):
        with pytest.raises(UsageError, match=name):
            Layer.open(str(layers.base / name), private=private)


# --------------------------------------------------------------------- the stubs


def test_first_fallthru_stub_finds_each_kind(layers: Layers) -> None:
    for name in ("a", "b", "c"):
        (layers.top / name / "sub").mkdir(parents=True)
        (layers.top / name / "file").write_text("x")
    (layers.top / "link").symlink_to("a")
    with path_fd(layers.top) as top:
        assert first_fallthru_stub(top, "trusted") is None
        with path_fd(layers.top / "b") as fd:
            set_metacopy(fd, MarkFamily.TRUSTED, b"file")
            assert first_fallthru_stub(top, "trusted") == b"b/file"
            assert first_fallthru_stub(top, "user") is None
            (layers.top / "b" / "file").unlink()
            set_redirect(fd, MarkFamily.TRUSTED, b"/c/sub", b"sub")
        assert first_fallthru_stub(top, "trusted") == b"b/sub"


def test_what_the_kernel_leaves_in_a_top_is_found(layers: Layers) -> None:
    (layers.bottom / "d").mkdir()
    (layers.bottom / "f").write_text("f")
    stubs = {"metacopy": "on", "redirect_dir": "on"}
    with path_fd(layers.top) as top:
        with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, stubs) as mnt:
            (mnt / "new").write_text("n")
            assert first_fallthru_stub(top, "trusted") is None
            (mnt / "f").chmod(0o600)
            assert first_fallthru_stub(top, "trusted") == b"f"
            (mnt / "f").write_text("whole")
            assert first_fallthru_stub(top, "trusted") is None
            (mnt / "d").rename(mnt / "e")
        assert first_fallthru_stub(top, "trusted") == b"e"


# ------------------------------------------------------------------ capabilities


def capable(path: Path) -> LayerCapabilities:
    with path_fd(path) as fd:
        return capabilities(fd)


@pytest.mark.parametrize(
    ("kind", "reflink"), [("ext2", False), ("ext4", False), ("xfs", True), ("btrfs", True)]
)
def test_capabilities_of_file_systems(root: None, kind: str, reflink: bool) -> None:
    with loop_filesystem(kind, 16) as mounted:
        directory = mounted / "d"
        directory.mkdir()
        before = directory.stat().st_nlink
        found = capable(directory)
        assert found.fs == ("ext4" if kind == "ext2" else kind)
        assert found.reflink is reflink
        assert (found.trusted_xattrs, found.user_xattrs, found.whiteout_device) == (True,) * 3
        assert (found.d_type, found.tmpfile, found.read_only) == (True, True, False)
        assert os.listdir(directory) == []
        assert directory.stat().st_nlink == before
        with path_fd(directory) as fd:
            # Which driver serves ext2, its own or ext4's, decides: see tests/vm/test_layers.py.
            lacks = [] if found.rename_exchange else [EXCHANGE]
            assert top_shortcomings(fd, "trusted") == top_shortcomings(fd, "user") == lacks
            if kind != "ext2":
                assert found.rename_whiteout
                assert found.rename_exchange


def test_capabilities_of_tmpfs(layers: Layers) -> None:
    found = capable(layers.top)
    assert found == LayerCapabilities(
        fs="tmpfs",
        read_only=False,
        trusted_xattrs=True,
        user_xattrs=_set_user_xattr(layers.work),
        whiteout_device=True,
        d_type=True,
        tmpfile=True,
        reflink=False,
        rename_whiteout=True,
        rename_exchange=True,
    )
    assert os.listdir(layers.top) == []


def _set_user_xattr(directory: Path) -> bool:
    (directory / "probe").touch()
    try:
        os.setxattr(directory / "probe", "user.x", b"")
    except OSError:
        return False
    return True


@pytest.mark.parametrize("filled", [False, True])
def test_a_file_system_without_d_type_is_recognised(root: None, filled: bool) -> None:
    with loop_filesystem("ext4", 16, mkfs_options=("-O", "^filetype")) as mounted:
        directories = [mounted, mounted / "d"]
        directories[1].mkdir()
        if filled:
            (directories[1] / "entry").touch()
        for directory in directories:
            assert not capable(directory).d_type
            with path_fd(directory) as fd:
                assert top_shortcomings(fd, "trusted") == [
                    "file types in directory entries (d_type)"
                ]


def test_a_read_only_file_system_is_only_read(root: None) -> None:
    with loop_filesystem("ext4", 16, read_only=True) as mounted:
        found = capable(mounted)
    assert found.read_only
    assert found.trusted_xattrs
    assert found.d_type
    assert not found.whiteout_device
    assert not found.tmpfile
    assert not found.reflink
    assert not found.rename_whiteout
    assert not found.rename_exchange


def test_a_file_system_without_xattrs_is_no_top(root: None) -> None:
    with path_fd(Path("/proc")) as fd:
        missing = top_shortcomings(fd, "trusted")
        assert not probes.has_xattrs(fd, MarkFamily.TRUSTED)
    assert missing[0] == "trusted.* extended attributes"


def test_probes_leave_the_directory_as_it_was(root: None, tmp_path: Path) -> None:
    with loop_filesystem("ext4", 16, directory=tmp_path) as mounted:
        layers = make_layers(mounted)
        (layers.top / "mine").write_text("mine")
        os.setxattr(layers.top, "trusted.mine", b"1")
        capable(layers.top)
        assert os.listdir(layers.top) == ["mine"]
        assert os.listxattr(layers.top) == ["trusted.mine"]
