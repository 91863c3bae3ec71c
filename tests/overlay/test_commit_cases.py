"""Commits one by one: what is kept, what is refused, what is chosen."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import pytest

from overlay import acl, syscalls
from overlay.committing.commit import CommitConflict, OnConflict, commit, discard
from overlay.errors import OperationFailed, Refused, TopInUse
from overlay.marks import MarkFamily, set_redirect
from overlay.selection import select
from overlay.site import SITE
from overlay.spec.fuzz.steps import LISTS
from tests.conftest import Layers, make_layers
from tests.fsimages import loop_filesystem, next_tick
from tests.overlay.committing import groups, plain, whole
from tests.overlay.test_marks import opened
from tests.rawoverlay import overlay
from tests.treediff import Tree, snapshot

LONG_AGO = 1_000_000_000 * 10**9 + 123_456_789
CAPABILITY = struct.pack("<IIIII", 0x2000001, 1, 0, 0, 0)


def of(layers: Layers) -> tuple[str, list[str]]:
    return str(layers.top), [str(layers.bottom)]


def changed(layers: Layers, options: dict[str, str] | None = None) -> Tree:
    """Some bottom, changed through a mount in some ways; what the mount showed in the end."""
    for name in ("a/one", "a/two", "b/one", "b/sub/two", "c"):
        path = layers.bottom / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name * 100)
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, options or {}) as mnt:
        (mnt / "a" / "one").write_text("new")
        (mnt / "a" / "two").unlink()
        (mnt / "a" / "three").write_text("three")
        os.link(mnt / "a" / "three", mnt / "a" / "also three")
        shutil.rmtree(mnt / "b" / "sub")
        (mnt / "b" / "sub").mkdir()
        (mnt / "b" / "sub" / "fresh").write_text("fresh")
        (mnt / "b" / "one").chmod(0o600)
        (mnt / "c").unlink()
        (mnt / "c").mkdir()
        (mnt / "c" / "deep").mkdir()
        (mnt / "c" / "deep" / "file").write_text("in a directory that was a file")
        return whole(mnt)


# ------------------------------------------------------------------------ what is kept


@pytest.fixture(params=["tmpfs", "ext4", "xfs", "btrfs"])
def any_layers(request: pytest.FixtureRequest, tmpfs_dir: Path) -> object:
    if request.param == "tmpfs":
        yield make_layers(tmpfs_dir)
    else:
        with loop_filesystem(request.param, 16) as mounted:
            yield make_layers(mounted)


def test_everything_of_a_file_is_kept(any_layers: Layers) -> None:
    layers = any_layers
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mnt:
        rich = mnt / "rich"
        rich.write_bytes(b"x")
        os.chown(rich, 12, 34)
        rich.chmod(0o6755)
        os.setxattr(rich, "security.capability", CAPABILITY)
        os.setxattr(rich, "user.tag", b"value")
        os.setxattr(rich, "trusted.tag", b"value")
        os.setxattr(rich, acl.ACCESS, LISTS[0])
        os.utime(rich, ns=(LONG_AGO, LONG_AGO + 1))
        (mnt / "dir").mkdir()
        os.setxattr(mnt / "dir", acl.DEFAULT, LISTS[1])
        os.chown(mnt / "dir", 5, 6)
        (mnt / "dir").chmod(0o2750)
        os.utime(mnt / "dir", ns=(LONG_AGO, LONG_AGO + 2))
        with open(mnt / "sparse", "wb") as file:
            file.truncate(8 << 20)
            file.seek(4 << 20)
            file.write(b"middle")
        os.mknod(mnt / "dev", 0o020640, os.makedev(240, 7))
        os.mkfifo(mnt / "fifo")
        os.symlink("nowhere", mnt / "link")
        os.chown(mnt / "link", 7, 8, follow_symlinks=False)
        os.utime(mnt / "link", ns=(LONG_AGO, LONG_AGO + 3), follow_symlinks=False)
        expected = whole(mnt)
    commit(*of(layers))
    assert whole(layers.bottom) == expected
    # A block of the file system may be 64 KiB, in a sparse file of 8 MiB.
    assert (layers.bottom / "sparse").stat().st_blocks * 512 <= 256 << 10


@pytest.mark.parametrize("options", [{}, {"metacopy": "on", "redirect_dir": "on"}])
def test_onto_another_file_system(tmpfs_dir: Path, options: dict[str, str]) -> None:
    layers = make_layers(tmpfs_dir)
    with loop_filesystem("ext4", 16) as mounted:
        bottom = mounted / "bottom"
        bottom.mkdir()
        other = Layers(layers.base, bottom, layers.top, layers.work, layers.mnt)
        expected = changed(other, options)
        commit(*of(other))
        assert whole(bottom) == expected
        assert frozenset({b"a/three", b"a/also three"}) in groups(bottom)


def test_a_renamed_directory_and_what_was_exchanged(layers: Layers) -> None:
    options = {"metacopy": "on", "redirect_dir": "on"}
    for name in ("d/x", "d/sub/y", "e/z"):
        (layers.bottom / name).parent.mkdir(parents=True, exist_ok=True)
        (layers.bottom / name).write_text(name)
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, options) as mnt:
        # Each reads from where the other was.
        syscalls.renameat2(-100, mnt / "d", -100, mnt / "e", syscalls.RENAME_EXCHANGE)
        (mnt / "e" / "sub" / "y").chmod(0o600)
        (mnt / "e" / "x").rename(mnt / "d" / "x")
        expected = whole(mnt)
    commit(*of(layers))
    assert whole(layers.bottom) == expected
    assert not list(plain(layers.bottom))


def test_all_names_of_a_file_of_the_bottom(layers: Layers) -> None:
    (layers.bottom / "d").mkdir()
    (layers.bottom / "a").write_text("old")
    for name in ("b", "d/c"):
        os.link(layers.bottom / "a", layers.bottom / name)
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {"index": "on"}) as mnt:
        (mnt / "a").write_text("new, by the name a")
        expected, links = whole(mnt), groups(mnt)
    assert links == {frozenset({b"a", b"b", b"d/c"})}, "the index is what this is about"
    commit(*of(layers))
    assert whole(layers.bottom) == expected
    assert groups(layers.bottom) == links
    assert os.listdir(layers.work / "index") == []


# ------------------------------------------------------------------------- conflicts


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda bottom: (bottom / "a/one").write_text("newer"), b"a/one"),
        (lambda bottom: (bottom / "a/two").chmod(0o604), b"a/two"),
        (lambda bottom: (bottom / "b/sub/two").write_text("newer"), b"b/sub/two"),
        (lambda bottom: (bottom / "b/sub/three").write_text("newer"), b"b/sub/three"),
        (lambda bottom: (bottom / "a/three").write_text("newer"), b"a/three"),
        (lambda bottom: (bottom / "c").write_text("newer"), b"c"),
    ],
    ids=["changed", "deleted", "hidden", "new in hidden", "new", "replaced"],
)
def test_what_changed_since_is_not_overwritten(layers: Layers, change: object, path: bytes) -> None:
    expected = changed(layers)
    assert callable(change)
    next_tick()
    change(layers.bottom)
    before, top = snapshot(layers.bottom), snapshot(layers.top)
    with pytest.raises(CommitConflict) as caught:
        commit(*of(layers))
    assert path in {each.path for each in caught.value.conflicts}
    assert caught.value.exit_code == 4
    assert snapshot(layers.bottom) == before
    assert snapshot(layers.top) == top
    kept = commit(*of(layers), on_conflict=OnConflict.KEEP)
    assert path in kept.left
    assert not kept.emptied
    assert snapshot(layers.bottom)[path] == before[path]
    done = commit(*of(layers), on_conflict=OnConflict.OVERWRITE)
    assert done.emptied
    assert snapshot(layers.bottom).keys() == expected.keys()
    if path in expected:
        assert snapshot(layers.bottom)[path] == replace_times(expected)[path]


def replace_times(tree: Tree) -> Tree:
    from dataclasses import replace

    return {
        path: replace(thing, times=None) if thing.ftype == 0o040000 else thing
        for path, thing in tree.items()
    }


def test_a_bottom_directory_that_only_got_entries_is_no_conflict(layers: Layers) -> None:
    changed(layers)
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mnt:
        (mnt / "a").chmod(0o711)
    (layers.bottom / "a" / "other").write_text("not the top's business")
    commit(*of(layers))
    assert (layers.bottom / "a").stat().st_mode & 0o777 == 0o711
    assert (layers.bottom / "a" / "other").read_text() == "not the top's business"


# --------------------------------------------------------------------------- choosing


def test_only_what_was_chosen(layers: Layers) -> None:
    expected = changed(layers)
    result = commit(*of(layers), select=select(["a/*", "c"], ["a/also*"]))
    assert not result.emptied
    assert not result.left
    assert (layers.bottom / "a" / "one").read_text() == "new"
    assert not (layers.bottom / "a" / "two").exists()
    assert not (layers.bottom / "a" / "also three").exists()
    assert (layers.bottom / "b" / "sub" / "two").exists()
    assert (layers.bottom / "c" / "deep" / "file").exists()
    assert not (layers.top / "c").exists()
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mnt:
        assert whole(mnt) == expected, "the union shows the same in the middle of it"
    assert commit(*of(layers)).emptied
    assert whole(layers.bottom) == expected


def test_what_was_not_chosen_stays_hidden(layers: Layers) -> None:
    expected = changed(layers)
    result = commit(*of(layers), select=select(without=["b/sub/two"]))
    assert not result.emptied
    assert (layers.bottom / "b" / "sub" / "two").exists()
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mnt:
        assert snapshot(mnt).keys() == expected.keys()
    assert commit(*of(layers)).emptied
    assert whole(layers.bottom) == expected


def test_a_new_directory_is_the_union_and_nothing_else_changes(layers: Layers) -> None:
    expected = changed(layers)
    before, top = whole(layers.bottom), whole(layers.top)
    out = layers.base / "out"
    commit(str(layers.top), [str(layers.bottom)], str(out))
    assert whole(out) == expected
    assert (whole(layers.bottom), whole(layers.top)) == (before, top)
    with pytest.raises(Refused, match="exists already"):
        commit(str(layers.top), [str(layers.bottom)], str(out))
    some = layers.base / "some"
    commit(str(layers.top), [str(layers.bottom)], str(some), select=select(["c"]))
    assert (some / "c" / "deep" / "file").exists()
    assert (some / "a" / "two").exists()


def test_discard(layers: Layers) -> None:
    changed(layers)
    before = whole(layers.bottom)
    assert discard(str(layers.top)) == 3
    assert list(layers.top.iterdir()) == []
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mnt:
        assert whole(mnt) == before


# --------------------------------------------------------------------------- refusals


def test_a_mounted_top_is_refused(layers: Layers) -> None:
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {"index": "on"}) as mnt:
        (mnt / "x").write_text("x")
        for refused in (lambda: commit(*of(layers)), lambda: discard(str(layers.top))):
            with pytest.raises(TopInUse):
                refused()
        assert (mnt / "x").read_text() == "x"


def test_a_bottom_of_a_live_overlay_is_refused(layers: Layers) -> None:
    changed(layers)
    top, work, mnt = (layers.base / name for name in ("top2", "work2", "mnt2"))
    for directory in (top, work, mnt):
        directory.mkdir()
    before = whole(layers.bottom)
    with overlay(mnt, [layers.bottom / "a"], top, work, {}):
        with pytest.raises(Refused, match=r"live overlay at .*mnt2"):
            commit(*of(layers))
        assert whole(layers.bottom) == before
        # What nobody uses may go.
        commit(*of(layers), select=select(["c"]))
    assert (layers.bottom / "c" / "deep").is_dir()
    with overlay(mnt, [layers.base], top, work, {}), pytest.raises(Refused, match="mnt2"):
        commit(*of(layers))
    assert commit(*of(layers)).emptied


def test_a_read_only_bottom_is_refused(layers: Layers) -> None:
    changed(layers)
    syscalls.mount(layers.bottom, layers.bottom, None, 4096, None)  # MS_BIND
    try:
        syscalls.mount_setattr(
            syscalls.AT_FDCWD, layers.bottom, 0, attr_set=syscalls.MOUNT_ATTR_RDONLY
        )
        with pytest.raises(Refused, match="read-only"):
            commit(*of(layers))
    finally:
        syscalls.umount2(layers.bottom)
    assert commit(*of(layers)).emptied


# ------------------------------------------------------------------------------ hostile


def test_symlinks_in_the_way_lead_nowhere(layers: Layers) -> None:
    outside = layers.base / "outside"
    outside.mkdir()
    (outside / "file").write_text("outside")
    (layers.bottom / "d").symlink_to(outside)
    (layers.bottom / "f").symlink_to(outside / "file")
    (layers.bottom / SITE.decode()).symlink_to(outside)
    (layers.top / "d").mkdir()
    (layers.top / "d" / "file").write_text("inside")
    (layers.top / "f").write_text("inside")
    before = snapshot(outside)
    with pytest.raises(OperationFailed, match=r"fallthru-commit.*Not a directory"):
        commit(*of(layers))
    (layers.bottom / SITE.decode()).unlink()
    commit(*of(layers))
    assert snapshot(outside) == before
    assert (layers.bottom / "d" / "file").read_text() == "inside"
    assert not (layers.bottom / "f").is_symlink()


def test_a_redirect_does_not_lead_out(layers: Layers) -> None:
    secret = layers.base / "secret"
    secret.mkdir()
    (secret / "file").write_text("secret")
    (layers.bottom / "link").symlink_to(secret)
    (layers.top / "d").mkdir()
    with opened(layers.top / "d") as fd:
        set_redirect(fd, MarkFamily.TRUSTED, b"/link")
    commit(*of(layers))
    assert list((layers.bottom / "d").iterdir()) == []
