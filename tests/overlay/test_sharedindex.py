"""A shared index: its overlays show what the bottoms show, and a stale one is never believed."""

from __future__ import annotations

import functools
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlay import errors, kernel, syscalls
from overlay.kernel import Overlay
from overlay.priming import sharedindex
from overlay.priming.indexfile import StaleIndex
from overlay.profiles import PROFILES
from tests.conftest import Layers
from tests.fsimages import loop_filesystem, needs_filesystem
from tests.overlay.test_prime import Description, attributes, describe, on_disk, populate
from tests.running import in_child


@pytest.fixture
def full(layers: Layers) -> Layers:
    populate(layers.bottom)
    return layers


FORMS = ["meta", "meta.erofs"]


@pytest.fixture(params=FORMS)
def meta(request: pytest.FixtureRequest, full: Layers) -> Path:
    if request.param == "meta.erofs":
        needs_filesystem("erofs")
    path: Path = full.base / request.param
    sharedindex.build(str(path), [str(full.bottom)], jobs=1)
    return path


@contextmanager
def mounted(
    layers: Layers, meta: Path | None, *bottoms: Path, profile: str = "fallthru"
) -> Iterator[Path]:
    below = tuple(str(path) for path in bottoms or (layers.bottom,))
    index = None if meta is None else str(meta)
    overlay = Overlay(below, str(layers.top), str(layers.work), profile, index=index)
    with kernel.mounted(overlay, str(layers.mnt)):
        yield layers.mnt


def fresh_top(layers: Layers) -> None:
    """Overlayfs holds a top to the bottoms that it was first mounted over."""
    for directory in (layers.top, layers.work):
        shutil.rmtree(directory)
        directory.mkdir()


def plain(layers: Layers, *bottoms: Path) -> Description:
    """What is shown without an index, for a top that is fresh again afterwards."""
    with mounted(layers, None, *bottoms) as mnt:
        found = describe(mnt)
    fresh_top(layers)
    return found


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_an_overlay_shows_the_same_with_an_index(full: Layers, meta: Path, profile: str) -> None:
    before = plain(full)
    with mounted(full, meta, profile=profile) as mnt:
        assert describe(mnt) == before
        (mnt / "d" / "plain").write_text("written")
        assert (mnt / "d" / "plain").read_text() == "written"
        (mnt / "d" / "link").unlink()
        with (mnt / "d" / "one").open("a") as file:
            file.write(", and more")
        assert (mnt / "d" / "two").read_text() == "one file, two names, and more"
    assert (full.bottom / "d" / "plain").read_text() == "plain content"


def test_lookups_and_data_come_from_where_they_should(full: Layers) -> None:
    meta = full.base / "meta"
    sharedindex.build(str(meta), [str(full.bottom)])
    stub = meta / "tree" / "d" / "big"
    assert stub.stat().st_blocks == 0
    assert os.getxattr(stub, "trusted.overlay.redirect") == b"/d/big"
    (meta / "tree" / "added").write_text("only in the layer")
    with mounted(full, meta) as mnt:
        assert (mnt / "added").read_text() == "only in the layer"
        assert (mnt / "d" / "big").read_bytes() == (full.bottom / "d" / "big").read_bytes()


def test_several_bottoms(full: Layers) -> None:
    lower = full.base / "lower"
    (lower / "d" / "sub").mkdir(parents=True)
    (lower / "d" / "sub" / "more").write_text("from below")
    (lower / "d" / "plain").write_text("hidden")
    (lower / "only").write_text("lower")
    os.mknod(full.bottom / "hidden", stat.S_IFCHR)
    (lower / "hidden").write_text("hidden by a whiteout")
    before = plain(full, full.bottom, lower)
    assert b"hidden" not in before
    meta = full.base / "meta"
    sharedindex.build(str(meta), [str(full.bottom), str(lower)])
    with mounted(full, meta, full.bottom, lower) as mnt:
        assert describe(mnt) == before


def test_same_bottoms_same_index(full: Layers) -> None:
    bottoms = [str(full.bottom)]
    first, second = full.base / "first", full.base / "second"
    reports = [sharedindex.build(str(path), bottoms) for path in (first, second)]
    assert reports[0] == reports[1]
    assert on_disk(first / "tree") == on_disk(second / "tree")
    assert (first / "index").read_bytes() == (second / "index").read_bytes()


def test_same_bottoms_same_image(full: Layers) -> None:
    bottoms = [str(full.bottom)]
    images = [full.base / name for name in ("first.erofs", "second.erofs")]
    for number, path in enumerate(images):
        sharedindex.build(str(path), bottoms, jobs=number + 1)
    assert images[0].read_bytes() == images[1].read_bytes()
    assert images[0].stat().st_size < 300_000


def test_an_image_holds_all_that_a_directory_can(tmpfs_dir: Path) -> None:
    """Long symlinks, large directories, large files, large ids and attributes."""
    needs_filesystem("erofs")
    tree = tmpfs_dir / "tree"
    (tree / "many").mkdir(parents=True)
    for number in range(2003):
        (tree / "many" / f"a rather long name of a file, number {number}").touch()
    for length in (1, 3900, 4010, 4090):
        os.symlink("x" * length, tree / f"link{length}")
    (tree / "huge").touch()
    os.truncate(tree / "huge", 1 << 43)
    os.chown(tree / "huge", 70_000, 4_000_000_000)
    os.setxattr(tree / "huge", "trusted.long", bytes(range(256)) * 20)
    os.utime(tree / "many", ns=(0, 10**18 + 999_999_999))
    os.link(tree / "huge", tree / "many" / "huge, too")
    from overlay import erofs, images

    image = tmpfs_dir / "image"
    fd = os.open(tmpfs_dir, os.O_RDONLY)
    with image.open("wb") as file:
        erofs.write_image(file, fd, b"tree", identity=b"")
    os.close(fd)
    root = images.reopen(str(image))
    assert root is not None
    try:
        mounted_tree = Path(f"/proc/self/fd/{root}")
        assert facts(mounted_tree) == facts(tree)
    finally:
        os.close(root)


def facts(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(root):
        for name in names + files:
            path = os.path.join(directory, name)
            st = os.lstat(path)
            is_link = stat.S_ISLNK(st.st_mode)
            found[os.path.relpath(path, root)] = (
                (st.st_mode, st.st_uid, st.st_gid, st.st_nlink, st.st_mtime_ns),
                0 if stat.S_ISDIR(st.st_mode) else st.st_size,
                os.readlink(path) if is_link else None,
                attributes(os.fsencode(path)),
            )
    return found


# -------------------------------------------------------------------------- staleness


def add(bottom: Path) -> None:
    (bottom / "d" / "sub" / "new").write_text("new")


def remove(bottom: Path) -> None:
    (bottom / "d" / "sub" / "deep" / "file").unlink()


def rename(bottom: Path) -> None:
    (bottom / "d" / "plain").rename(bottom / "d" / "renamed")


def replace_directory(bottom: Path) -> None:
    shutil.rmtree(bottom / "d" / "sub")
    (bottom / "d" / "sub" / "other").mkdir(parents=True)
    (bottom / "d" / "sub" / "other" / "file").write_text("another")


def change_type(bottom: Path) -> None:
    (bottom / "d" / "plain").unlink()
    (bottom / "d" / "plain").mkdir()
    shutil.rmtree(bottom / "d" / "sub")
    (bottom / "d" / "sub").write_text("a file now")


def relink(bottom: Path) -> None:
    os.link(bottom / "d" / "one", bottom / "d" / "sub" / "three")


def beside_a_link(bottom: Path) -> None:
    os.link(bottom / "d" / "one", bottom / "d" / "sub" / "three")
    sharedindex.update(str(bottom.parent / "meta"), [str(bottom)])
    (bottom / "d" / "sub" / "another").write_text("the links in it stay what they are")


NAMES_CHANGE = [add, remove, rename, replace_directory, change_type, relink, beside_a_link]


@pytest.mark.parametrize("change", NAMES_CHANGE)
def test_a_stale_index_is_refused_and_can_be_updated(full: Layers, change: object) -> None:
    bottoms, meta = [str(full.bottom)], full.base / "meta"
    sharedindex.build(str(meta), bottoms)
    root = (meta / "tree").stat().st_ino
    assert callable(change)
    change(full.bottom)
    with pytest.raises(StaleIndex) as caught, mounted(full, meta):
        pass
    assert caught.value.exit_code == 4
    report = sharedindex.update(str(meta), bottoms, jobs=1)
    assert 0 < report.changed < 5
    assert (meta / "tree").stat().st_ino == root
    fresh_top(full)
    before = plain(full)
    with mounted(full, meta) as mnt:
        assert describe(mnt) == before
    assert sharedindex.update(str(meta), bottoms).changed == 0
    anew = full.base / "anew"
    sharedindex.build(str(anew), bottoms)
    assert on_disk(anew / "tree") == on_disk(meta / "tree")
    assert (anew / "index").read_bytes() == (meta / "index").read_bytes()


def test_a_stale_image_is_replaced(full: Layers) -> None:
    bottoms, meta = [str(full.bottom)], full.base / "meta.erofs"
    sharedindex.build(str(meta), bottoms)
    before = plain(full)
    with mounted(full, meta) as mnt:
        add(full.bottom)
        sharedindex.update(str(meta), bottoms)
        assert describe(mnt) == before
    with mounted(full, meta) as mnt:
        assert (mnt / "d" / "sub" / "new").read_text() == "new"


def test_verify_finds_a_file_changed_in_place(full: Layers, meta: Path) -> None:
    bottoms = [str(full.bottom)]
    entries = sharedindex.verify(str(meta), bottoms).entries
    assert entries == sum(len(names) + len(files) for _, names, files in os.walk(full.bottom))
    with (full.bottom / "d" / "plain").open("a") as file:
        file.write("more")
    with pytest.raises(StaleIndex, match="d"):
        sharedindex.verify(str(meta), bottoms)
    sharedindex.update(str(meta), bottoms)
    sharedindex.verify(str(meta), bottoms)
    with mounted(full, meta) as mnt:
        assert (mnt / "d" / "plain").read_text() == "plain contentmore"


def test_other_bottoms_are_refused(full: Layers, meta: Path) -> None:
    copy = full.base / "copy"
    shutil.copytree(full.bottom / "d" / "sub", copy)
    for bottoms in ((copy,), (full.bottom, copy), (copy, full.bottom)):
        with pytest.raises(StaleIndex), mounted(full, meta, *bottoms):
            pass


def test_what_is_no_index_is_refused(full: Layers) -> None:
    image = full.base / "image"
    image.write_bytes(bytes(10_000))
    for path in (full.base / "nowhere", full.bottom, image):
        with pytest.raises(errors.FallthruError) as caught:
            sharedindex.verify(str(path), [str(full.bottom)])
        assert caught.value.exit_code in (2, 4)
    with pytest.raises(errors.UsageError, match="exists"):
        sharedindex.build(str(full.bottom), [str(full.bottom)])


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_record_is_refused(full: Layers, form: str) -> None:
    meta = full.base / form
    sharedindex.build(str(meta), [str(full.bottom)])
    record = meta / "index" if form == "meta" else meta
    content = bytearray(record.read_bytes())
    content[-60] ^= 1
    record.write_bytes(content)
    with pytest.raises(errors.Refused), mounted(full, meta):
        pass


def test_an_index_in_use_is_not_updated(full: Layers) -> None:
    meta = full.base / "meta"
    sharedindex.build(str(meta), [str(full.bottom)])
    with mounted(full, meta):
        add(full.bottom)
        with pytest.raises(errors.Refused, match=str(full.mnt)):
            sharedindex.update(str(meta), [str(full.bottom)])


def test_a_killed_update_is_refused_until_it_is_repeated(full: Layers) -> None:
    bottoms, meta = [str(full.bottom)], full.base / "meta"
    sharedindex.build(str(meta), bottoms)
    add(full.bottom)
    (meta / "index").unlink()
    (meta / "tree" / "d" / "plain").unlink()
    with pytest.raises(StaleIndex, match="not completed"), mounted(full, meta):
        pass
    sharedindex.update(str(meta), bottoms)
    before = plain(full)
    with mounted(full, meta) as mnt:
        assert describe(mnt) == before


def test_two_runs_at_once_are_refused(full: Layers) -> None:
    meta = full.base / "meta"

    def again(made: int) -> None:
        with pytest.raises(errors.Refused, match="another run"):
            sharedindex.build(str(meta), [str(full.bottom)])

    sharedindex.build(str(meta), [str(full.bottom)], jobs=1, progress=again)
    sharedindex.verify(str(meta), [str(full.bottom)])
    assert sorted(path.name for path in full.base.iterdir()) == [
        *("bottom", "meta", "mnt", "top", "top.work")
    ]


def test_a_killed_build_is_begun_anew(full: Layers) -> None:
    meta = full.base / "meta"

    def die(made: int) -> None:
        os._exit(0)

    build = functools.partial(sharedindex.build, str(meta), [str(full.bottom)], jobs=1)
    assert in_child(lambda: build(progress=die)) == ""
    assert not meta.exists()
    build()
    sharedindex.verify(str(meta), [str(full.bottom)])
    assert not [path for path in full.base.iterdir() if path.name.startswith(".")]


def test_a_top_keeps_its_changes_over_an_updated_index(full: Layers) -> None:
    meta = full.base / "meta"
    sharedindex.build(str(meta), [str(full.bottom)])
    with mounted(full, meta) as mnt:
        (mnt / "d" / "mine").write_text("user data")
    add(full.bottom)
    sharedindex.update(str(meta), [str(full.bottom)])
    with mounted(full, meta) as mnt:
        assert (mnt / "d" / "mine").read_text() == "user data"
        assert (mnt / "d" / "sub" / "new").read_text() == "new"


def test_bottoms_with_redirects_are_refused(full: Layers) -> None:
    moved = full.base / "moved"
    (moved / "d" / "elsewhere").mkdir(parents=True)
    os.setxattr(moved / "d" / "elsewhere", "trusted.overlay.redirect", b"/d/sub")
    with pytest.raises(errors.Refused, match="redirect"):
        sharedindex.build(str(full.base / "meta"), [str(moved), str(full.bottom)])
    assert not (full.base / "meta").exists()


def test_a_mount_inside_a_bottom_is_not_indexed(full: Layers) -> None:
    before = plain(full)
    with loop_filesystem("ext4") as other:
        (other / "seen").touch()
        tree = syscalls.open_tree(syscalls.AT_FDCWD, other, syscalls.OPEN_TREE_CLONE)
        syscalls.move_mount(
            tree, "", syscalls.AT_FDCWD, full.bottom / "d/sub", syscalls.MOVE_MOUNT_F_EMPTY_PATH
        )
        os.close(tree)
        try:
            sharedindex.build(str(full.base / "meta"), [str(full.bottom)])
            with mounted(full, full.base / "meta") as mnt:
                assert describe(mnt) == before
        finally:
            syscalls.umount2(full.bottom / "d" / "sub")
