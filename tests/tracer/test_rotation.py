"""Parts and pieces: what is on disk after every step, and after a kill between any two."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.load import load
from tests.analysis import synthetic
from tracer.parts import siblings
from tracer.schema import SCHEMA, RunMetadata
from tracer.tracefile import Rotation, TraceWriter

RUN = RunMetadata(kernel="k", hostname="h", backend="b", started_ns=0)


def table(rows: int, seed: int = 1) -> Any:
    import pyarrow as pa

    made = synthetic.columns(synthetic.Workload(spans=rows, seed=seed))
    arrays = [
        synthetic._array(made[one.name], one.type)
        if one.name in made
        else pa.nulls(rows, one.type)  # columns that not every backend fills
        for one in SCHEMA
    ]
    return pa.table(arrays, SCHEMA)


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def finish(writer: TraceWriter, spans: int) -> None:
    for _ in writer.close_part(replace(RUN, spans=spans, ended_ns=9)):
        pass


def test_pieces_become_a_part(tmp_path: Path) -> None:
    """The rows are those of the pieces, in their order, and the footer is the newest."""
    writer = TraceWriter(str(tmp_path / "t"))
    tables = [table(rows, seed) for seed, rows in enumerate((7, 11, 13))]
    for number, one in enumerate(tables):
        writer.add(one, RUN)
        assert names(tmp_path / "t")[-1] == f"part-00000.{number:05}.parquet"
    finish(writer, 31)
    assert names(tmp_path / "t") == ["part-00000.parquet"]
    trace = load(tmp_path / "t")
    assert trace.damage == ()
    assert trace.runs[0].metadata.ended_ns == 9
    wanted = [path for one in tables for path in one["path"].to_pylist()]
    assert trace.frame["path"].tolist() == wanted
    assert writer.size == os.path.getsize(tmp_path / "t" / "part-00000.parquet")


def test_a_kill_at_any_step_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """The directory is looked at as a kill would leave it: between the steps, and with a part
    beside the pieces that it was made of."""
    writer = TraceWriter(str(tmp_path / "t"))
    for seed, rows in enumerate((16_411, 16_417, 5)):
        writer.add(table(rows, seed), RUN)
    pieces = [tmp_path / "t" / name for name in names(tmp_path / "t")]
    kept = [(path, path.read_bytes()) for path in pieces]
    seen = 0
    for _ in writer.close_part(replace(RUN, spans=32_833, ended_ns=9)):
        shutil.copytree(tmp_path / "t", tmp_path / f"killed{seen}")
        seen += 1
    assert seen >= 3
    for number in range(seen):
        assert len(load(tmp_path / f"killed{number}").frame) == 32_833
    for path, content in kept:
        path.write_bytes(content)  # killed before they were removed
        assert len(load(tmp_path / "t").frame) == 32_833
    assert siblings(str(tmp_path / "t")) == [str(tmp_path / "t" / "part-00000.parquet")]


@pytest.mark.parametrize("keep", [1, 3])
def test_old_parts_are_removed(tmp_path: Path, keep: int) -> None:
    """What is gone is counted; the trace is not called damaged for it."""
    writer = TraceWriter(str(tmp_path / "t"), Rotation(size=1, keep=keep))
    sizes = [2, 3, 5, 7, 11]
    for number, rows in enumerate(sizes):
        writer.add(table(rows, number), RUN)
        assert writer.full
        finish(writer, sum(sizes[: number + 1]))
        assert len(names(tmp_path / "t")) == min(number + 1, keep)
    trace = load(tmp_path / "t")
    assert len(trace.frame) == sum(sizes[-keep:])
    assert trace.runs[0].metadata.removed == sum(sizes[:-keep])
    assert trace.damage == ()
    if keep > 1:
        os.unlink(tmp_path / "t" / "part-00002.parquet")
        assert "5 of 23 spans are missing" in str(load(tmp_path / "t").damage[0])


def test_size_and_time(tmp_path: Path) -> None:
    by_size = TraceWriter(str(tmp_path / "s"), Rotation(size=100_000))
    by_time = TraceWriter(str(tmp_path / "t"), Rotation(size=None, seconds=0.0))
    never = TraceWriter(str(tmp_path / "n"), Rotation(size=None, seconds=3600))
    assert [one.full for one in (by_size, by_time, never)] == [False] * 3  # nothing to close
    for seed in range(20):
        assert by_size.full == (by_size.size >= 100_000)
        by_size.add(table(499, seed), RUN)
    by_time.add(table(2), RUN)
    never.add(table(2), RUN)
    by_rows = TraceWriter(str(tmp_path / "r"), Rotation(rows=5))
    by_rows.add(table(4), RUN)
    assert not by_rows.full
    by_rows.add(table(1), RUN)
    assert [one.full for one in (by_size, by_time, never, by_rows)] == [True, True, False, True]


def test_a_full_disk_leaves_the_pieces(tmpfs_dir: Path) -> None:
    """Making a part needs room for it; without, the pieces stay, and are whole."""
    writer = TraceWriter(str(tmpfs_dir / "t"))
    for seed in (1, 2):
        writer.add(table(4999, seed), RUN)
    subprocess.run(
        ["mount", "-o", f"remount,size={writer.size + 65536}", str(tmpfs_dir)], check=True
    )
    finish(writer, 9998)
    assert names(tmpfs_dir / "t") == ["part-00000.00000.parquet", "part-00000.00001.parquet"]
    trace = load(tmpfs_dir / "t")
    assert (len(trace.frame), trace.damage) == (9998, ())
    assert isinstance(trace.frame, pd.DataFrame)
