"""Filters let through what they say; unions that come while tracing are found."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from overlay import syscalls
from overlay.errors import UsageError
from overlay.roots.cgroups import Group
from tests.conftest import Layers, make_layers
from tests.rawoverlay import overlay
from tests.running import in_child
from tests.tracer.running import rows
from tracer.backend import open_backend
from tracer.kinds import KINDS
from tracer.program import Filters
from tracer.records import split
from tracer.session import Session
from tracer.unions import cgroup_root, union_devices

pytestmark = pytest.mark.usefixtures("tracing")

#: Copies up its arguments, each in a grandchild.
FORKER = """
import os, sys
for path in sys.argv[1:]:
    if os.fork() == 0:
        if os.fork() == 0:
            os.chmod(path, 0o600)
            os._exit(0)
        os.wait()
        os._exit(0)
    os.wait()
"""


def touch_files(layers: Layers, count: int) -> list[str]:
    names = [f"f{number}" for number in range(count)]
    for name in names:
        (layers.bottom / name).write_bytes(b"x")
    return names


def paths(session: Session) -> list[str | None]:
    return sorted(row["path"] for row in rows(session.drain()))


def test_mount_filter(layers: Layers) -> None:
    """Two unions with the same bottom on the same file system: only the one asked for."""
    names = touch_files(layers, 11)
    (layers.base / "second").mkdir()
    second = make_layers(layers.base / "second")
    with (
        overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as first_mnt,
        overlay(second.mnt, [layers.bottom], second.top, second.work, {}) as second_mnt,
    ):
        with Session(mounts=[first_mnt]) as one, Session() as both:
            for name in names:
                os.chmod(first_mnt / name, 0o600)
            for name in names[:7]:
                os.chmod(second_mnt / name, 0o600)
        assert {(row["mount"], row["path"]) for row in rows(one.table())} == {
            (str(first_mnt), f"/{name}") for name in names
        }
        got = [(row["mount"], row["path"]) for row in rows(both.table())]
        # Other unions of the machine may be in use, too.
        mine = [one for one in got if str(one[0]).startswith(str(layers.base))]
        assert sorted(mine) == sorted(
            [(str(first_mnt), f"/{name}") for name in names]
            + [(str(second_mnt), f"/{name}") for name in names[:7]]
        )


def test_process_tree(layers: Layers) -> None:
    """A process and its descendants, also orphaned ones; nobody else."""
    names = touch_files(layers, 13)
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mnt:
        watched = subprocess.Popen(
            [sys.executable, "-S", "-c", "input()\n" + FORKER, *(str(mnt / n) for n in names[:7])],
            stdin=subprocess.PIPE,
        )
        with Session(pids=[watched.pid]) as session:
            for name in names[7:]:
                os.chmod(mnt / name, 0o600)
            watched.communicate(b"\n")
        assert watched.returncode == 0
        got = rows(session.table())
    assert sorted(row["path"] for row in got) == sorted(f"/{name}" for name in names[:7])
    assert os.getpid() not in {row["pid"] for row in got}
    assert watched.pid not in {row["pid"] for row in got}


def test_threads_count_with_their_process(layers: Layers) -> None:
    names = touch_files(layers, 5)
    with (
        overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mnt,
        Session(pids=[os.getpid()]) as session,
    ):
        tids = []

        def work(name: str) -> None:
            tids.append(threading.get_native_id())
            os.chmod(mnt / name, 0o600)

        for name in names:
            thread = threading.Thread(target=work, args=(name,))
            thread.start()
            thread.join()
    got = rows(session.table())
    assert sorted(row["path"] for row in got) == [f"/{name}" for name in names]
    assert [row["tid"] for row in got] == tids
    assert {row["pid"] for row in got} == {os.getpid()}


@pytest.mark.parametrize("container", [False, True])
def test_cgroup(layers: Layers, container: bool) -> None:
    """Named by its directory; or as a container, which engines give such a directory."""
    root = cgroup_root()
    if root is None or not os.access(root, os.W_OK):
        pytest.skip("needs: a writable cgroup2 file system")
    names = touch_files(layers, 7)
    ident = f"{os.getpid():064x}"[::-1]
    group = Path(root, f"docker-{ident}.scope" if container else f"fallthru-test-{os.getpid()}")
    below = group / "below"
    below.mkdir(parents=True)
    try:
        with (
            overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mnt,
            Session(
                cgroup=None if container else str(group),
                container=ident[:12] if container else None,
            ) as session,
        ):

            def inside() -> None:
                (below / "cgroup.procs").write_text(str(os.getpid()))
                for name in names[:5]:
                    os.chmod(mnt / name, 0o600)

            assert in_child(inside) == "None"
            for name in names[5:]:
                os.chmod(mnt / name, 0o600)
        got = rows(session.table())
    finally:
        # Its last process may leave it a moment after it was waited for.
        Group(str(below)).remove()
        Group(str(group)).remove()
    assert sorted(row["path"] for row in got) == [f"/{name}" for name in names[:5]]
    assert {row["cgroup"] for row in got} == {f"/{group.name}/below"}
    assert {row["container"] for row in got} == {ident[:12] if container else None}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(uids=(0,)), 7),
        (Filters(uids=(1, 0)), 7),
        (Filters(uids=(1,)), 0),
        (Filters(min_ns=1), 7),
        (Filters(min_ns=3600 * 10**9), 0),
    ],
    ids=str,
)
def test_what_the_kernel_leaves_out(layers: Layers, filters: Filters, expected: int) -> None:
    """Other users' copyups, and short ones, are never sent."""
    names = touch_files(layers, 7)
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mnt:
        probes = open_backend(None, replace(filters, devices=union_devices([str(mnt)])))
        try:
            for name in names:
                os.chmod(mnt / name, 0o600)
            probes.detach()
            spans = split(probes.take()).spans
        finally:
            probes.close()
    assert len(spans[spans["what"] == KINDS.index("copyup")]) == expected


def test_unions_mounted_meanwhile(layers: Layers) -> None:
    """Each is found when it is made, also where memory and device numbers are used again."""
    (layers.bottom / "file").write_bytes(b"x")
    places, tables = [], []
    with Session() as session:
        for number in range(11):
            (layers.base / f"n{number}").mkdir()
            here = make_layers(layers.base / f"n{number}")
            with overlay(here.mnt, [layers.bottom], here.top, here.work, {}) as mnt:
                os.chmod(mnt / "file", 0o600)
                places.append((str(mnt), "/file"))
                tables.append(session.drain())
    got = [(r["mount"], r["path"]) for table in tables for r in rows(table)]
    assert [one for one in got if str(one[0]).startswith(str(layers.base))] == places


def test_union_in_another_namespace(layers: Layers) -> None:
    """Mounted where this process cannot see it; the mount point is as seen from there."""
    (layers.bottom / "file").write_bytes(b"x")

    def elsewhere() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
        with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mnt:
            os.chmod(mnt / "file", 0o600)
            os.write(told, b"x")
            os.read(asked, 1)

    asked, answer = os.pipe()
    tell, told = os.pipe()
    with Session() as session:
        thread = threading.Thread(target=in_child, args=(elsewhere,))
        thread.start()
        os.read(tell, 1)
        (row,) = rows(session.table(), mount=str(layers.mnt))
        os.write(answer, b"x")
        thread.join()
    for fd in (asked, answer, tell, told):
        os.close(fd)
    assert row["path"] == "/file"


def test_a_directory_that_is_no_union(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not in an overlay"):
        Session(mounts=[tmp_path]).start()
    with pytest.raises(UsageError, match="no such union"):
        Session(mounts=[tmp_path / "missing"]).start()
    with pytest.raises(UsageError, match="no such cgroup"):
        Session(cgroup="/no/such/cgroup").start()


def test_two_sessions_at_once(layers: Layers) -> None:
    """Each sees all; they do not disturb each other."""
    names = touch_files(layers, 17)
    with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mnt:
        with Session(mounts=[mnt]) as first:
            os.chmod(mnt / names[0], 0o600)
            with Session(mounts=[mnt]) as second:
                for name in names[1:]:
                    os.chmod(mnt / name, 0o600)
            assert len(rows(second.table())) == 16
        assert len(rows(first.table())) == 17


def test_drain_takes_and_table_keeps(layers: Layers) -> None:
    names = touch_files(layers, 3)
    with (
        overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mnt,
        Session(mounts=[mnt]) as session,
    ):
        os.chmod(mnt / names[0], 0o600)
        assert paths(session) == ["/f0"]
        os.chmod(mnt / names[1], 0o600)
        assert session.table().column("path").to_pylist() == ["/f1"]
        os.chmod(mnt / names[2], 0o600)
        assert session.table().column("path").to_pylist() == ["/f1", "/f2"]
