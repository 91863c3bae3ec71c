"""The cost model: known parameters come back, intervals hold them, and the kernel agrees."""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from analysis import model
from analysis.load import load
from analysis.model import fit_line
from overlay import kernel
from tests.analysis import synthetic
from tests.analysis.synthetic import Workload
from tests.fsimages import tmpfs
from tracer.tracefile import TraceWriter

FIXED, PER_BYTE = 35_000.0, 1 / 1.2


def made_up(
    rng: np.random.Generator, count: int, outliers: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sizes and times of a known line, with scatter and with copyups that waited for a disk."""
    size = np.exp(rng.normal(9.2, 2.3, count))
    time = (FIXED + PER_BYTE * size) * np.exp(rng.normal(0, 0.3, count))
    late = rng.random(count) < outliers
    time[late] *= rng.uniform(10, 50, late.sum())
    return size, time


def test_intervals_hold_known_parameters_as_often_as_they_say() -> None:
    """300 made-up runs: of 95 % intervals 92 to 98.5 in a hundred hold (3 standard errors)."""
    rng = np.random.default_rng(1721)
    rounds = 300
    held = np.zeros(2)
    for _ in range(rounds):
        line = fit_line(*made_up(rng, 300, outliers=0.05))
        held += [
            line.fixed.low <= FIXED <= line.fixed.high,
            line.per_byte.low <= PER_BYTE <= line.per_byte.high,
        ]
    assert (held / rounds >= 0.91).all()
    assert (held / rounds <= 0.99).all()


def test_a_fifth_of_outliers_moves_the_line_little() -> None:
    """Least squares would be off by a factor: every fifth copyup took 10 to 50 times as long."""
    size, took = made_up(np.random.default_rng(3), 5003, outliers=0.2)
    line = fit_line(size, took)
    assert line.fixed.value == pytest.approx(FIXED, rel=0.1)
    assert line.per_byte.value == pytest.approx(PER_BYTE, rel=0.1)
    assert line.scatter == pytest.approx(0.3, rel=0.5)
    least_squares = np.polyfit(size, took, 1)
    assert least_squares[0] > 2 * PER_BYTE


@pytest.mark.parametrize("what", ["one size", "no bytes", "free bytes", "only bytes", "few"])
def test_what_cannot_be_told_is_not_told(what: str) -> None:
    rng = np.random.default_rng(5)
    noise = np.exp(rng.normal(0, 0.1, 400))
    size = {"one size": np.full(400, 4096.0), "no bytes": np.zeros(400)}.get(
        what, np.exp(rng.normal(11, 2, 400))
    )
    slope = {"free bytes": 0.0, "only bytes": 5.0}.get(what, 0.0)
    fixed = 0.001 if what == "only bytes" else 50_000.0
    if what == "few":
        size, noise = size[:5], noise[:5]
    line = fit_line(size, (fixed + slope * size) * noise)
    if what == "only bytes":
        assert line.per_byte.value == pytest.approx(5.0, rel=0.05)
        assert line.fixed.value < 5.0 * float(np.median(size)) * 0.01
    else:
        assert line.fixed.value == pytest.approx(fixed, rel=0.1)
        assert line.per_byte.value * float(np.median(size)) < 0.1 * fixed
        assert line.per_byte.low == 0.0


def test_a_trace_gives_a_model_for_each_way_and_names_what_waited(tmp_path: Path) -> None:
    work = Workload(spans=3001, fixed_ns=40_000, sync_ns=150_000, bytes_per_second=0.8e9)
    made = synthetic.columns(work)
    slow = int(np.flatnonzero(np.asarray(made["how"]) == "copy")[7])
    made["dur"] = np.asarray(made["dur"]).copy()
    made["dur"][slow] *= 100
    synthetic.write(tmp_path / "one", made)
    trace = load(tmp_path / "one")
    found = {one.how: one for one in model.models(trace)}
    assert set(found) == {"copy", "none"}
    copy = found["copy"]
    assert (copy.top, copy.bottom) == ("ext4", "ext4")
    assert copy.bandwidth.value == pytest.approx(0.8e9, rel=0.1)
    assert copy.bandwidth.low < copy.bandwidth.value < copy.bandwidth.high
    # create, meta and link sum to fixed; each is spread by a quarter, and 1 µs goes between.
    assert copy.work.fixed.value == pytest.approx(40_000 + 1_000, rel=0.1)
    assert copy.sync is not None
    assert copy.sync.fixed.value == pytest.approx(150_000, rel=0.1)
    assert copy.sync.per_byte.value == pytest.approx(0.25, rel=0.2)
    assert copy.knee == pytest.approx(191_000 / (1 / 0.8 + 0.25), rel=0.15)
    assert found["none"].sync is None
    copied = trace.frame[trace.frame["how"] == "copy"]
    worst = copy.outliers(copied).iloc[0]
    assert worst["path"] == made["path"][slow]
    assert worst["factor"] > 30
    assert len(copy.outliers(copied)) < len(copied) * 0.01


def test_too_few_copyups_give_no_model(tmp_path: Path) -> None:
    synthetic.trace(tmp_path / "one", Workload(spans=11))
    assert model.models(load(tmp_path / "one")) == []


def test_the_model_agrees_with_a_clock_around_the_calls(root: None, tmp_path: Path) -> None:
    """Each open() is timed from outside, too; large and small files both fit the model.

    Of each size the fastest half: on a busy machine others are given the processor in between.
    """
    doctor = pytest.importorskip("tracer.doctor")
    lacking = [one.name for one in doctor.checks() if one.required and not one.ok]
    if lacking:
        pytest.skip(f"needs: {', '.join(lacking)}")
    from tracer.session import Session

    sizes = np.array([4096 << step for step in range(9)] * 16)  # 4 KiB to 1 MiB
    (tmp_path / "memory").mkdir()
    clocked = []
    with tmpfs(tmp_path / "memory") as disk:
        for name in ("bottom", "top", "root"):
            (disk / name).mkdir()
        for number, size in enumerate(sizes):
            (disk / "bottom" / str(number)).write_bytes(os.urandom(int(size)))
        overlay = kernel.Overlay(bottoms=(str(disk / "bottom"),), top=str(disk / "top"))
        with (
            kernel.mounted(overlay, str(disk / "root")),
            Session(mounts=[disk / "root"]) as session,
        ):
            for number in range(len(sizes)):
                start = time.perf_counter_ns()
                os.close(os.open(disk / "root" / str(number), os.O_WRONLY))
                clocked.append(time.perf_counter_ns() - start)
        TraceWriter(str(tmp_path / "trace")).write(session.table(), session.metadata())
    taken = np.array(clocked)
    trace = load(tmp_path / "trace")
    copied = trace.frame[trace.frame["kind"] == "copyup"].sort_values("ts")
    assert copied["path"].tolist() == [f"/{number}" for number in range(len(sizes))]
    assert (copied["dur"].to_numpy().view("int64") <= taken).all()
    quick = np.zeros(len(sizes), bool)
    for size in np.unique(sizes):
        quick |= (sizes == size) & (taken <= np.median(taken[sizes == size]))
    (fitted,) = model.models(replace(trace, frame=copied[quick]))
    assert (fitted.top, fitted.bottom, fitted.how) == ("tmpfs", "tmpfs", "copy")
    off = np.log(taken / fitted.at(sizes))
    # From outside a call is some microseconds longer, and Python's share is in it.
    for part, most in ((sizes >= 512 << 10, 1.5), (sizes <= 256 << 10, 4)):
        assert -math.log(1.5) < float(np.median(off[quick & part])) < math.log(most)
