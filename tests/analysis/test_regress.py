"""Slower or not: intervals that hold, and a command that CI can rely on."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import stats
from analysis.load import load
from analysis.regress import past, ratios
from overlay.cli import main
from tests.analysis import synthetic
from tests.analysis.synthetic import Workload


def spans(rng: np.random.Generator, median: float, count: int) -> pd.DataFrame:
    dur = (median * np.exp(rng.normal(0, 0.6, count))).astype("m8[ns]")
    return pd.DataFrame({"dur": dur})


def test_intervals_hold_the_true_ratio_as_often_as_they_say() -> None:
    """300 pairs of runs, the second really 1.2 times as slow: 3 standard errors around 96 %."""
    rng = np.random.default_rng(53)
    held = 0
    for _ in range(300):
        before, after = spans(rng, 200_000, 90), spans(rng, 240_000, 60)
        row: Any = ratios(before, after).iloc[0]
        held += row.ratio_low <= 1.2 <= row.ratio_high
    assert 276 <= held <= 299


def run(directory: Path, **changes: Any) -> pd.DataFrame:
    synthetic.trace(directory, Workload(spans=1499, **changes))
    return stats.copyups(load(directory).frame)


def test_what_got_slower_stands_first_and_has_a_verdict(tmp_path: Path) -> None:
    made = synthetic.columns(Workload(spans=1499))
    synthetic.write(tmp_path / "a", made)
    op, dur = np.asarray(made["op"], dtype=object), np.asarray(made["dur"]).copy()
    dur[op == "openat"] = dur[op == "openat"] * 3 // 2
    dur[op == "fchownat"] //= 2
    op[:3] = "mkdirat"
    synthetic.write(tmp_path / "b", made | {"dur": dur, "op": op})
    before, after = (load(tmp_path / one).frame for one in "ab")
    found: Any = ratios(before, after, "op")
    assert found["verdict"].to_dict() == {
        "openat": "slower",
        "truncate": "same" if found.loc["truncate", "ratio_high"] < 1.05 else "unsure",
        "fchownat": "faster",
        "mkdirat": "new",
    }
    assert next(iter(found.index)) == "openat"
    median = np.median(np.asarray(made["dur"])[np.asarray(made["op"]) == "openat"])
    assert found.loc["openat", "p50_before"].value == pytest.approx(median, abs=1)
    assert found.loc["openat", "ratio"] == pytest.approx(1.5, rel=0.02)


def test_only_what_is_sure_and_past_the_limit_counts(tmp_path: Path) -> None:
    a = run(tmp_path / "a")
    assert past(a, run(tmp_path / "b", seed=2), 1.10) == []
    slower = {str(one) for one in past(a, run(tmp_path / "c", seed=3, sync_ns=400_000), 1.10)}
    assert any(one.startswith("typical time of all: ") for one in slower)
    assert past(a.head(19), a.head(19).assign(dur=a["dur"].head(19) * 9), 1.10) == []  # too few
    more = past(a.head(100), a.head(150), 1.40)
    assert [(one.what, one.ratio) for one in more if one.what == "number"] == [("number", 1.5)]
    assert past(a.head(100), a.head(150).assign(bytes=0), 1.51) == []
    nothing = past(a.head(0), a.head(30), 1.10)
    assert all(math.isinf(one.ratio) for one in nothing)
    assert {one.what for one in nothing} == {"number", "bytes"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--compare", "a", "b", "--fail-above", "1.10"], 0, ""),
        (["--compare", "a", "slow", "--fail-above", "1.10"], 1, "past 1.1: typical time of all"),
        (["a", "slow", "--fail-above", "1.10"], 1, "past 1.1: typical time of all"),
        (["--compare", "slow", "a", "--fail-above", "1.10"], 0, ""),
        (["--compare", "a", "slow", "--fail-above", "50"], 0, ""),
        (["--compare", "a", "slow"], 0, ""),
        (["a", "--fail-above", "1.10"], 2, "--fail-above is for two runs"),
        (["a", "--compare", "a", "b"], 2, "Name traces, or two with --compare"),
        (["--compare", "a", "b", "--fail-above", "0.9"], 2, "--fail-above"),
    ],
)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_the_command_fails_past_its_limit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    said: str,
    form: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    synthetic.trace(tmp_path / "a", Workload(spans=499))
    synthetic.trace(tmp_path / "b", Workload(spans=499))
    synthetic.trace(tmp_path / "slow", Workload(spans=499, sync_ns=600_000))
    monkeypatch.setattr(sys, "argv", ["fallthru", "report", *arguments, *form])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert int(ended.value.code or 0) == code
    assert said in err
    if code == 2:
        return
    if form:
        data = json.loads(out)
        assert bool(data.get("past_limit")) == (code == 1)
        assert data["comparisons"][0]["typical"][0]["verdict"]
    else:
        assert "Typical time by system call" in out
        assert ("copyups of 499 files" in out) == ("--compare" not in arguments)
