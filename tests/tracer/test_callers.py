"""Who caused a copyup: the flags of the call, the stack that made it, what needed a parent."""

from __future__ import annotations

import os

import pytest

from overlay import syscalls
from tests.conftest import Layers
from tests.tracer.running import rows
from tests.tracer.test_copyups import union
from tracer.callflags import flags_of
from tracer.session import Session
from tracer.sysnames import numbers_of

pytestmark = pytest.mark.usefixtures("tracing")


def test_flags(layers: Layers) -> None:
    for number in range(5):
        (layers.bottom / f"f{number}").write_bytes(b"x")
    with union(layers) as mnt, Session(mounts=[mnt]) as session:
        os.close(os.open(mnt / "f0", os.O_WRONLY | os.O_APPEND))
        os.close(os.open(mnt / "f1", os.O_RDWR | os.O_TRUNC | os.O_NOFOLLOW))
        os.close(syscalls.openat2(-100, mnt / "f2", os.O_WRONLY | os.O_NONBLOCK))
        os.chmod(mnt / "f3", 0o600)
        here = os.open(mnt, os.O_PATH)
        syscalls.renameat2(here, "f4", here, "g4", syscalls.RENAME_NOREPLACE)
        os.close(here)
    found = {row["path"]: row["flags"] for row in rows(session.table())}
    assert found == {
        "/f0": "O_WRONLY|O_APPEND|O_CLOEXEC",
        "/f1": "O_RDWR|O_CLOEXEC|O_NOFOLLOW|O_TRUNC",
        "/f2": "O_WRONLY|O_CLOEXEC|O_NONBLOCK",
        "/f3": None,
        "/f4": "RENAME_NOREPLACE",
    }


def test_flags_that_nobody_knows() -> None:
    (openat,) = numbers_of("openat")
    assert flags_of(openat | (1 << 63)) == "O_RDONLY|0x80000000"
    assert flags_of(openat | (os.O_SYNC | os.O_WRONLY) << 32) == "O_WRONLY|O_SYNC"


def test_parents(layers: Layers) -> None:
    """A directory that goes up belongs to what it was needed for; others to nothing."""
    (layers.bottom / "a/b").mkdir(parents=True)
    (layers.bottom / "a/b/file").write_bytes(b"x")
    (layers.bottom / "alone").mkdir()
    with union(layers) as mnt, Session(mounts=[mnt]) as session:
        os.chmod(mnt / "alone", 0o700)
        os.chmod(mnt / "a/b/file", 0o600)
    found = rows(session.table())
    paths = {row["id"]: row["path"] for row in found}
    assert len(paths) == len(found)
    parents = {row["path"]: paths.get(row["parent"]) for row in found}
    assert parents == {"/alone": None, "/a": "/a/b", "/a/b": "/a/b/file", "/a/b/file": None}


def test_stacks(layers: Layers) -> None:
    """The innermost function is the C library's; without asking there is none."""
    for number in range(2):
        (layers.bottom / f"f{number}").write_bytes(b"x")
    with union(layers) as mnt:
        with Session(mounts=[mnt], stacks=True) as session:
            os.chmod(mnt / "f0", 0o600)
        with Session(mounts=[mnt]) as without:
            os.chmod(mnt / "f1", 0o600)
    (row,) = rows(session.table())
    assert row["stack"].split(";")[-1] in ("chmod", "__chmod")
    (row,) = rows(without.table())
    assert row["stack"] is None
