"""Percentiles by group against numpy's, and intervals that hold what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.order import ordered, ranks

RNG = np.random.default_rng(1301)


@pytest.mark.parametrize("largest", [1000, 1 << 61])
def test_groups_are_sorted_summed_and_measured(largest: int) -> None:
    """The second range leaves no room for the group in one word with the value."""
    codes = RNG.integers(0, 7, 5003)
    codes[codes == 3] = 4  # one group is empty
    values = RNG.integers(0, largest, len(codes))
    found = ordered(values // 8 if largest > 1000 else values, codes, 7)
    values = values // 8 if largest > 1000 else values
    for group in range(7):
        mine = np.sort(values[codes == group])
        start = found.starts[group]
        assert found.values[start : start + found.counts[group]].tolist() == mine.tolist()
        if not len(mine):
            assert math.isnan(found.quantile(0.5)[group])
            assert math.isnan(found.largest()[group])
            continue
        if largest == 1000:
            assert found.total()[group] == sum(mine.tolist())
        for at in (0.0, 0.5, 0.9, 0.99, 1.0):
            assert found.quantile(at)[group] == pytest.approx(np.quantile(mine, at))
        assert found.largest()[group] == mine[-1]


def test_nothing_is_nothing() -> None:
    found = ordered(np.array([], np.int64), np.array([], np.int64), 2)
    assert np.isnan(found.quantile(0.5)).all()
    assert np.isnan(found.interval(0.5)).all()
    assert found.total().tolist() == [0, 0]


def exact_coverage(count: int, at: float) -> float:
    """P(low <= k < high) from the binomial's definition, in whole numbers."""
    low, high = ranks(count, at)
    chosen = range(max(low, 0), min(high, count + 1))
    return math.fsum(math.comb(count, k) * at**k * (1 - at) ** (count - k) for k in chosen)


@pytest.mark.parametrize("count", [1, 5, 10, 59, 100, 500])
@pytest.mark.parametrize("at", [0.5, 0.9, 0.99])
def test_the_interval_covers_at_least_what_it_says_and_little_more(count: int, at: float) -> None:
    assert exact_coverage(count, at) >= 0.95 - 1e-12
    low, high = ranks(count, at)
    if low >= 1 and high <= count:  # a rank less on either side would be too few
        missed = math.fsum(
            math.comb(count, k) * at**k * (1 - at) ** (count - k) for k in range(low + 1)
        )
        assert missed > 0.025


def test_known_ranks() -> None:
    """The median's interval of textbooks: the 2nd to the 9th of 10, the 40th to the 61st of 100."""
    assert ranks(10, 0.5) == (2, 9)
    assert ranks(100, 0.5) == (40, 61)
    assert ranks(5, 0.5) == (0, 6)  # five values bound no median at 95 %
    assert ranks(100, 0.99)[1] == 101  # and a hundred no 99th percentile from above
    exact, approximate = ranks(10_000, 0.9), ranks(10_001, 0.9)
    assert approximate == pytest.approx(exact, abs=2)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """4,000 samples of 60 values from a known distribution with a long tail."""
    rounds, size = 4000, 60
    values = np.exp(RNG.normal(12, 1.5, rounds * size)).astype(np.int64)
    found = ordered(values, np.repeat(np.arange(rounds), size), rounds)
    for at, normal in ((0.5, 0.0), (0.75, 0.6744897502)):
        truth = math.exp(12 + 1.5 * normal)
        low, high = found.interval(at)
        held = np.mean((low <= truth) & (truth <= high))
        assert 0.945 <= held <= 0.985
