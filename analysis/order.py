"""Percentiles of many groups at once, with confidence intervals from order statistics.

No distribution is assumed.  The ``k`` smallest of ``n`` independent values lie below the
``p``-quantile for ``k`` distributed as Binomial(n, p): so the interval from the ``l``-th to the
``u``-th value holds the quantile with the probability of ``l <= k < u``.  Ranks are chosen so
that neither end is missed with more than half of the error allowed; the real confidence is
at least the nominal one.  Few values bound nothing: then an end is NaN.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

__all__ = ["CONFIDENCE", "Floats", "Int64s", "Ordered", "Ranked", "ordered", "ranks"]

CONFIDENCE = 0.95

#: Beyond this many values the normal approximation of the ranks is as good as exact.
_EXACT = 10_000

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]


class Ranked(ABC):
    """Values in groups, of which each can be asked for by its rank."""

    #: How many values each group has.
    counts: Int64s

    @abstractmethod
    def take(self, rank: Int64s) -> Floats:
        """The value of that rank (from 0, within range) in each group; NaN if it is empty."""

    @abstractmethod
    def total(self) -> Int64s:
        """The exact sum of each group."""

    def quantile(self, at: float) -> Floats:
        """The quantile of each group, linear between the two nearest values; NaN if empty."""
        place = at * np.maximum(self.counts - 1, 0)
        low = np.floor(place).astype(np.int64)
        high = np.minimum(low + 1, np.maximum(self.counts - 1, 0))
        first, second = self.take(low), self.take(high)
        return first + (second - first) * (place - low)

    def interval(self, at: float, confidence: float = CONFIDENCE) -> tuple[Floats, Floats]:
        """The confidence interval of that quantile; NaN where the group is too small for an end."""
        pairs = {int(count): ranks(int(count), at, confidence) for count in np.unique(self.counts)}
        low = np.array([pairs[int(count)][0] for count in self.counts], dtype=np.int64)
        high = np.array([pairs[int(count)][1] for count in self.counts], dtype=np.int64)
        return (
            np.where(low >= 1, self.take(np.maximum(low, 1) - 1), np.nan),
            np.where(high <= self.counts, self.take(np.minimum(high, self.counts) - 1), np.nan),
        )

    def largest(self) -> Floats:
        """The largest value of each group; NaN if empty."""
        return self.take(self.counts - 1)


@dataclass(frozen=True, eq=False)
class Ordered(Ranked):
    """Values sorted within groups: group ``i`` is ``values[starts[i] : starts[i] + counts[i]]``."""

    values: Int64s
    starts: Int64s
    counts: Int64s

    def take(self, rank: Int64s) -> Floats:
        if not len(self.values):
            return np.full(len(self.counts), np.nan)
        index = np.clip(self.starts + rank, 0, len(self.values) - 1)
        return np.where(self.counts > 0, self.values[index], np.nan)

    def total(self) -> Int64s:
        if not len(self.values):
            return np.zeros(len(self.counts), np.int64)
        sums = np.add.reduceat(self.values, np.minimum(self.starts, len(self.values) - 1))
        return np.where(self.counts > 0, sums, 0)


def ordered(values: Int64s, codes: npt.NDArray[np.integer], groups: int) -> Ordered:
    """Sort ``values`` within the groups that ``codes`` (0 … ``groups`` - 1) put them into."""
    counts = np.bincount(codes, minlength=groups)
    starts = np.concatenate(([0], np.cumsum(counts)[:-1])).astype(np.int64)
    width = int(values.max()).bit_length() if len(values) else 0
    if len(values) and values.min() >= 0 and width + int(groups).bit_length() <= 63:
        # Group and value in one word: one sort of plain integers, four times as fast.
        words = codes.astype(np.int64)
        words <<= width
        words |= values
        words.sort()
        words &= (1 << width) - 1
        return Ordered(words, starts, counts)
    return Ordered(values[np.lexsort((values, codes))], starts, counts)


@functools.lru_cache(maxsize=4096)
def ranks(count: int, at: float, confidence: float = CONFIDENCE) -> tuple[int, int]:
    """The ranks (from 1) of the order statistics that enclose the quantile ``at``.

    A lower rank of 0 or an upper one of ``count`` + 1 means that nothing bounds that side.
    """
    if count == 0:
        return 0, 1
    tail = (1 - confidence) / 2
    if count > _EXACT:
        reach = NormalDist().inv_cdf(1 - tail) * math.sqrt(count * at * (1 - at))
        low, high = math.floor(count * at - reach), math.ceil(count * at + reach) + 1
        return max(low, 0), min(high, count + 1)
    below = _binomial(count, at)
    low = int(np.searchsorted(below, tail, side="right"))
    high = int(np.searchsorted(below, 1 - tail, side="left")) + 1
    return low, high


def _binomial(count: int, at: float) -> Floats:
    """P(k or fewer) for k = 0 … ``count`` of Binomial(``count``, ``at``)."""
    k = np.arange(count + 1)
    factorials = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, count + 1)))))
    logs = factorials[-1] - factorials - factorials[::-1]
    logs += k * math.log(at) + (count - k) * math.log1p(-at)
    return np.cumsum(np.exp(logs))
