"""Avoidable copyups against what was put in."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.load import load
from analysis.waste import amplification, avoidable, repeats
from tests.analysis import synthetic
from tests.analysis.synthetic import Workload


def made_up(tmp_path: Path) -> pd.DataFrame:
    made = synthetic.columns(Workload(spans=8))
    made.update(
        ftype=["file"] * 8,
        path=["/a", "/b", "/a", "/c", "/d", "/c", "/e", None],
        op=["fchownat", "openat", "openat", "openat", "openat", "openat", "truncate", "openat"],
        how=["metacopy", "copy", "copy", "copy", "copy", "copy", "copy", "copy"],
        dur=[10, 20, 30, 40, 50, 60, 70, 80],
        bytes=[0, 1, 2, 3, 4, 5, 6, 7],
    )
    synthetic.write(tmp_path / "one", made)
    return load(tmp_path / "one").frame


def test_repeats_are_found_in_their_own_run_whatever_the_order(tmp_path: Path) -> None:
    frame = made_up(tmp_path)
    # /a got its data after its metadata: no repetition.  /c was copied twice.
    assert repeats(frame).tolist() == [False] * 5 + [True, False, False]
    shuffled = frame.iloc[[5, 3, 0, 2, 1, 4, 6, 7]]
    assert repeats(shuffled).tolist() == [True] + [False] * 7
    synthetic.write(tmp_path / "two", synthetic.columns(Workload(spans=3)))
    both = load([tmp_path / "one", tmp_path / "one", tmp_path / "two"])
    assert repeats(both.frame).sum() == 1


def test_each_copyup_counts_under_one_reason(tmp_path: Path) -> None:
    frame = made_up(tmp_path)
    frame.loc[1, "op"] = "fchownat"  # /b went up whole, for its owner
    found: Any = avoidable(frame, changed={"/a", "/e"})
    assert found["spans"].to_dict() == {"attributes": 1, "repeated": 1, "not written": 2}
    assert [time.value for time in found["time"]] == [20, 60, 40 + 50]
    assert found["bytes"].to_dict() == {"attributes": 1, "repeated": 5, "not written": 3 + 4}
    assert math.isclose(found.loc["repeated", "share"], 60 / 360)
    unknown = avoidable(frame)
    assert unknown.loc["not written"].isna().all()
    assert unknown.loc["repeated", "spans"] == 1


def test_amplification_is_bytes_copied_by_bytes_written(tmp_path: Path) -> None:
    frame = made_up(tmp_path)
    assert amplification(frame, 14) == 2.0
    assert math.isnan(amplification(frame, 0))
