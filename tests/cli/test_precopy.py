"""The command ``fallthru precopy``: the files are on the top, and nothing else changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.analysis import synthetic
from tests.conftest import Layers
from tests.overlay.committing import whole
from tests.running import fallthru


@pytest.fixture
def tree(layers: Layers) -> Layers:
    for number in range(31):
        (layers.bottom / f"d{number % 3}").mkdir(exist_ok=True)
        (layers.bottom / f"d{number % 3}" / f"f{number}").write_bytes(b"x" * number)
    (layers.bottom / "link").symlink_to("d0/f0")
    os.mkfifo(layers.bottom / "fifo")
    return layers


def of(layers: Layers) -> list[str | Path]:
    return ["--top", layers.top, "--bottom", layers.bottom]


def on_top(layers: Layers) -> set[str]:
    return {path.name for path in layers.top.rglob("*") if path.is_file()}


def test_a_list_through_a_mount(tree: Layers) -> None:
    assert fallthru("mount", *of(tree), tree.mnt).returncode == 0
    before = whole(tree.mnt)
    names = [f"./d{number % 3}/f{number}" for number in range(0, 31, 2)]
    done = fallthru("precopy", "--mount", tree.mnt, "--from", "-", stdin="\0".join(names))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"16 files, {sum(range(0, 31, 2))} B are on the top\n"
    assert whole(tree.mnt) == before
    assert on_top(tree) == {f"f{number}" for number in range(0, 31, 2)}
    assert fallthru("diff", tree.mnt).returncode == 0, "a copy is no change"
    assert fallthru("umount", tree.mnt).returncode == 0


def test_a_top_that_is_not_mounted_and_what_is_no_file(tree: Layers) -> None:
    done = fallthru("precopy", "--json", *of(tree), "/d1/f1", "d1/f1", "link", "fifo", "no", "d1")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["files"], report["bytes"]) == (1, 1)
    assert {each["path"] for each in report["left"]} == {"link", "fifo", "no", "d1"}
    assert on_top(tree) == {"f1"}
    assert fallthru("precopy", *of(tree)).returncode == 2
    assert fallthru("precopy", "x").returncode == 2


def test_no_room(tree: Layers) -> None:
    with open(tree.bottom / "huge", "wb") as file:
        file.truncate(1 << 50)
    done = fallthru("precopy", *of(tree), "d0/f3", "huge")
    assert done.returncode == 4
    assert on_top(tree) == set(), "nothing was copied"


def test_what_a_trace_saw(tree: Layers) -> None:
    made = synthetic.columns(synthetic.Workload(spans=3))
    made["path"] = ["/d0/f3", "/d1/f1", "/d0/f3"]
    synthetic.write(tree.base / "trace", made)
    done = fallthru("precopy", "--json", "--trace", tree.base / "trace", *of(tree))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"files": 2, "bytes": 4, "left": []}
    assert on_top(tree) == {"f1", "f3"}
