"""The diff of a top, against the trees that a real mount shows."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overlay import orderedpool
from overlay.differences.changes import Aspect, Change, FileType, Kind, _Diff, diff, differences
from overlay.layer import Layer
from overlay.marks import (
    HostileMark,
    MarkFamily,
    Whiteout,
    set_metacopy,
    set_opaque,
    set_redirect,
    write_fallthru,
    write_whiteout,
)
from overlay.view import View
from tests.conftest import Layers, make_layers
from tests.fsimages import loop_filesystem
from tests.overlay.test_marks import opened
from tests.rawoverlay import overlay
from tests.treediff import Tree, check_diff, snapshot

LONG_AGO = 1_000_000_000 * 10**9
_ticks = itertools.count(1)
OPTIONS = {
    "default": {},
    "stubs": {"metacopy": "on", "redirect_dir": "on"},
    "user": {"userxattr": ""},
}


def changes(
    top: Path,
    bottoms: Sequence[Path],
    *,
    family: str = "trusted",
    checksum: bool = False,
    data: Sequence[Path] = (),
) -> list[Change]:
    with ExitStack() as stack:

        def layer(path: Path) -> Layer:
            return stack.enter_context(Layer.open(str(path), private=True))

        return list(
            diff(
                layer(top),
                [layer(path) for path in bottoms],
                MarkFamily(family),
                data_bottoms=[layer(path) for path in data],
                checksum=checksum,
            )
        )


def of(layers: Layers) -> list[Change]:
    return changes(layers.top, [layers.bottom])


def kinds(found: list[Change]) -> dict[bytes, str]:
    return {change.path: change.kind.value for change in found}


def age(layer: Path) -> None:
    """Make everything old, each thing of another time, so that times tell things apart."""
    for directory, dirs, files in os.walk(layer):
        for name in dirs + files:
            path = os.path.join(directory, name)
            os.utime(path, ns=(LONG_AGO, LONG_AGO + next(_ticks)), follow_symlinks=False)


def judge(
    layers: Layers, bottoms: Sequence[Path], old: Tree, options: dict[str, str]
) -> list[Change]:
    """The diff with the overlay mounted and without, held against what the mount shows."""
    family = "user" if "userxattr" in options else "trusted"
    with overlay(layers.mnt, bottoms, layers.top, layers.work, options) as mnt:
        new = snapshot(mnt)
        mounted = changes(layers.top, bottoms, family=family)
    check_diff(mounted, old, new)
    assert changes(layers.top, bottoms, family=family) == mounted
    return mounted


# ---------------------------------------------------------------- random histories

NAMES = ["a", "b", "a-b", "ü"]
PATHS = [
    *NAMES,
    *(f"{x}/{y}" for x in NAMES for y in NAMES),
    "a/b/a",
    "a/b/b",
    "b/a/a/a",
    "a/a/b/b",
]
#: The verbs that make redirects and opaque directories come twice.
VERBS = [
    *("write", "append", "rewrite", "truncate", "copyup", "remove", "rmtree", "mkdir", "mkdir"),
    *("rename", "rename", "link", "symlink", "chmod", "chown", "utime", "xattr"),
    *("mkfifo", "mknod"),
]
Step = tuple[str, str, str, int]
STEPS = st.tuples(
    st.sampled_from(VERBS),
    st.sampled_from(PATHS),
    st.sampled_from(PATHS),
    st.integers(0, 7),
)


def run(root: Path, steps: Sequence[Step]) -> None:
    """Do each step as a program would; what the union refuses is not done."""
    for number, (verb, one, other, value) in enumerate(steps):
        path, second = str(root / one), str(root / other)
        try:
            OPERATIONS[verb](path, second, value, LONG_AGO + (number + 1) * 10**9)
        except OSError:
            continue


def _write(path: str, flags: int, data: bytes) -> None:
    fd = os.open(path, flags | os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    with open(fd, "wb") as file:
        file.write(data)


def _rmtree(path: str) -> None:
    # shutil's opens whatever is there, and a fifo would make it wait.
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)


def _copyup(path: str) -> None:
    if stat.S_ISREG(os.lstat(path).st_mode):
        os.close(os.open(path, os.O_RDWR | os.O_NOFOLLOW))


OPERATIONS: dict[str, Callable[[str, str, int, int], object]] = {
    "write": lambda p, q, v, t: _write(p, os.O_TRUNC, b"w" * v * 7),
    "append": lambda p, q, v, t: _write(p, os.O_APPEND, b"a" * (v + 1)),
    "rewrite": lambda p, q, v, t: _write(p, 0, b"%d" % v),
    "truncate": lambda p, q, v, t: os.truncate(p, v),
    "copyup": lambda p, q, v, t: _copyup(p),
    "remove": lambda p, q, v, t: os.unlink(p),
    "rmtree": lambda p, q, v, t: _rmtree(p),
    "mkdir": lambda p, q, v, t: os.mkdir(p),
    "rename": lambda p, q, v, t: os.rename(p, q),
    "link": lambda p, q, v, t: os.link(p, q, follow_symlinks=False),
    "symlink": lambda p, q, v, t: os.symlink(f"t{v}", p),
    "chmod": lambda p, q, v, t: os.chmod(p, 0o700 + v),
    "chown": lambda p, q, v, t: os.chown(p, v, v, follow_symlinks=False),
    "utime": lambda p, q, v, t: os.utime(p, ns=(t, t), follow_symlinks=False),
    "xattr": lambda p, q, v, t: os.setxattr(p, f"user.x{v % 3}", b"%d" % v),
    "mkfifo": lambda p, q, v, t: os.mkfifo(p),
    "mknod": lambda p, q, v, t: os.mknod(p, stat.S_IFCHR | 0o600, os.makedev(240, v)),
}


@pytest.mark.parametrize("kind", sorted(OPTIONS))
@pytest.mark.parametrize("bottoms", [1, 3])
def test_diff_is_what_the_mount_shows(tmpfs_dir: Path, kind: str, bottoms: int) -> None:
    examples = iter(range(10**6))

    def history(steps: list[list[Step]]) -> None:
        base = tmpfs_dir / str(next(examples))
        base.mkdir()
        one_history(base, steps, OPTIONS[kind])
        shutil.rmtree(base)

    histories(bottoms, history, 40)


def histories(bottoms: int, test: Callable[[list[list[Step]]], object], examples: int) -> None:
    """Run ``test`` with random histories, one list of steps for each bottom and for the top."""

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(
        st.lists(
            st.lists(STEPS, min_size=3, max_size=25), min_size=bottoms + 1, max_size=bottoms + 1
        )
    )
    def history(steps: list[list[Step]]) -> None:
        test(steps)

    history()


def stacked(
    base: Path, steps: list[list[Step]], options: dict[str, str]
) -> tuple[Layers, list[Path]]:
    """Bottoms, uppermost first: each list of steps fills one through a mount over those before."""
    layers = make_layers(base)
    stack = [layers.bottom]
    run(layers.bottom, steps[0])
    age(layers.bottom)
    for number, each in enumerate(steps[1:]):
        top, work = base / f"top{number}", base / f"work{number}"
        top.mkdir()
        work.mkdir()
        with overlay(layers.mnt, stack, top, work, options):
            run(layers.mnt, each)
        age(top)
        stack.insert(0, top)
    return layers, stack


def one_history(base: Path, steps: list[list[Step]], options: dict[str, str]) -> None:
    layers, stack = stacked(base, steps[:-1], options)
    # What the bottoms show together is seen through an empty top.
    empty, work = base / "empty", base / "emptywork"
    empty.mkdir()
    work.mkdir()
    with overlay(layers.mnt, stack, empty, work, options):
        old = snapshot(layers.mnt)
    with overlay(layers.mnt, stack, layers.top, layers.work, options):
        run(layers.mnt, steps[-1])
    judge(layers, stack, old, options)


# ----------------------------------------------------------------- one by one


@pytest.fixture(params=["tmpfs", "ext4", "xfs", "btrfs"])
def any_layers(request: pytest.FixtureRequest, tmpfs_dir: Path) -> Iterator[Layers]:
    if request.param == "tmpfs":
        yield make_layers(tmpfs_dir)
    else:
        with loop_filesystem(request.param, 16) as mounted:
            yield make_layers(mounted)


@pytest.mark.parametrize("kind", sorted(OPTIONS))
def test_a_rich_scenario(  # noqa: PLR0915 - a day's work is many statements
    any_layers: Layers, kind: str
) -> None:
    bottom, mnt = any_layers.bottom, any_layers.mnt
    for name in ("usr/bin", "usr/share/doc", "etc", "var/log", "home/me"):
        (bottom / name).mkdir(parents=True)
        for file in ("one", "two", "three"):
            (bottom / name / file).write_text(f"{name}/{file}\n" * 9)
    os.link(bottom / "usr/bin/one", bottom / "usr/bin/alias")
    (bottom / "etc/link").symlink_to("one")
    os.mkfifo(bottom / "var/fifo")
    os.mknod(bottom / "var/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (bottom / os.fsdecode(b"odd\xff\n,: name")).write_text("odd")
    age(bottom)
    old = snapshot(bottom)
    with overlay(mnt, [bottom], any_layers.top, any_layers.work, OPTIONS[kind]):
        (mnt / "usr/bin/one").write_text("short")
        (mnt / "usr/bin/new").write_text("new")
        os.link(mnt / "usr/bin/two", mnt / "usr/bin/two-again")
        shutil.rmtree(mnt / "usr/share")
        (mnt / "usr/share").mkdir()
        (mnt / "usr/share/fresh").write_text("fresh")
        (mnt / "etc/one").chmod(0o600)
        os.chown(mnt / "etc/two", 12, 34)
        os.setxattr(mnt / "etc/three", "user.tag", b"x")
        (mnt / "etc/link").unlink()
        (mnt / "etc/link").symlink_to("two")
        (mnt / "var/log/one").unlink()
        (mnt / "var/log/one").mkdir()
        (mnt / "var/log/one/in").touch()
        shutil.rmtree(mnt / "home")
        (mnt / "home").write_text("was a directory")
        (mnt / "var/null").chmod(0o600)
        os.utime(mnt / "var/fifo", ns=(5, 5))
        os.close(os.open(mnt / "usr/bin/three", os.O_RDWR))
        (mnt / os.fsdecode(b"odd\xff\n,: name")).unlink()
        if kind == "stubs":
            (mnt / "var").rename(mnt / "var2")
            (mnt / "var2/log").rename(mnt / "var2/logs")
            (mnt / "usr/bin/alias").chmod(0o700)
    found = {change.path: change for change in judge(any_layers, [bottom], old, OPTIONS[kind])}
    assert found[b"home"].kind is Kind.REPLACED
    assert (found[b"home"].ftype, found[b"home"].old_ftype) == (FileType.FILE, FileType.DIRECTORY)
    assert found[b"home"].gone == 5
    assert found[b"usr/share"].kind is Kind.REPLACED
    assert found[b"usr/share/doc"].gone == 4
    assert found[b"etc/one"].what == {Aspect.MODE}
    assert found[b"etc/one"].metadata_only is (kind == "stubs")
    assert found[b"etc/link"].what == {Aspect.CONTENT, Aspect.TIMES}
    assert b"usr/bin/three" not in found, "copied up and not written: no change"
    assert b"usr" not in found
    if kind == "stubs":
        assert found[b"var2"].moved_from == b"var"
        assert found[b"var2/logs"].moved_from == b"var/log"
        assert found[b"var2/logs/one"].kind is Kind.REPLACED
    else:
        assert found[b"var/log/one"].kind is Kind.REPLACED


def test_nothing_is_no_difference(layers: Layers) -> None:
    (layers.bottom / "d").mkdir()
    (layers.bottom / "d" / "f").write_text("f")
    assert of(layers) == []
    assert changes(layers.top, [layers.bottom, layers.bottom]) == []


def test_fallthrus_are_no_change(layers: Layers) -> None:
    below, above = layers.bottom / "d", layers.top / "d"
    (below / "sub").mkdir(parents=True)
    (below / "sub" / "in").write_text("in")
    (below / "file").write_text("file")
    (below / "hidden").write_text("hidden")
    (below / "link").symlink_to("file")
    os.mkfifo(below / "fifo")
    age(layers.bottom)
    above.mkdir()
    with opened(above) as fd, opened(layers.work) as work:
        set_opaque(fd, MarkFamily.TRUSTED)
        for name in ("sub", "file", "link", "fifo"):
            write_fallthru(
                fd,
                os.fsencode(name),
                (below / name).lstat(),
                b"/d/" + os.fsencode(name),
                MarkFamily.TRUSTED,
                work_fd=work,
                target=b"file" if name == "link" else None,
            )
    old = snapshot(layers.bottom)
    found = judge(layers, [layers.bottom], old, OPTIONS["stubs"])
    # What has no fallthru is hidden by the opaque directory.
    assert kinds(found) == {b"d/hidden": "deleted"}
    (above / "file").chmod(0o4711)
    found = judge(layers, [layers.bottom], old, OPTIONS["stubs"])
    assert found[0].what == {Aspect.MODE}
    assert found[0].metadata_only


def test_an_empty_directory_copied_up_is_no_change(layers: Layers) -> None:
    for layer in (layers.bottom, layers.top):
        (layer / "d").mkdir()
    with opened(layers.top / "d") as fd:
        set_opaque(fd, MarkFamily.TRUSTED)
    assert of(layers) == []


def test_both_forms_of_whiteout_delete(layers: Layers) -> None:
    for name in ("device", "xattr", "kept"):
        (layers.bottom / name).write_text(name)
    with opened(layers.top) as fd, opened(layers.work) as work:
        write_whiteout(fd, b"device", MarkFamily.TRUSTED)
        write_whiteout(fd, b"xattr", MarkFamily.TRUSTED, form=Whiteout.XATTR, work_fd=work)
        write_whiteout(fd, b"needless", MarkFamily.TRUSTED)
    assert kinds(of(layers)) == {b"device": "deleted", b"xattr": "deleted"}


def test_a_copyup_of_equal_size_and_time_is_equal_unless_asked(layers: Layers) -> None:
    for layer, text in ((layers.bottom, "old"), (layers.top, "new")):
        (layer / "f").write_text(text)
        os.utime(layer / "f", ns=(LONG_AGO, LONG_AGO))
    # Made on the top, as by an archiver that sets times: read, for it is no copyup.
    assert [change.what for change in of(layers)] == [{Aspect.CONTENT}]
    os.setxattr(layers.top / "f", "trusted.overlay.origin", b"")
    assert of(layers) == []
    found = changes(layers.top, [layers.bottom], checksum=True)
    assert [(change.path, change.what) for change in found] == [(b"f", frozenset({Aspect.CONTENT}))]


def test_a_touched_file_differs_in_time_alone(layers: Layers) -> None:
    for layer in (layers.bottom, layers.top):
        (layer / "f").write_bytes(b"same" * 500_000)
    age(layers.bottom)
    assert [change.what for change in of(layers)] == [{Aspect.TIMES}]


def test_data_of_a_stub_may_lie_in_a_data_only_bottom(layers: Layers) -> None:
    meta, data = layers.base / "meta", layers.base / "data"
    meta.mkdir()
    (data / "pool").mkdir(parents=True)
    (data / "pool" / "blob").write_bytes(b"data")
    with opened(meta) as fd, opened(layers.work) as work:
        blob = (data / "pool" / "blob").lstat()
        write_fallthru(fd, b"f", blob, b"/pool/blob", MarkFamily.TRUSTED, work_fd=work)
    (layers.top / "f").write_bytes(b"data")
    found = changes(layers.top, [meta], data=[data])
    assert [change.what for change in found] == [{Aspect.TIMES}]
    (layers.top / "f").write_bytes(b"dato")
    found = changes(layers.top, [meta], data=[data])
    assert [change.what for change in found] == [{Aspect.TIMES, Aspect.CONTENT}]


def test_a_broken_fallthru_is_a_changed_content(layers: Layers) -> None:
    (layers.bottom / "f").write_text("text")
    age(layers.bottom)
    with opened(layers.top) as fd:
        st_f = (layers.bottom / "f").lstat()
        write_fallthru(fd, b"f", st_f, b"/gone", MarkFamily.TRUSTED, work_fd=None)
    assert [change.what for change in of(layers)] == [{Aspect.CONTENT}]


def test_trees_deeper_than_every_limit(layers: Layers) -> None:
    depth = 1300
    for layer, content in ((layers.bottom, b"old"), (layers.top, b"new!")):
        fd = os.open(layer, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir("deep", dir_fd=fd)
            below = os.open("deep", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        file = os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        os.write(file, content)
        os.close(file)
        os.close(fd)
    found = of(layers)
    assert [change.path for change in found] == [b"deep/" * depth + b"f"]
    assert Aspect.CONTENT in found[0].what


def test_many_entries_by_several_processes_in_order(
    layers: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prime number of changes, more than one process looks at, against one process alone."""
    for number in range(61):
        for layer in (layers.bottom, layers.top):
            directory = layer / f"d{number % 7}" / f"e{number}"
            directory.mkdir(parents=True)
            for name in range(101):
                (directory / f"f{name}").write_bytes(b"x" * (layer == layers.top))
        (layers.bottom / f"d{number % 7}" / f"e{number}" / "below").touch()
        # Another directory with the old name, and one that says it has xattr whiteouts.
        if number in (2, 3, 5, 7, 11, 13):
            os.setxattr(directory, "trusted.overlay.opaque", b"x" if number == 7 else b"y")
            (directory / "new").touch()
        if number == 5:
            os.setxattr(directory, "trusted.overlay.impure", b"y")
        if number == 11:
            directory.chmod(0o700)
        if number == 13:
            os.setxattr(directory, "trusted.mine", b"1")
    age(layers.bottom)
    with Layer.open(str(layers.top)) as top, Layer.open(str(layers.bottom)) as bottom:
        alone = list(diff(top, [bottom], MarkFamily.TRUSTED, workers=1))
        together = list(diff(top, [bottom], MarkFamily.TRUSTED, workers=3))
        general = _Diff(View([top, bottom], MarkFamily.TRUSTED), False)
        general.quick = None
        assert [each.change for each in general.run()] == alone, "the quick look misses nothing"
        # What a worker was given and did not come to is done all the same.
        monkeypatch.setattr(orderedpool, "_BUDGET", 200)
        assert list(diff(top, [bottom], MarkFamily.TRUSTED, workers=1)) == alone
    # Five directories are other ones, in which a file is missing; six have a new one.
    assert len(alone) == 61 * 101 + 5 * 2 + 6
    assert [each.path for each in alone if each.kind is Kind.REPLACED] == [
        b"d%d/e%d" % (number % 7, number) for number in (2, 3, 11, 5, 13)
    ]
    assert together == alone
    # Whoever stops reading leaves no process behind (the session's last check).
    with Layer.open(str(layers.top)) as top, Layer.open(str(layers.bottom)) as bottom:
        assert next(iter(diff(top, [bottom], MarkFamily.TRUSTED, workers=2))) == alone[0]


# ------------------------------------------------------------------ hostile layers


@pytest.mark.parametrize("value", [b"/../../etc", b"..", b"a/b", b"", b"/" + b"x" * 4096])
def test_a_hostile_redirect_is_named_with_its_place(layers: Layers, value: bytes) -> None:
    (layers.bottom / "d").mkdir()
    (layers.top / "d").mkdir()
    os.setxattr(layers.top / "d", "trusted.overlay.redirect", value)
    with pytest.raises(HostileMark, match="/top/d: a redirect to"):
        of(layers)


def test_redirects_do_not_leave_the_layers_or_loop(layers: Layers) -> None:
    secret = layers.base / "secret"
    secret.mkdir()
    (secret / "file").write_text("secret")
    (layers.bottom / "link").symlink_to(secret)
    (layers.bottom / "up").symlink_to("..")
    for name, to in (
        ("one", b"/two"),
        ("two", b"/one"),
        ("self", b"/self"),
        ("out", b"/link"),
        ("over", b"/up/secret"),
    ):
        (layers.top / name).mkdir()
        with opened(layers.top / name) as fd:
            set_redirect(fd, MarkFamily.TRUSTED, to)
    (layers.top / "stub").touch()
    with opened(layers.top) as fd:
        set_metacopy(fd, MarkFamily.TRUSTED, b"stub")
        set_redirect(fd, MarkFamily.TRUSTED, b"/link/file", b"stub")
    found = judge_without_content(layers)
    assert kinds(found) == dict.fromkeys(
        [b"one", b"out", b"over", b"self", b"stub", b"two"], "added"
    )
    assert all(change.moved_from is None for change in found)


def judge_without_content(layers: Layers) -> list[Change]:
    """The diff, and that the mount shows the same names."""
    found = of(layers)
    shown = {change.path for change in found if change.kind is Kind.ADDED}
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, OPTIONS["stubs"]) as mnt:
        new = {os.fsencode(name) for name in os.listdir(mnt)}
        assert all(os.listdir(mnt / name) == [] for name in ("one", "two", "self", "out", "over"))
    assert new - {b"link", b"up"} == shown
    return found


def test_entries_that_vanish_meanwhile_are_no_error(layers: Layers) -> None:
    for name in ("a", "b", "c"):
        (layers.bottom / name).mkdir()
        (layers.bottom / name / "f").write_text("f")
        (layers.top / name).mkdir()
        (layers.top / name / "f").write_text("changed")
        (layers.top / name / "g").write_text("new")
    with Layer.open(str(layers.top)) as top, Layer.open(str(layers.bottom)) as bottom:
        seen = []
        for change in differences(View([top, bottom], MarkFamily.TRUSTED)):
            seen.append(change.path)
            if change.path == b"a/f":
                shutil.rmtree(layers.top / "b")
                (layers.top / "c" / "f").unlink()
    # It never was whited out: the bottom's own entry shows again, and is no change.
    assert seen == [b"a/f", b"a/g", b"c/g"]
