"""Histograms against numpy's own account of the same values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.histogram import Histogram

VALUES = st.lists(
    st.one_of(st.integers(0, 40), st.integers(0, 2**63 - 1), st.sampled_from([2**53, 2**53 - 1])),
    max_size=200,
)


def histogram(values: list[int]) -> Histogram:
    made = Histogram()
    made.add(np.asarray(values, np.int64))
    return made


@given(VALUES, st.sampled_from([1, 2, 4, 8, 16]))
def test_every_value_is_in_its_bucket(values: list[int], parts: int) -> None:
    found = list(histogram(values).buckets(parts))
    for bucket in found:
        assert bucket.count == sum(bucket.low <= value < bucket.high for value in values)
    assert sum(bucket.count for bucket in found) == len(values)
    for one, following in itertools.pairwise(found):
        assert one.high == following.low


@given(VALUES, VALUES)
def test_merging_is_counting_both(first: list[int], second: list[int]) -> None:
    merged = histogram(first)
    merged.merge(histogram(second))
    assert merged == histogram(first + second)


@given(VALUES.filter(bool), st.floats(0, 1))
def test_a_quantile_is_close(values: list[int], share: float) -> None:
    """Within a sixteenth of the value that has this rank."""
    made = histogram(values)
    rank = max(int(np.ceil(share * len(values))), 1)
    true = sorted(values)[rank - 1]
    assert true <= made.quantile(share) <= true + true // 16
    assert (made.least, made.greatest, made.total) == (min(values), max(values), len(values))


def test_the_sum_is_exact() -> None:
    values = np.random.default_rng(7).integers(0, 1 << 40, 9973)
    made = histogram(values.tolist())
    assert made.sum == sum(values.tolist())


def test_nothing() -> None:
    assert list(Histogram().buckets()) == []
    assert Histogram().quantile(0.5) == 0


def test_negative_durations_count_as_zero() -> None:
    assert histogram([-5, 3]).counts == {0: 1, 3: 1}


@pytest.mark.parametrize("power", [0, 5, 31, 52, 53, 54, 61, 62])
def test_powers_of_two_begin_a_bucket(power: int) -> None:
    for bucket in histogram([1 << power]).buckets(4):
        assert bucket.low == 1 << power
