"""Without the tracepoints that newer kernels added: what docs/tracing.md promises for them."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

import tracer.backend
import tracer.program
from tests.conftest import Layers, make_layers
from tests.fsimages import loop_filesystem
from tests.rawoverlay import overlay
from tests.tracer.running import Seen, rows, seen
from tests.tracer.test_copyups import make_every_type, places, union
from tracer.hooks import TRACEPOINTS
from tracer.session import Session

NEW = ("inode_set_ctime_to_ts", "ctime_ns_xchg", "ctime_xchg_skip", "cap_capable")


@pytest.fixture(autouse=True)
def older_kernel(tracing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tuple(hook for hook in TRACEPOINTS if hook.targets[0] not in NEW)
    monkeypatch.setattr(tracer.program, "TRACEPOINTS", old)
    monkeypatch.setattr(tracer.backend, "BEYOND_TMPFS", ())


@pytest.mark.parametrize(
    ("kind", "data"), [("tmpfs", "copy"), ("xfs", "reflink"), ("btrfs", "reflink")]
)
def test_regular_files(kind: str, data: str, layers: Layers) -> None:
    """Each file once; phases that cannot be told are unknown, not zero."""
    with places(kind, layers) as here:
        for number in range(101):
            (here.bottom / f"f{number}").write_bytes(b"x" * number)
        with union(here) as mnt, Session(mounts=[mnt]) as session:
            assert not session.hooks & set(NEW)
            for number in range(101):
                os.close(os.open(mnt / f"f{number}", os.O_WRONLY))
    assert (session.lost, session.unmatched) == (0, 0)
    table = session.table()
    assert seen(table) == Counter(
        Seen(
            os.getpid(),
            "openat",
            f"/f{n}",
            "file",
            n,
            n if data == "copy" else 0,
            data if n else "none",
        )
        for n in range(101)
    )
    assert {row[phase] for row in rows(table) for phase in ("create", "data", "link")} == {None}


def test_ext4() -> None:
    """Every type, and parents, from what the file system itself marks dirty."""
    with loop_filesystem("ext4", 64) as base:
        layers = make_layers(base)
        made = make_every_type(layers.bottom)
        (layers.bottom / "a" / "b" / "c").mkdir(parents=True)
        (layers.bottom / "a" / "b" / "c" / "deep").write_bytes(b"x" * 4097)
        made["/a/b/c/deep"] = "file"
        with (
            overlay(layers.mnt, [layers.bottom], layers.top, layers.work, {}) as mnt,
            Session(mounts=[mnt]) as session,
        ):
            for path in made:
                os.lchown(f"{mnt}{path}", 7, 7)
        table = session.table().sort_by("ts")
    assert session.lost == 0
    expected = Counter(made.items())
    expected.update((path.rpartition("/")[0], "dir") for path in made)
    expected.update([("/a", "dir"), ("/a/b", "dir")])
    got = Counter((row["path"], row["ftype"]) for row in rows(table))
    assert got == expected
    assert {row["op"] for row in rows(table)} == {"lchown"}


def test_data_for_a_stub(layers: Layers) -> None:
    """Nothing tells when its copying ends: the span lasts until the call does."""
    (layers.bottom / "f").write_bytes(b"x" * 4097)
    with union(layers, metacopy="on", redirect_dir="on") as mnt, Session(mounts=[mnt]) as session:
        os.chmod(mnt / "f", 0o600)
        os.close(os.open(mnt / "f", os.O_WRONLY))
    stub, data = rows(session.table().sort_by("ts"))
    assert (stub["how"], data["how"], data["bytes"]) == ("metacopy", "copy", 4097)
    assert data["dur"] > 0
    assert {data[phase] for phase in ("create", "data", "sync", "meta", "link")} == {None}


def test_kernels_that_take_no_word_for_types(
    layers: Layers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 6.2, or where programs are refused for it, each field is asked for by a helper: the
    rows are the same."""
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    monkeypatch.setattr(tracer.program, "_accepted", lambda made: False)
    monkeypatch.setattr(tracer.program, "TRACEPOINTS", TRACEPOINTS)
    made = make_every_type(layers.bottom)
    with union(layers) as mnt, Session(mounts=[mnt]) as session:
        for path in made:
            os.lchown(f"{mnt}{path}", 7, 7)
    expected = Counter(made.items())
    expected.update((path.rpartition("/")[0], "dir") for path in made)
    assert (session.lost, session.unmatched) == (0, 0)
    table = rows(session.table())
    assert Counter((row["path"], row["ftype"]) for row in table) == expected
    assert {(row["op"], row["errno"], row["pid"]) for row in table} == {("lchown", 0, os.getpid())}
