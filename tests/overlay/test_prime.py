"""Priming a top: the union shows the same, reads it from the top, and all can be taken back."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from overlay import errors, kernel, syscalls
from overlay.differences.changes import Change, diff
from overlay.kernel import Overlay
from overlay.layer import Layer
from overlay.markvalues import MarkFamily
from overlay.priming.prime import PrimeReport, prime
from overlay.priming.unprime import undo
from tests.conftest import Layers, make_layers
from tests.fsimages import loop_filesystem
from tests.processes import children
from tests.running import in_child, in_user_namespace

OPAQUE = "trusted.overlay.opaque"
REDIRECT = "trusted.overlay.redirect"
METACOPY = "trusted.overlay.metacopy"
HOSTILE_NAMES = [b"new\nline", b"\xff\xfe", b"co:lon,comma", b"back\\slash", b"-rf", b"n" * 255]


# ------------------------------------------------------------------- trees, compared


Description = dict[bytes, tuple[object, ...]]


def describe(root: Path, *, times: bool = True, ghosts: set[bytes] | None = None) -> Description:
    """Everything that a user can find out about a tree: attributes, contents, links.

    Directories' link counts are left out: overlayfs gives merged directories 1.  Without
    ``times`` those of directories are, too.  Names that are listed but cannot be looked
    up are added to ``ghosts``.
    """
    found: Description = {}
    groups: dict[tuple[int, int], list[bytes]] = {}
    pending = [os.fsencode(root)]
    while pending:
        directory = pending.pop()
        with os.scandir(directory) as entries:
            for entry in entries:
                path = entry.path
                short = os.path.relpath(path, os.fsencode(root))
                try:
                    st = os.lstat(path)
                except FileNotFoundError:
                    if ghosts is None:
                        raise
                    ghosts.add(short)
                    continue
                assert entry.inode() == st.st_ino, path
                is_dir = stat.S_ISDIR(st.st_mode)
                content: bytes | None = None
                if stat.S_ISREG(st.st_mode):
                    content = Path(os.fsdecode(path)).read_bytes()
                elif stat.S_ISLNK(st.st_mode):
                    content = os.readlink(path)
                found[short] = (
                    st.st_mode,
                    st.st_uid,
                    st.st_gid,
                    st.st_rdev,
                    0 if is_dir else st.st_size,
                    0 if is_dir else st.st_nlink,
                    st.st_mtime_ns if times or not is_dir else 0,
                    content,
                    attributes(path),
                )
                if is_dir:
                    pending.append(path)
                else:
                    groups.setdefault((st.st_dev, st.st_ino), []).append(short)
    for names in groups.values():
        for name in names:
            found[name] += (tuple(sorted(names)),)
    return found


def attributes(path: bytes) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def shown(layers: Layers, *bottoms: Path, times: bool = True) -> Description:
    """What a mount of the top shows."""
    with mounted(layers, *bottoms) as mnt:
        return describe(mnt, times=times)


class mounted:  # noqa: N801 - reads as a verb
    def __init__(self, layers: Layers, *bottoms: Path, profile: str = "fallthru") -> None:
        below = tuple(str(path) for path in bottoms or (layers.bottom,))
        overlay = Overlay(below, str(layers.top), str(layers.work), profile)
        self.context = kernel.mounted(overlay, str(layers.mnt))
        self.mnt = layers.mnt

    def __enter__(self) -> Path:
        self.context.__enter__()
        return self.mnt

    def __exit__(self, *details: object) -> None:
        self.context.__exit__(None, None, None)


def on_disk(root: Path) -> dict[bytes, tuple[object, ...]]:
    """A layer as it is stored, without what overlayfs itself writes at a mount."""
    found: dict[bytes, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        st = path.lstat()
        own = {
            name: value
            for name, value in attributes(os.fsencode(path)).items()
            if name.removeprefix("trusted.overlay.") not in ("origin", "impure", "uuid")
        }
        is_dir = stat.S_ISDIR(st.st_mode)
        key = os.path.relpath(os.fsencode(path), os.fsencode(root))
        size = 0 if is_dir else st.st_size
        found[key] = (st.st_mode, st.st_uid, st.st_gid, st.st_rdev, size, st.st_mtime_ns, own)
    return found


def run(layers: Layers, *paths: str | bytes, **options: object) -> PrimeReport:
    settings = {"work": str(layers.work), "jobs": 1, "exact_inodes": True, **options}
    bottoms = settings.pop("bottoms", (layers.bottom,))
    assert isinstance(bottoms, tuple)
    return prime(str(layers.top), [str(path) for path in bottoms], paths, **settings)  # type: ignore[arg-type]


def take_back(layers: Layers, *paths: str, **options: object) -> None:
    settings: dict[str, object] = {"work": str(layers.work), "recursive": True, **options}
    bottoms = settings.pop("bottoms", (layers.bottom,))
    assert isinstance(bottoms, tuple)
    undo(str(layers.top), [str(path) for path in bottoms], paths, **settings)  # type: ignore[arg-type]


def populate(bottom: Path) -> None:
    """One of everything below ``d``, and some more around it."""
    d = bottom / "d"
    (d / "sub" / "deep").mkdir(parents=True)
    (d / "sub" / "deep" / "file").write_text("deep down")
    (d / "empty").touch()
    (d / "plain").write_text("plain content")
    (d / "big").write_bytes(b"start" + bytes(200_000) + b"end")
    (d / "one").write_text("one file, two names")
    os.link(d / "one", d / "two")
    os.symlink("plain", d / "link")
    os.mkfifo(d / "fifo", 0o640)
    os.mknod(d / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(d / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    with socket.socket(socket.AF_UNIX) as sock:
        # A path for bind has 108 bytes at most.
        fd = os.open(d, os.O_RDONLY)
        sock.bind(f"/proc/self/fd/{fd}/socket")
        os.close(fd)
    for name in HOSTILE_NAMES:
        Path(os.fsdecode(os.fsencode(d) + b"/" + name)).write_bytes(b"named " + name)
    program = d / "program"
    program.write_text("#!/bin/sh\n")
    os.chown(program, 1000, 1001)
    program.chmod(0o6755)
    secret = d / "secret"
    secret.write_text("x")
    secret.chmod(0o000)
    # cap_net_raw+ep, version 2 (include/uapi/linux/capability.h).
    os.setxattr(secret, "security.capability", bytes.fromhex("0100000200200000" + "00" * 12))
    os.setxattr(d / "plain", "trusted.note", b"kept")
    acl = bytes.fromhex(
        "0200000001000600ffffffff02000400e8030000040004 00ffffffff".replace(" ", "")
    )
    acl += bytes.fromhex("10000400ffffffff20000000ffffffff")
    for path, kind in ((d / "plain", "access"), (d / "sub", "default")):
        try:
            os.setxattr(path, f"system.posix_acl_{kind}", acl)
        except OSError:
            continue  # a file system without ACLs
    (d / "sub").chmod(0o2775)
    os.chown(d / "sub", 5, 6)
    for number, path in enumerate(sorted(bottom.rglob("*"), reverse=True)):
        os.utime(path, ns=(10**18, 10**18 + number * 10**9 + 123), follow_symlinks=False)
    os.utime(d / "sub", ns=(5 * 10**17, 5 * 10**17 + 1))
    os.utime(d, ns=(4 * 10**17, 4 * 10**17 + 1))


@pytest.fixture
def full(layers: Layers) -> Layers:
    populate(layers.bottom)
    return layers


# ------------------------------------------------------------------------ the same tree


@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs", "btrfs"])
def test_a_primed_top_shows_the_same_and_undo_restores_it(kind: str, tmpfs_dir: Path) -> None:
    with nullcontext(tmpfs_dir) if kind == "tmpfs" else loop_filesystem(kind) as base:
        layers = make_layers(base)
        populate(layers.bottom)
        before = shown(layers)
        report = run(layers, "d", recursive=True)
        assert report.left == ()
        assert report.directories == 3
        for directory in ("d", "d/sub", "d/sub/deep"):
            assert os.getxattr(layers.top / directory, OPAQUE) == b"y"
        assert (layers.top / "d" / "big").stat().st_blocks <= 8
        assert os.getxattr(layers.top / "d" / "big", METACOPY) == b""
        assert shown(layers) == before
        assert differences(layers) == []
        take_back(layers)
        assert on_disk(layers.top) == {}
        assert shown(layers) == before


def differences(layers: Layers) -> list[Change]:
    with Layer.open(str(layers.top)) as top, Layer.open(str(layers.bottom)) as bottom:
        return list(diff(top, [bottom], MarkFamily.TRUSTED))


def test_other_file_systems_below(layers: Layers) -> None:
    with loop_filesystem("ext4") as base:
        bottom = base / "bottom"
        bottom.mkdir()
        populate(bottom)
        before = shown(layers, bottom)
        assert run(layers, recursive=True, bottoms=(bottom,)).directories == 3
        assert shown(layers, bottom) == before


def test_only_the_named_directory_is_primed(full: Layers) -> None:
    before = shown(full)
    report = run(full, "/d/sub")
    assert (report.directories, report.entries) == (1, 1)
    with pytest.raises(OSError, match="No data"):
        os.getxattr(full.top / "d", OPAQUE)
    assert os.getxattr(full.top / "d" / "sub", OPAQUE) == b"y"
    assert os.getxattr(full.top / "d" / "sub" / "deep", REDIRECT) == b"/d/sub/deep"
    assert shown(full) == before
    assert run(full, "d/sub").already == 1
    assert run(full, "d/sub/deep").directories == 1
    # It is on the top by now, where two names of one file cannot appear at once.
    assert [left.path for left in run(full, "d").left] == [b"d"]
    (full.bottom / "d" / "two").unlink()
    before = shown(full)
    assert run(full, "d").directories == 1
    assert shown(full) == before
    take_back(full, "d", recursive=False)
    assert os.getxattr(full.top / "d" / "sub", OPAQUE) == b"y"
    assert shown(full) == before


def test_directories_within_each_other_can_be_named_at_once(full: Layers) -> None:
    before = shown(full)
    (full.top / "d").mkdir()
    report = run(full, "d/sub/deep", "d/sub", "/d//sub/", "d")
    assert (report.directories, report.already) == (3, 0)
    take_back(full)
    shutil.copystat(full.bottom / "d", full.top / "d")
    assert shown(full) == before


def test_several_bottoms(full: Layers) -> None:
    lower, lowest = full.base / "lower", full.base / "lowest"
    (lower / "d" / "sub").mkdir(parents=True)
    (lower / "d" / "sub" / "more").write_text("from below")
    (lower / "d" / "plain").write_text("hidden")
    (lower / "d" / "link").mkdir()
    os.mknod(lower / "d" / "gone", stat.S_IFCHR)
    (lowest / "d" / "gone").mkdir(parents=True)
    (lowest / "d" / "sub").write_text("a file under a directory")
    (lowest / "d" / "below").write_text("lowest")
    bottoms = (full.bottom, lower, lowest)
    before = shown(full, *bottoms)
    assert b"d/sub/more" in before
    assert b"d/gone" not in before
    assert run(full, recursive=True, bottoms=bottoms).directories == 3
    assert shown(full, *bottoms) == before
    take_back(full, bottoms=bottoms)
    assert on_disk(full.top) == {}


def test_bottoms_that_were_tops(full: Layers) -> None:
    """Whiteouts, opaque directories, redirects and stubs below are seen through."""
    first = full.base / "first"
    middle = Layers(full.base, full.bottom, first, full.base / "first.work", full.mnt)
    first.mkdir()
    (full.bottom / "e").mkdir()
    (full.bottom / "e" / "inside").write_text("moved with its directory")
    with mounted(middle) as mnt:
        (mnt / "d" / "plain").unlink()
        (mnt / "d" / "big").chmod(0o600)
        (mnt / "d" / "sub").rename(mnt / "d" / "renamed")
        (mnt / "e").rename(mnt / "d" / "e")
        (mnt / "d" / "new").mkdir()
    bottoms = (first, full.bottom)
    before = shown(full, *bottoms)
    assert run(full, recursive=True, bottoms=bottoms).left[0].path == b""
    assert shown(full, *bottoms) == before
    take_back(full, bottoms=bottoms)
    assert shown(full, *bottoms) == before


# --------------------------------------------------------------------- writes and tops


def change(mnt: Path) -> None:
    """What a user may do in a union."""
    d = mnt / "d"
    (d / "plain").write_text("written")
    (d / "link").unlink()
    (d / "sub" / "deep" / "file").unlink()
    (d / "sub" / "deep" / "file").mkdir()
    (d / "sub" / "deep").rename(d / "moved")
    (d / "new").write_text("new")
    (d / "big").chmod(0o600)
    (d / "empty").rename(d / "renamed")
    with (d / "one").open("a") as file:
        file.write(", and more")


def test_changes_in_a_primed_top_are_as_in_any_other(full: Layers) -> None:
    other = Layers(full.base, full.bottom, full.base / "t2", full.base / "t2.work", full.mnt)
    other.top.mkdir()
    run(full, recursive=True)
    seen = []
    for layers in (full, other):
        with mounted(layers) as mnt:
            change(mnt)
            seen.append({path: (value[0], value[7]) for path, value in describe(mnt).items()})
            assert (mnt / "d" / "two").read_text() == "one file, two names, and more"
    assert seen[0] == seen[1]


def test_undo_keeps_what_was_changed(full: Layers) -> None:
    run(full, recursive=True)
    with mounted(full) as mnt:
        change(mnt)
        after = describe(mnt)
    take_back(full)
    assert shown(full) == after
    assert not (full.top / "d" / "program").exists()
    assert not (full.top / "d" / "fifo").exists()
    assert stat.S_ISCHR((full.top / "d" / "link").lstat().st_mode)


def test_a_used_top_can_be_primed(full: Layers) -> None:
    """Whiteouts, new files, redirects, opaque and copied-up things on the top stay."""
    (full.bottom / "d" / "two").unlink()
    with mounted(full) as mnt:
        change(mnt)
        (mnt / "d" / "sub").rename(mnt / "d" / "sub2")
        (mnt / "d" / "fresh").mkdir()
        after = describe(mnt)
    stored = on_disk(full.top)
    report = run(full, recursive=True)
    assert report.directories > 0
    assert shown(full) == after
    assert os.getxattr(full.top / "d", OPAQUE) == b"y"
    assert not any(is_whiteout(path) for path in (full.top / "d").iterdir())
    take_back(full)
    assert shown(full) == after
    left = on_disk(full.top)
    assert left.keys() == stored.keys()
    assert {path: value[:5] for path, value in left.items()} == {
        path: value[:5] for path, value in stored.items()
    }


def is_whiteout(path: Path) -> bool:
    st = path.lstat()
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0


def test_hard_links_that_lead_outside_keep_a_directory_merged(layers: Layers) -> None:
    for name in ("a", "b", "c"):
        (layers.bottom / name).mkdir()
        (layers.bottom / name / "file").write_text("content")
    os.link(layers.bottom / "a" / "file", layers.bottom / "b" / "other")
    (layers.bottom / "b" / "sub").mkdir()
    before = shown(layers)
    report = run(layers, recursive=True)
    assert {left.path for left in report.left} == {b"", b"a", b"b"}
    assert not (layers.top / "a").exists()
    assert shown(layers) == before
    with mounted(layers) as mnt:
        with (mnt / "a" / "file").open("a") as file:
            file.write(" changed")
        assert (mnt / "b" / "other").read_text() == "content changed"


def test_hard_links_within_the_tree_stay_one_file(layers: Layers) -> None:
    for name in ("x/a", "x/b/c", "x/d"):
        (layers.bottom / name).mkdir(parents=True)
    (layers.bottom / "x" / "a" / "file").write_text("content")
    os.link(layers.bottom / "x/a/file", layers.bottom / "x/b/c/other")
    os.symlink("target", layers.bottom / "x/d/link")
    os.link(layers.bottom / "x/d/link", layers.bottom / "x/link", follow_symlinks=False)
    before = shown(layers)
    assert run(layers, "x", recursive=True).left == ()
    assert (layers.top / "x/a/file").stat().st_nlink == 2
    assert shown(layers) == before
    with mounted(layers) as mnt:
        (mnt / "x/a/file").write_text("changed")
        assert (mnt / "x/b/c/other").read_text() == "changed"
    take_back(layers)
    assert (layers.top / "x/b/c/other").read_text() == "changed"


def test_a_name_that_was_added_to_a_stub_is_not_torn_off(full: Layers) -> None:
    run(full, recursive=True)
    with mounted(full) as mnt:
        os.link(mnt / "d" / "plain", mnt / "added")
        after = describe(mnt)
    take_back(full)
    assert shown(full) == after


# --------------------------------------------------------------------------- refusals


def test_a_mounted_top_is_refused_and_its_owner_named(full: Layers) -> None:
    with mounted(full), pytest.raises(errors.TopInUse, match=str(full.mnt)) as caught:
        run(full, "d")
    assert caught.value.exit_code == 4
    assert on_disk(full.top) == {}


def test_a_top_that_is_mounted_out_of_sight_is_refused(full: Layers) -> None:
    overlay = Overlay((str(full.bottom),), str(full.top), str(full.work))
    tree = kernel.open_overlay(overlay)
    try:
        with pytest.raises(errors.TopInUse):
            run(full, "d")
    finally:
        os.close(tree)


def test_a_user_namespace_is_refused(full: Layers) -> None:
    for directory in (full.base, full.bottom, full.top):
        directory.chmod(0o777)
    answer = in_user_namespace(lambda: run(full, "d", work=None))
    assert answer.startswith("EnvironmentLacks"), answer


def test_two_runs_at_once_are_refused(full: Layers) -> None:
    import fcntl

    fd = os.open(full.work, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(errors.TopInUse, match="another run"):
        run(full, "d")
    os.close(fd)


def test_other_profiles_refuse_a_primed_top(full: Layers) -> None:
    run(full, "d")
    with pytest.raises(errors.UnreadableTop), mounted(full, profile="document"):
        pass
    take_back(full)
    syscalls.removexattr(work_fd := os.open(full.work, os.O_RDONLY), "trusted.fallthru.stubs")
    os.close(work_fd)
    with mounted(full, profile="document") as mnt:
        assert (mnt / "d" / "plain").read_text() == "plain content"


@pytest.mark.parametrize("path", ["nowhere", "d/plain", "d/../d", "d/link"])
def test_what_is_no_directory_is_an_error(full: Layers, path: str) -> None:
    with pytest.raises(errors.UsageError):
        run(full, path)
    assert on_disk(full.top) == {}


def test_the_root_alone_cannot_be_primed(full: Layers) -> None:
    with pytest.raises(errors.UsageError, match="root"):
        run(full)


def test_a_symlink_on_the_top_is_not_followed(full: Layers) -> None:
    elsewhere = full.base / "elsewhere"
    elsewhere.mkdir()
    os.symlink(elsewhere, full.top / "d")
    assert run(full, recursive=True).directories == 0
    with pytest.raises(errors.UsageError):
        run(full, "d")
    assert list(elsewhere.iterdir()) == []


def test_a_full_top_is_reported_and_shows_the_same(tmpfs_dir: Path) -> None:
    with loop_filesystem("ext4", mkfs_options=("-N", "64")) as base:
        layers = make_layers(base)
        bottom = tmpfs_dir / "bottom"
        (bottom / "d").mkdir(parents=True)
        for number in range(100):
            (bottom / "d" / str(number)).touch()
        before = shown(layers, bottom)
        with pytest.raises(errors.OperationFailed, match="No space"):
            run(layers, "d", bottoms=(bottom,))
        assert shown(layers, bottom) == before
        assert not any(name.name.startswith(".fallthru") for name in layers.work.iterdir())


# ------------------------------------------------------------------------------ crashes

#: Audit events of what changes a file system; renameat2 has none and is counted by itself.
CHANGES = {
    *("os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.removexattr", "os.rename"),
    *("os.rmdir", "os.setxattr", "os.symlink", "os.truncate", "os.utime"),
}


def killed_at(step: int, action: Callable[[], object]) -> bool:
    """Run ``action`` in a child that dies before its ``step``-th change; whether it did."""

    def doomed() -> str:
        left = step

        def count(event: str, details: tuple[object, ...]) -> None:
            nonlocal left
            makes = event == "open" and isinstance(details[2], int) and details[2] & os.O_CREAT
            if event in CHANGES or makes:
                left -= 1
                if left == 0:
                    os._exit(0)

        rename = syscalls.renameat2

        def counted(*arguments: object) -> None:
            count("os.rename", arguments)
            rename(*arguments)  # type: ignore[arg-type]

        syscalls.renameat2 = counted  # type: ignore[assignment]
        sys.addaudithook(count)
        action()
        left = 0
        return "survived"

    answer = in_child(doomed)
    assert answer in ("", "survived"), answer
    return answer == ""


def small_layers(base: Path, *, used: bool) -> Layers:
    base.mkdir()
    layers = make_layers(base)
    d = layers.bottom / "d"
    for directory in (d / "sub", d / "merged"):
        directory.mkdir(parents=True)
        (directory / "below").write_text("below")
    for name in ("file", "gone"):
        (d / name).write_text("content")
    os.symlink("file", d / "link")
    for path in (d / "merged", d / "sub", d):
        os.utime(path, ns=(10**18, 10**18))
    if used:
        with mounted(layers) as mnt:
            (mnt / "d" / "mine").write_text("user data")
            (mnt / "d" / "gone").unlink()
            (mnt / "d" / "file").chmod(0o600)
            (mnt / "d" / "merged" / "mine").write_text("user data")
    return layers


@pytest.mark.parametrize("used", [False, True])
def test_killed_at_any_step_of_prime_and_of_undo(tmpfs_dir: Path, used: bool) -> None:
    """Nothing is lost or half visible, and the next run completes.

    Only the name of a deleted file may be listed, between the opaque mark and the
    removal of the whiteout: overlayfs does not filter opaque directories.
    """
    for number in range(1, 1000):
        layers = small_layers(tmpfs_dir / f"{number}", used=used)
        before, stored = shown(layers), on_disk(layers.top)
        died = killed_at(number, lambda each=layers: run(each, "d", recursive=True))  # type: ignore[misc]
        with mounted(layers) as mnt:
            ghosts: set[bytes] = set()
            seen = describe(mnt, times=False, ghosts=ghosts)
        assert seen == without_times(before), number
        assert ghosts <= {b"d/gone"}, number
        assert run(layers, "d", recursive=True).left == ()
        assert os.getxattr(layers.top / "d" / "merged", OPAQUE) == b"y"
        assert shown(layers) == before, number
        undone = not killed_at(number, lambda each=layers: take_back(each))  # type: ignore[misc]
        with mounted(layers) as mnt:
            seen = describe(mnt, times=False, ghosts=set())
        assert seen == without_times(before), number
        take_back(layers)
        assert shown(layers) == before, number
        assert {k: v[:5] for k, v in on_disk(layers.top).items()} == {
            k: v[:5] for k, v in stored.items()
        }
        if undone and not died:
            break
    assert number > 40


def without_times(found: Description) -> Description:
    """The same without the times of directories."""
    return {
        path: (*value[:6], 0, *value[7:]) if stat.S_ISDIR(int(str(value[0]))) else value
        for path, value in found.items()
    }


def test_a_killed_run_leaves_no_helper_behind(layers: Layers) -> None:
    (layers.bottom / "d").mkdir()
    for number in range(6000):
        (layers.bottom / "d" / str(number)).touch()

    def die_midway(made: int) -> None:
        os.kill(os.getpid(), 9)

    before = children()
    assert in_child(lambda: run(layers, "d", jobs=2, progress=die_midway)) == ""
    # The helpers are this process's children now, and end though nobody tells them to.
    for helper in children() - before:
        os.waitpid(helper, 0)
    assert run(layers, "d", jobs=2).entries == 6000
    assert shown(layers).keys() == {b"d", *(b"d/%d" % number for number in range(6000))}


def test_all_cores_make_the_same_as_one(layers: Layers) -> None:
    other = Layers(layers.base, layers.bottom, layers.base / "t2", layers.base / "w2", layers.mnt)
    other.top.mkdir()
    for number in range(9001):
        path = layers.bottom / "flat" / f"{number}"
        if number % 3 == 0:
            path = layers.bottom / f"dir{number % 97}" / f"{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * (number % 7))
    told: list[int] = []
    one = run(layers, recursive=True, jobs=1, progress=told.append)
    two = run(other, recursive=True, jobs=3)
    assert one == two
    assert sum(told) == one.entries == 9001
    assert on_disk(layers.top) == on_disk(other.top)
