"""Sketches: within the error they state, and the same whatever was put together when."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import sketch
from analysis.order import ordered
from analysis.sketch import DISTINCT_ERROR, KEPT, VALUE_ERROR, Distinct, Sketch, sketched

EDGES = [
    0,
    1,
    1023,
    1024,
    1025,
    *((1 << power) + step for power in range(11, 62) for step in (-1, 0, 1)),
]
values = st.lists(st.one_of(st.integers(0, (1 << 62) - 1), st.sampled_from(EDGES)), min_size=1)


def alone(numbers: list[int] | np.ndarray[tuple[int], np.dtype[np.int64]]) -> Sketch:
    array = np.asarray(numbers, np.int64)
    return sketched(array, np.zeros(len(array), np.int8), 1)


def same(one: Sketch, other: Sketch) -> bool:
    names = ("cells", "times", "counts", "sums", "least", "greatest")
    return all(getattr(one, name).tolist() == getattr(other, name).tolist() for name in names)


@given(values)
def test_every_rank_is_within_the_error(numbers: list[int]) -> None:
    array = np.sort(np.array(numbers, np.int64))
    found = alone(numbers)
    for rank, value in enumerate(array.tolist()):
        taken = float(found.take(np.array([rank]))[0])
        assert abs(taken - value) <= VALUE_ERROR * value
        if value < 1024:
            assert taken == value
    assert found.take(np.array([0]))[0] == float(array[0])
    assert found.largest()[0] == float(array[-1])


def test_the_error_is_no_larger_than_it_has_to_be() -> None:
    """The bound is reached: a figure half as large would be wrong."""
    array = np.sort(np.random.default_rng(5).integers(1024, 1 << 40, 50_000))
    found = alone(array)
    ranks = range(1, len(array) - 1, 97)
    off = [abs(float(found.take(np.array([rank]))[0]) / array[rank] - 1) for rank in ranks]
    assert 0.8 * VALUE_ERROR < max(off) <= VALUE_ERROR


@pytest.mark.parametrize("groups", [1, 3, 1009])
def test_quantiles_and_intervals_are_those_of_the_values(groups: int) -> None:
    rng = np.random.default_rng(groups)
    numbers = np.exp(rng.normal(12, 2, 40_009)).astype("i8")
    codes = rng.integers(0, groups, len(numbers))
    exact, found = ordered(numbers, codes, groups), sketched(numbers, codes, groups)
    assert found.counts.tolist() == exact.counts.tolist()
    assert found.total().tolist() == exact.total().tolist()
    assert found.largest().tolist() == exact.largest().tolist()
    for at in (0.5, 0.9, 0.99):
        np.testing.assert_allclose(found.quantile(at), exact.quantile(at), rtol=VALUE_ERROR)
        for mine, theirs in zip(found.interval(at), exact.interval(at), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=VALUE_ERROR)


@given(st.lists(values, min_size=1, max_size=5), st.randoms())
def test_merging_is_exact_in_any_order(pieces: list[list[int]], random: object) -> None:
    whole = alone([number for piece in pieces for number in piece])
    nowhere = np.zeros(1, np.int64)
    sketches = [alone(piece) for piece in pieces]
    assert same(sketch.merged(sketches, [nowhere] * len(pieces), 1), whole)
    first = sketches[-1]
    for one in reversed(sketches[:-1]):
        first = sketch.merged([first, one], [nowhere] * 2, 1)
    assert same(first, whole)


def test_groups_are_put_where_they_are_told() -> None:
    rng = np.random.default_rng(7)
    numbers, codes = rng.integers(0, 1 << 30, 5003), rng.integers(0, 4, 5003)
    halves = [
        sketched(numbers[half], codes[half], 5)  # the fifth has nothing
        for half in (slice(0, 1999), slice(1999, None))
    ]
    places = [np.array([2, 0, 1, 3, 4]), np.array([2, 0, 1, 3, 4])]
    renamed = np.array([2, 0, 1, 3, 4])[codes]
    assert same(sketch.merged(halves, places, 6), sketched(numbers, renamed, 6))


def test_few_values_are_counted_exactly_and_many_closely() -> None:
    names = np.array([f"/share/doc/{number}" for number in range(300_007)], dtype=object)
    assert Distinct.of(names[:997]).count() == 997
    assert Distinct.of(np.concatenate([names[:997], names[:500]])).count() == 997
    assert Distinct.of(names[:0]).count() == 0
    many = Distinct.of(names)
    assert len(many.hashes) == KEPT
    assert abs(many.count() / len(names) - 1) < 4 * DISTINCT_ERROR
    pieces = [Distinct.of(names[at::3]) for at in range(3)]
    assert Distinct.merged(pieces).hashes.tolist() == many.hashes.tolist()


def test_what_two_have_in_common() -> None:
    names = np.array([f"/lib/{number}" for number in range(200_003)], dtype=object)
    few = Distinct.of(names[:1009]), Distinct.of(names[500:2000])
    assert few[0].common(few[1]) == 509
    one, other = Distinct.of(names[:150_000]), Distinct.of(names[50_000:])
    # 65,536 of the union are looked at: the share of those in both is binomial.
    assert abs(one.common(other) / 100_000 - 1) < 0.02
