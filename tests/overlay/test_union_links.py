"""Bottom files with several names (L630): one file for the engine and for the kernel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlay.profiles import profile_named
from overlay.union import Union
from tests.conftest import Layers, make_layers
from tests.fsimages import loop_filesystem, tmpfs
from tests.overlay.faults import crash_before, faulty, never
from tests.rawoverlay import overlay

PINNED = {key: value for key, value, _ in profile_named("document").pinned}


@pytest.fixture(params=["tmpfs", "ext4", "xfs", "btrfs"])
def linked(request: pytest.FixtureRequest, root: None, tmp_path: Path) -> Iterator[Layers]:
    """Layers whose bottom has one file with three names."""
    with tmpfs(tmp_path) if request.param == "tmpfs" else loop_filesystem(request.param) as on:
        layers = make_layers(on)
        (layers.bottom / "d").mkdir()
        (layers.bottom / "one").write_bytes(b"content")
        os.link(layers.bottom / "one", layers.bottom / "two")
        os.link(layers.bottom / "one", layers.bottom / "d" / "three")
        yield layers


@contextmanager
def mounted(layers: Layers) -> Iterator[Path]:
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, PINNED) as mnt:
        yield mnt


def append(union: Union, path: str, data: bytes) -> None:
    fd = union.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, data)
    os.close(fd)


def seen(union: Union, *paths: str) -> list[tuple[bytes, int, int]]:
    """Content, link count and inode number of each."""
    found = []
    for path in paths:
        fd = union.open(path, os.O_RDONLY)
        st = union.stat(path)
        found.append((os.read(fd, 100), st.st_nlink, st.st_ino))
        os.close(fd)
    return found


def test_all_names_show_the_copy(linked: Layers) -> None:
    with Union(linked.top, [linked.bottom]) as union:
        append(union, "one", b"+1")
        append(union, "d/three", b"+2")
        found = seen(union, "one", "two", "d/three")
        assert {each[:2] for each in found} == {(b"content+1+2", 3)}
        assert len({ino for _, _, ino in found}) == 1
    with mounted(linked) as mnt:
        for name in ("one", "two", "d/three"):
            assert (mnt / name).read_bytes() == b"content+1+2"
            assert (mnt / name).stat().st_nlink == 3
        (mnt / "two").write_bytes(b"the kernel's")
    with Union(linked.top, [linked.bottom]) as union:
        assert {each[:2] for each in seen(union, "one", "two")} == {(b"the kernel's", 3)}


def test_what_the_kernel_copied_up_is_one_file(linked: Layers) -> None:
    with mounted(linked) as mnt:
        (mnt / "one").write_bytes(b"the kernel's")
        (mnt / "d" / "three").unlink()
    with Union(linked.top, [linked.bottom]) as union:
        assert {each[:2] for each in seen(union, "one", "two")} == {(b"the kernel's", 2)}
        union.chmod("two", 0o600)
        assert union.stat("one").st_mode == 0o100600
        assert union.stat("one").st_nlink == 2
    with mounted(linked) as mnt:
        assert (mnt / "one").stat().st_nlink == 2
        assert os.path.samefile(mnt / "one", mnt / "two")


def test_names_go_one_by_one(linked: Layers) -> None:
    """The kernel counts as the engine does, and finds nothing left over at the end."""
    with Union(linked.top, [linked.bottom]) as union:
        union.chmod("one", 0o600)
        union.unlink("two")
        assert union.stat("one").st_nlink == 2
    with mounted(linked) as mnt:
        assert (mnt / "d" / "three").stat().st_nlink == 2
    with Union(linked.top, [linked.bottom]) as union:
        union.unlink("one")
        assert seen(union, "d/three")[0][:2] == (b"content", 1)
        assert union.stat("d/three").st_mode == 0o100600
        union.unlink("d/three")
    assert os.listdir(linked.work / "index") == []


def test_rename_and_link_keep_them_together(linked: Layers) -> None:
    with Union(linked.top, [linked.bottom]) as union:
        union.rename("one", "moved")
        union.link("two", "d/four")
        append(union, "moved", b"+")
        names = ("moved", "two", "d/three", "d/four")
        assert {each[:2] for each in seen(union, *names)} == {(b"content+", 4)}
        # Two names of one file: nothing happens (rename(2)).
        union.rename("two", "d/three")
        assert union.stat("two").st_nlink == 4
        os.close(union.creat("other"))
        union.rename("other", "two")
        assert union.stat("moved").st_nlink == 3
    with mounted(linked) as mnt:
        for name in ("moved", "d/three", "d/four"):
            assert ((mnt / name).read_bytes(), (mnt / name).stat().st_nlink) == (b"content+", 3)


@pytest.mark.parametrize("first", [False, True])
def test_truncation_is_of_all_names(linked: Layers, first: bool) -> None:
    with Union(linked.top, [linked.bottom]) as union:
        if not first:
            union.chmod("two", 0o644)
        union.truncate("one", 3)
        assert {each[0] for each in seen(union, "one", "two", "d/three")} == {b"con"}
        os.close(union.open("d/three", os.O_WRONLY | os.O_TRUNC))
        assert {each[0] for each in seen(union, "one", "two", "d/three")} == {b""}


def test_their_directories_stay_merged(linked: Layers) -> None:
    """Fallthrus would be one file each."""
    with Union(linked.top, [linked.bottom]) as union:
        assert [entry.name for entry in union.readdir("d")] == [b"three"]
        append(union, "one", b"+")
        assert [entry.name for entry in union.readdir("d")] == [b"three"]
        assert seen(union, "d/three")[0][0] == b"content+"
    assert "trusted.overlay.opaque" not in os.listxattr(linked.top / "d")


CHANGES: dict[str, Callable[[Union], object]] = {
    "copyup": lambda union: union.chmod("one", 0o600),
    "second copyup": lambda union: union.chmod("two", 0o600),
    "unlink": lambda union: union.unlink("two"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_killed_at_every_step(layers: Layers, change: str) -> None:
    """No name is ever lost or split from the others; the count is at most one too high."""
    (layers.bottom / "one").write_bytes(b"content")
    os.link(layers.bottom / "one", layers.bottom / "two")
    for number in range(1, 100):
        top = layers.base / f"top{number}"
        top.mkdir()
        with Union(top, [layers.bottom]) as union:
            if change != "copyup":
                union.chmod("one", 0o640)
            crashed = crash_before(number, lambda u=union: CHANGES[change](u))  # type: ignore[misc]
        with Union(top, [layers.bottom]) as union, faulty(never):
            names = [entry.name.decode() for entry in union.readdir("/")]
            found = seen(union, *names)
            modes = {union.stat(name).st_mode for name in names}
        assert len(modes) == 1
        assert {each[0] for each in found} == {b"content"}
        assert all(len(names) <= each[1] <= len(names) + 1 for each in found)
        if not crashed:
            assert number > 2
            assert all(each[1] == len(names) for each in found)
            return
    pytest.fail("it never ended")
