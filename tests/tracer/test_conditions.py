"""Copyups under other conditions: mount options, nesting, threads, namespaces, holes, errors."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import Layers, make_layers
from tests.fsimages import loop_filesystem, tmpfs
from tests.rawoverlay import overlay
from tests.running import in_user_namespace
from tests.tracer.running import rows
from tests.tracer.test_copyups import make_every_type, places, union
from tracer.session import Session

pytestmark = pytest.mark.usefixtures("tracing")


@pytest.mark.parametrize(
    "options",
    [
        {"redirect_dir": "on", "metacopy": "on", "index": "on"},
        {"index": "on", "nfs_export": "on"},
        {"xino": "off", "redirect_dir": "nofollow"},
    ],
    ids=",".join,
)
def test_mount_options(layers: Layers, options: dict[str, str]) -> None:
    """Whatever else overlayfs makes (index entries, whiteouts), copyups are told exactly."""
    made = make_every_type(layers.bottom)
    for number in range(5):
        (layers.bottom / f"gone{number}").write_bytes(b"x" * 10)
        (layers.bottom / f"moved{number}").write_bytes(b"x" * 10)
    with union(layers, **options) as mnt, Session(mounts=[mnt]) as session:
        for path in made:
            os.lchown(f"{mnt}{path}", 7, 7)
        for number in range(5):
            os.unlink(mnt / f"gone{number}")
            os.rename(mnt / f"moved{number}", mnt / "in-file" / f"here{number}")
        if options.get("redirect_dir") == "on":
            os.rename(mnt / "in-dir", mnt / "dir-moved")
    assert (session.lost, session.unmatched) == (0, 0)
    got = Counter(row["path"] for row in rows(session.table()))
    expected = Counter([*made, *(f"/moved{n}" for n in range(5))])
    expected.update(path.rpartition("/")[0] for path in made)
    if "nfs_export" in options:
        # What is about to be removed goes up first, so that its index entry can be made.
        expected.update(f"/gone{n}" for n in range(5))
    assert got == expected


def test_nested(layers: Layers) -> None:
    """A union over a union: what goes up in the outer one is the outer one's copyup."""
    for number in range(7):
        (layers.bottom / f"f{number}").write_bytes(b"x" * 4099)
    (layers.base / "outer").mkdir()
    outer = make_layers(layers.base / "outer")
    with (
        union(layers) as inner_mnt,
        overlay(outer.mnt, [inner_mnt], outer.top, outer.work, {}) as outer_mnt,
        Session(mounts=[outer_mnt, inner_mnt]) as session,
    ):
        for number in range(7):
            os.chmod(outer_mnt / f"f{number}", 0o600)
        for number in range(3):
            os.chmod(inner_mnt / f"f{number}", 0o600)
    got = Counter((row["mount"], row["path"], row["bytes"]) for row in rows(session.table()))
    assert got == Counter(
        [(str(outer_mnt), f"/f{n}", 4099) for n in range(7)]
        + [(str(inner_mnt), f"/f{n}", 4099) for n in range(3)]
    )


def test_threads(layers: Layers) -> None:
    """32 threads of one process; each copyup belongs to the thread that did it."""
    files = {f"/f{number}": number * 13 for number in range(32 * 7)}
    for path, size in files.items():
        (layers.bottom / path[1:]).write_bytes(b"t" * size)
    by_thread: dict[int, list[str]] = {}
    barrier = threading.Barrier(32)
    with union(layers) as mnt, Session(mounts=[mnt]) as session:

        def work(first: int) -> None:
            mine = list(files)[first::32]
            by_thread[threading.get_native_id()] = mine
            barrier.wait()
            for path in mine:
                os.close(os.open(f"{mnt}{path}", os.O_WRONLY))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (session.lost, session.unmatched) == (0, 0)
    got = Counter((row["tid"], row["path"], row["bytes"]) for row in rows(session.table()))
    assert got == Counter(
        (tid, path, files[path]) for tid, paths in by_thread.items() for path in paths
    )


def test_userxattr_in_a_user_namespace(layers: Layers) -> None:
    """A union that an ordinary user mounted: its marks are user.overlay.*."""
    for directory in (layers.base, layers.bottom, layers.top, layers.work, layers.mnt):
        os.chown(directory, 65534, 65534)
        os.chmod(directory, 0o755)
    for parent in layers.base.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    for number in range(7):
        (layers.bottom / f"f{number}").write_bytes(b"u" * 501)
        os.chown(layers.bottom / f"f{number}", 65534, 65534)

    def inside() -> None:
        options = {"userxattr": ""}
        with overlay(layers.mnt, [layers.bottom], layers.top, layers.work, options) as mnt:
            for number in range(7):
                os.close(os.open(mnt / f"f{number}", os.O_WRONLY))
            os.write(told, b"x")
            os.read(asked, 1)

    asked, answer = os.pipe()
    tell, told = os.pipe()
    said: list[str] = []
    with Session() as session:
        thread = threading.Thread(target=lambda: said.append(in_user_namespace(inside)))
        thread.start()
        # A child that fails says nothing here, but ends its thread with what went wrong.
        while thread.is_alive() and not select.select([tell], [], [], 0.1)[0]:
            pass
        # Where it is mounted can be seen only while somebody is in that namespace.
        mine = rows(session.table(), mount=str(layers.mnt))
        os.write(answer, b"x")
        thread.join()
    for fd in (asked, answer, tell, told):
        os.close(fd)
    assert said == ["None"]
    got = Counter((row["path"], row["bytes"], row["uid"]) for row in mine)
    assert got == Counter((f"/f{n}", 501, 65534) for n in range(7))


def test_a_file_with_holes(layers: Layers) -> None:
    """Bytes are what was copied, to the page; size is the file's."""
    with open(layers.bottom / "sparse", "wb") as file:
        file.seek(8 << 20)
        file.write(b"x" * 8192)
        file.truncate(9 << 20)
    with union(layers) as mnt, Session(mounts=[mnt]) as session:
        os.close(os.open(mnt / "sparse", os.O_WRONLY))
        copied = os.stat(mnt / "sparse").st_blocks * 512
    (row,) = rows(session.table())
    assert (row["size"], row["bytes"], row["how"]) == (9 << 20, copied, "copy")
    assert 8192 <= row["bytes"] <= 1 << 20


@contextmanager
def tight_place(kind: str, layers: Layers) -> Iterator[Path]:
    """A small file system."""
    if kind == "tmpfs":
        (layers.base / "small").mkdir()
        with tmpfs(layers.base / "small", options={"size": "1m"}) as base:
            yield base
    else:
        with loop_filesystem(kind, 64) as base:
            yield base


def fill_up(filler: Path) -> None:
    """All but what is too little for the file to be copied up: an inode still finds room."""
    with open(filler, "wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * (1 << 18)) == 1 << 18:
            pass
        file.truncate(file.tell() - (1 << 18))


@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs", "btrfs"])
def test_failed_copyup(kind: str, layers: Layers) -> None:
    """A copyup that finds no room is reported with the error, and never as done; the next one
    of the same thread is not disturbed."""
    (layers.bottom / "big").write_bytes(b"x" * (16 << 20))
    (layers.bottom / "little").write_bytes(b"x" * 7)
    with tight_place(kind, layers) as base:
        tight = make_layers(base)
        with (
            overlay(tight.mnt, [layers.bottom], tight.top, tight.work, {}) as mnt,
            Session(mounts=[mnt]) as session,
        ):
            fill_up(base / "filler")
            with pytest.raises(OSError, match="No space"):
                os.close(os.open(mnt / "big", os.O_WRONLY))
            (base / "filler").unlink()
            os.chmod(mnt / "little", 0o600)
    assert (session.lost, session.unmatched) == (0, 0)
    failed, done = rows(session.table().sort_by("ts"), kind="copyup")
    assert (failed["errno"], failed["op"], failed["ftype"]) == (28, "openat", "file")
    assert failed["path"] in (None, "/big")  # the second where functions are seen
    assert (done["path"], done["errno"]) == ("/little", 0)


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_killed_in_mid_copyup(kind: str, layers: Layers) -> None:
    """One row, which says EINTR exactly if the file did not come up."""
    (layers.bottom / "large").write_bytes(b"x" * (64 << 20))
    with places(kind, layers, 200) as here:
        with (
            overlay(here.mnt, [layers.bottom], here.top, here.work, {}) as mnt,
            Session(mounts=[mnt]) as session,
        ):
            free = os.statvfs(here.top).f_bfree
            child = os.fork()
            if child == 0:
                os.open(mnt / "large", os.O_WRONLY)
                os._exit(0)
            while free - os.statvfs(here.top).f_bfree < 100:
                pass
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        came_up = (here.top / "large").exists()
    assert (session.lost, session.unmatched) == (0, 0)
    (one,) = rows(session.table(), kind="copyup")
    assert (one["pid"], one["errno"]) == (child, 0 if came_up else 4)


def test_system_calls_are_left_alone(layers: Layers) -> None:
    """Hooking their end slows all of them; it is needed where a file goes up in two steps."""
    with union(layers) as mnt, Session(mounts=[mnt]) as session:
        plain = session.hooks
        if "ctime_ns_xchg" not in plain:
            pytest.skip("needs: tracepoints for ctime (6.13) and the tracepoint backend")
        assert "sys_exit" not in plain
    with union(layers, metacopy="on") as mnt, Session(mounts=[mnt]) as session:
        assert "sys_exit" in session.hooks


def test_a_directory_alone_is_not_waited_for(layers: Layers) -> None:
    """It went up for no other's sake: its row comes at once."""
    (layers.bottom / "a" / "b").mkdir(parents=True)
    with union(layers) as mnt, Session(mounts=[mnt]) as session:
        os.chmod(mnt / "a" / "b", 0o700)
        got = [(row["path"], row["parent"]) for row in rows(session.table(), kind="copyup")]
        (child,) = (row["id"] for row in rows(session.table(), path="/a/b", kind="copyup"))
        assert got == [("/a", child), ("/a/b", got[1][1])]


@pytest.mark.parametrize(
    ("kind", "metacopy"),
    [("tmpfs", "off"), ("tmpfs", "on"), ("ext4", "on"), ("xfs", "on"), ("btrfs", "on")],
)
def test_a_second_name_linked_up_is_no_copyup(kind: str, metacopy: str, layers: Layers) -> None:
    """Not even after the union forgot its names, when it looks into the index for them."""
    data = "reflink" if kind in ("xfs", "btrfs") else "copy"
    options = {"index": "on", "metacopy": metacopy}
    with places(kind, layers) as here:
        (here.bottom / "first").write_bytes(b"m" * 70_001)
        for name in ("second", "third", "fourth"):
            os.link(here.bottom / "first", here.bottom / name)
        with (
            overlay(here.mnt, [here.bottom], here.top, here.work, options) as mnt,
            Session(mounts=[mnt]) as session,
        ):
            (mnt / "first").chmod(0o600)
            forget()
            (mnt / "second").chmod(0o640)
            forget()
            with open(mnt / "third", "a") as file:
                file.write("more\n")
            forget()
            (mnt / "second").unlink()
            forget()
            (mnt / "fourth").unlink()
    found = [(row["op"], row["how"]) for row in rows(session.table())]
    assert (session.lost, session.unmatched) == (0, 0)
    if metacopy == "off":
        assert [how for _, how in found] == [data]
    else:
        assert [how for _, how in found] == ["metacopy", data]
        assert found[1][0] == "openat"


def forget() -> None:
    """Drop what no process holds of names and inodes."""
    Path("/proc/sys/vm/drop_caches").write_text("2")
