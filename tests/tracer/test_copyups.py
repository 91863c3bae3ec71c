"""Every copyup is reported once, with the truth about it; nothing else is reported."""

from __future__ import annotations

import os
import socket
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlay.text import printable
from tests.conftest import Layers, make_layers
from tests.fsimages import loop_filesystem
from tests.rawoverlay import overlay
from tests.tracer.running import Seen, Step, Writers, noise, rows, seen
from tracer.session import Session

pytestmark = pytest.mark.usefixtures("tracing")

WRITERS = 5
#: Sizes that matter: nothing, a byte, around a page, around 64 KiB, more than 1 MiB.
SIZES = (0, 1, 4095, 4096, 4097, 511, 12289, 65536, 65537)
BIG = 1_300_021
OPERATIONS = ("openat", "chmod", "truncate", "rename", "lchown", "utimensat", "link", "setxattr")
#: What glibc's and Python's wrappers really call (x86-64 strace).
CALLED = {"chmod": {"chmod", "fchmodat"}, "link": {"link", "linkat"}}


@pytest.fixture(params=[False, True], ids=["once", "twins"])
def twins(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs stand at their tracepoints as on a kernel that does not preempt them, or does."""
    monkeypatch.setattr("tracer.program.preempts_tracepoints", lambda: request.param)


@contextmanager
def union(layers: Layers, **options: str) -> Iterator[Path]:
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, options) as mnt:
        yield mnt


def fill(bottom: Path, count: int) -> dict[str, int]:
    """``count`` files of known sizes in a few directories; their paths and sizes."""
    made = {}
    for number in range(count):
        directory = f"/d{number % 7}"
        (bottom / directory[1:]).mkdir(exist_ok=True)
        path = f"{directory}/f{number}"
        size = BIG if number % 997 == 5 else SIZES[number % len(SIZES)]
        (bottom / path[1:]).write_bytes(b"\xa5" * size)
        made[path] = size
    return made


def plans_for(files: dict[str, int]) -> list[list[Step]]:
    plans: list[list[Step]] = [[] for _ in range(WRITERS)]
    for number, path in enumerate(files):
        plans[number % WRITERS].append(Step(OPERATIONS[number % len(OPERATIONS)], path))
    return plans


def how_for(size: int, data: str) -> tuple[int, str]:
    """Bytes moved and how, for a file of ``size`` where data go up by ``data``."""
    if not size:
        return 0, "none"
    return (size if data == "copy" else 0), data


def check(
    reported: Counter[Seen],
    files: dict[str, int],
    plans: list[list[Step]],
    pids: list[int],
    data: str,
) -> None:
    """Each file exactly once, by the process that did it; each directory once, by any."""
    expected: Counter[tuple[int, str, str | None, int, int, str]] = Counter(
        (pid, step.op, step.path, files[step.path], *how_for(files[step.path], data))
        for pid, steps in zip(pids, plans, strict=True)
        for step in steps
    )
    names = {called: op for op, calls in CALLED.items() for called in calls}
    got = Counter(
        {
            (one.pid, names.get(one.op, one.op), one.path, one.size, one.bytes, one.how): count
            for one, count in reported.items()
            if one.ftype == "file"
        }
    )
    assert got - expected == Counter(), "reported, but did not happen so"
    assert expected - got == Counter(), "happened, but was not reported"
    directories = Counter(one.path for one in reported.elements() if one.ftype != "file")
    assert directories == Counter({path.rpartition("/")[0] for path in files})
    assert {one.pid for one in reported if one.ftype == "dir"} <= set(pids)
    assert {one.errno for one in reported} == {0}


def trace_workload(layers: Layers, count: int, data: str, options: dict[str, str]) -> None:
    """Five writers copy up ``count`` files amid noise; the trace must hold just that."""
    files = fill(layers.bottom, count)
    plans = plans_for(files)
    aside = layers.base / "aside"
    other = layers.base / "other"
    for directory in (aside, other):
        directory.mkdir()
    others = make_layers(other)
    (others.bottom / "elsewhere").write_bytes(b"x" * 100)
    (layers.top / "noise").mkdir()
    with union(layers, **options) as mnt, union(others) as elsewhere:
        writers = Writers(layers.base, mnt, plans)
        with (
            Session(mounts=[mnt]) as session,
            noise(
                ("tmpfiles", aside),
                ("writers", aside),
                ("writers", mnt / "noise"),
                ("unlinked", mnt / "noise"),
                ("topped", mnt / "noise"),
            ),
        ):
            os.chmod(elsewhere / "elsewhere", 0o600)
            writers.run()
        table = session.table()
        assert (session.lost, session.unmatched) == (0, 0)
        assert set(table.column("mount").to_pylist()) == {str(mnt)}
    check(seen(table), files, plans, writers.pids, data)
    for row in rows(table):
        phases = [row[name] for name in ("create", "data", "sync", "meta", "link")]
        assert None not in phases, row
        assert min(phases) >= 0, row
        assert sum(phases) == row["dur"], row


def test_tmpfs(layers: Layers) -> None:
    """The issue's own workload: 5 writers, 9973 files."""
    trace_workload(layers, 9973, "copy", {})


@pytest.mark.parametrize(
    ("kind", "data"), [("ext4", "copy"), ("xfs", "reflink"), ("btrfs", "reflink")]
)
def test_block_file_systems(kind: str, data: str) -> None:
    with loop_filesystem(kind, 600) as base:
        trace_workload(make_layers(base), 499, data, {})


def test_sync_phase() -> None:
    """On ext4 the data is synced before it is linked; not with volatile."""
    with loop_filesystem("ext4", 64) as base:
        for name, options in (("durable", {}), ("volatile", {"volatile": ""})):
            (base / name).mkdir()
            layers = make_layers(base / name)
            (layers.bottom / "file").write_bytes(b"x" * 100_003)
            with union(layers, **options) as mnt, Session(mounts=[mnt]) as session:
                os.chmod(mnt / "file", 0o600)
            (row,) = rows(session.table())
            assert row["bytes"] == 100_003
            assert (row["sync"] > 0) == (name == "durable")


def make_every_type(bottom: Path) -> dict[str, str]:
    """One of each file type (and its name in the trace) below its own directory."""
    made = {}
    for name, ftype in (
        ("file", "file"),
        ("dir", "dir"),
        ("link", "symlink"),
        ("fifo", "fifo"),
        ("socket", "socket"),
        ("char", "char"),
        ("block", "block"),
    ):
        directory = bottom / f"in-{name}"
        directory.mkdir()
        path = directory / name
        if ftype == "file":
            path.write_bytes(b"x" * 17)
        elif ftype == "dir":
            path.mkdir()
        elif ftype == "symlink":
            path.symlink_to("target")
        elif ftype == "fifo":
            os.mkfifo(path)
        elif ftype == "socket":
            with socket.socket(socket.AF_UNIX) as unix:
                unix.bind(str(path))
        else:
            kind = stat.S_IFCHR if ftype == "char" else stat.S_IFBLK
            os.mknod(path, kind | 0o644, os.makedev(1, 3))
        made[f"/in-{name}/{name}"] = ftype
    return made


@pytest.mark.usefixtures("twins")
@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs", "btrfs"])
def test_every_type(kind: str, layers: Layers) -> None:
    """lchown copies up anything; the directory above it goes up first, as its own span."""
    with places(kind, layers) as here:
        made = make_every_type(here.bottom)
        with union(here) as mnt, Session(mounts=[mnt]) as session:
            for path in made:
                os.lchown(f"{mnt}{path}", 7, 7)
        table = session.table().sort_by("ts")
        assert (session.lost, session.unmatched) == (0, 0)
        expected = []
        for path, ftype in made.items():
            expected += [(path.rpartition("/")[0], "dir"), (path, ftype)]
        got = list(
            zip(table.column("path").to_pylist(), table.column("ftype").to_pylist(), strict=True)
        )
        assert got == expected
        assert set(table.column("op").to_pylist()) == {"lchown"}
        assert set(table.column("pid").to_pylist()) == {os.getpid()}
        assert {row["how"] for row in rows(table) if row["ftype"] != "file"} == {"none"}
        assert {row["bytes"] for row in rows(table) if row["ftype"] != "file"} == {0}


@contextmanager
def places(kind: str, layers: Layers, size: int = 64) -> Iterator[Layers]:
    """The layers, or such on a file system of this ``kind`` of ``size`` MiB."""
    if kind == "tmpfs":
        yield layers
        return
    with loop_filesystem(kind, size) as base:
        yield make_layers(base)


@pytest.mark.usefixtures("twins")
@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs", "btrfs"])
def test_metacopy(kind: str, layers: Layers) -> None:
    """Metadata goes up alone; the data follows when it is written to, as a second span."""
    data = "reflink" if kind in ("xfs", "btrfs") else "copy"
    with places(kind, layers) as here:
        for number in range(13):
            (here.bottom / f"f{number}").write_bytes(b"m" * 70_001)
        (here.bottom / "empty").touch()
        with (
            overlay(here.mnt, [here.bottom], here.top, here.work, {"metacopy": "on"}) as mnt,
            Session(mounts=[mnt]) as session,
        ):
            for number in range(11):
                os.lchown(mnt / f"f{number}", 5, 5)
            os.lchown(mnt / "empty", 5, 5)
            only_metadata = seen(session.drain())
            for number in range(7):
                os.chmod(mnt / f"f{number}", 0o640)  # on the top already
                os.close(os.open(mnt / f"f{number}", os.O_RDONLY))
            nothing = session.drain()
            for number in range(7):
                os.close(os.open(mnt / f"f{number}", os.O_WRONLY))
            os.close(os.open(mnt / "f12", os.O_WRONLY))
            with_data = seen(session.drain())
            assert (session.lost, session.unmatched) == (0, 0)
    me = os.getpid()
    assert only_metadata == Counter(
        [Seen(me, "lchown", f"/f{n}", "file", 70_001, 0, "metacopy") for n in range(11)]
        + [Seen(me, "lchown", "/empty", "file", 0, 0, "none")]
    )
    assert nothing.num_rows == 0
    moved = 70_001 if data == "copy" else 0
    assert with_data == Counter(
        Seen(me, "openat", f"/f{n}", "file", 70_001, moved, data) for n in [*range(7), 12]
    )


def test_truncating_open_copies_nothing(layers: Layers) -> None:
    (layers.bottom / "file").write_bytes(b"x" * 5000)
    with union(layers) as mnt, Session(mounts=[mnt]) as session:
        os.close(os.open(mnt / "file", os.O_WRONLY | os.O_TRUNC))
    assert seen(session.table()) == Counter(
        [Seen(os.getpid(), "openat", "/file", "file", 0, 0, "none")]
    )


def test_names(layers: Layers) -> None:
    """Any bytes in a name, and paths longer than a record."""
    deep = "/".join(f"{number:02}" * 120 for number in range(14))  # 3373 bytes
    names = [
        b"new\nline",
        b"\xff\xfe",
        b"tab\tback\\slash",
        "ünï".encode(),
        deep.encode(),
        b"n" * 255,
    ]
    for name in names:
        path = layers.bottom / os.fsdecode(name)
        if b"/" in name:
            # Too long for one call once the directories above are put in front.
            at = os.open(layers.bottom, os.O_RDONLY)
            for part in name.split(b"/")[:-1]:
                os.mkdir(part, dir_fd=at)
                below = os.open(part, os.O_RDONLY, dir_fd=at)
                os.close(at)
                at = below
            os.close(os.open(name.split(b"/")[-1], os.O_CREAT | os.O_WRONLY, dir_fd=at))
            os.close(at)
        else:
            path.touch()
    with union(layers) as mnt, Session(mounts=[mnt]) as session:
        at = os.open(mnt, os.O_RDONLY)
        for name in names:
            os.chmod(name, 0o600, dir_fd=at)
        os.close(at)
    got = Counter(row["path"] for row in rows(session.table(), ftype="file"))
    assert got == Counter(printable(b"/" + name) for name in names)


def test_several_bottoms_and_hard_links(layers: Layers) -> None:
    lower = layers.base / "lower"
    lower.mkdir()
    (lower / "below").write_bytes(b"b" * 9)
    (layers.bottom / "one").write_bytes(b"o" * 5)
    os.link(layers.bottom / "one", layers.bottom / "two")
    with (
        overlay(
            layers.mnt, [layers.bottom, lower], layers.top, layers.work, {"index": "on"}
        ) as mnt,
        Session(mounts=[mnt]) as session,
    ):
        os.chmod(mnt / "below", 0o600)
        os.chmod(mnt / "one", 0o600)
        os.chmod(mnt / "two", 0o640)
    table = session.table()
    assert (session.lost, session.unmatched) == (0, 0)
    # The second name of an indexed file is linked up without a second copy.
    assert [row["path"] for row in rows(table)] == ["/below", "/one"]
