"""Copyup's share of calls: rows as docs/trace-format.md says that they belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from analysis.calls import within_calls
from analysis.load import load
from tests.analysis import synthetic
from tests.analysis.synthetic import Workload


def frame_of(directory: Path, rows: list[tuple[str, int, int, int | None]]) -> Any:
    """Spans of (kind, dur, id, parent)."""
    made = synthetic.columns(Workload(spans=len(rows)))
    kinds, durations, idents, parents = zip(*rows, strict=True)
    made.update(kind=list(kinds), dur=list(durations))
    made.update(id=pa.array(idents, pa.int64()), parent=pa.array(parents, pa.int64()))
    synthetic.write(directory, made)
    return load(directory).frame


def test_copyups_count_for_the_call_that_they_were_a_part_of(tmp_path: Path) -> None:
    frame = frame_of(
        tmp_path / "one",
        [
            ("copyup", 10, 1, 2),  # /a, for /a/b
            ("copyup", 20, 2, 3),  # /a/b, for the file
            ("copyup", 30, 3, 9),  # the file, in the open
            ("open", 100, 9, None),
            ("open", 7, 10, None),  # copied nothing up
            ("copyup", 40, 4, None),  # of a call that was not seen
            ("rename", 50, 12, None),
            ("copyup", 60, 11, 12),  # its clock ran ahead of the call's
        ],
    )
    found = within_calls(frame)
    assert found.index.tolist() == ["open", "rename"]
    assert found["calls"].tolist() == [1, 1]
    assert [one.value for one in found["time"]] == [100, 50]
    assert [one.value for one in found["copyup"]] == [60, 60]
    assert found["share"].tolist() == pytest.approx([0.6, 1.0])


def test_runs_have_numbers_of_their_own(tmp_path: Path) -> None:
    frame_of(tmp_path / "a", [("copyup", 30, 1, 2), ("open", 60, 2, None)])
    frame_of(tmp_path / "b", [("copyup", 10, 1, 2), ("open", 20, 2, None)])
    found = within_calls(load([tmp_path / "a", tmp_path / "b"]).frame)
    assert (found["calls"].tolist(), found["share"].tolist()) == ([2], [0.5])


def test_without_rows_of_calls_there_is_nothing(tmp_path: Path) -> None:
    synthetic.trace(tmp_path / "one", Workload(spans=31))
    assert within_calls(load(tmp_path / "one").frame).empty
    synthetic.write(tmp_path / "none", synthetic.empty())
    assert within_calls(load(tmp_path / "none").frame).empty


def test_parents_that_go_round_end(tmp_path: Path) -> None:
    frame = frame_of(tmp_path / "one", [("copyup", 1, 1, 2), ("copyup", 1, 2, 1)])
    assert within_calls(frame).empty
