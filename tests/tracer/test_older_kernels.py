"""Without the tracepoints that newer kernels added: what docs/tracing.md promises for them."""

from __future__ import annotations

import os
from collections import Counter

import pytest

import tracer.program
from tests.conftest import Layers, make_layers
from tests.fsimages import loop_filesystem
from tests.rawoverlay import overlay
from tests.tracer.running import Seen, rows, seen
from tests.tracer.test_copyups import make_every_type, places, union
from tracer.session import Session

NEW = ("inode_set_ctime_to_ts", "ctime_ns_xchg", "ctime_xchg_skip", "cap_capable")


@pytest.fixture(autouse=True)
def older_kernel(tracing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    optional = {k: v for k, v in tracer.program._OPTIONAL.items() if k not in NEW}
    monkeypatch.setattr(tracer.program, "_OPTIONAL", optional)


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
