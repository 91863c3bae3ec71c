"""Histograms of latencies and sizes: powers of two, each divided evenly.

Sixteen buckets to a power of two keep every value to within 6 %, over the whole range of
64 bits, in a few hundred counters.  Histograms of the same kind add up exactly, whoever
made them: intervals, processes, traces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["Bucket", "Histogram"]

#: Each power of two has 2**_BITS buckets; smaller values have one each.
_BITS = 4
_LINEAR = 1 << _BITS


@dataclass(frozen=True)
class Bucket:
    """``count`` values from ``low`` to below ``high``."""

    low: int
    high: int
    count: int


def _indices(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The bucket of each value (not negative)."""
    # frexp is exact only up to 2**53; beyond, rounding could lift a value over a power of two.
    exponents = np.frexp(values.astype(np.float64))[1].astype(np.int64) - 1
    exponents = np.maximum(exponents, 0)
    exponents -= (values >> np.minimum(exponents, 62)) == 0
    shift = np.maximum(exponents - _BITS, 0)
    return np.where(values < _LINEAR, values, (shift << _BITS) + (values >> shift))


def _edge(index: int) -> int:
    """The smallest value of a bucket."""
    if index < 2 * _LINEAR:
        return index
    shift = (index >> _BITS) - 1
    return (index - (shift << _BITS)) << shift


@dataclass
class Histogram:
    """Counts by bucket, and the exact sum, least and greatest value."""

    counts: dict[int, int] = field(default_factory=dict)
    total: int = 0
    sum: int = 0
    least: int = 0
    greatest: int = 0

    @classmethod
    def counted(cls, counts: Mapping[int, int], total: int) -> Histogram:
        """One that was kept elsewhere, in buckets of the same numbers; its least and greatest
        value are known to the bucket only."""
        if not counts:
            return cls()
        least, greatest = _edge(min(counts)), _edge(max(counts) + 1) - 1
        return cls(dict(counts), sum(counts.values()), total, least, greatest)

    def add(self, values: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """Count ``values``; negative ones as 0."""
        array = np.maximum(np.asarray(values, np.int64), 0)
        if not array.size:
            return
        buckets, counts = np.unique(_indices(array), return_counts=True)
        least, greatest = int(array.min()), int(array.max())
        self._take(dict(zip(buckets.tolist(), counts.tolist(), strict=True)), least, greatest)
        # In halves: the sum of 64-bit numbers may not be one.
        self.sum += (int((array >> 32).sum()) << 32) + int((array & 0xFFFFFFFF).sum())

    def merge(self, other: Histogram) -> None:
        """Add what ``other`` counted."""
        if other.total:
            self._take(other.counts, other.least, other.greatest)
            self.sum += other.sum

    def _take(self, counts: dict[int, int], least: int, greatest: int) -> None:
        self.least = min(self.least, least) if self.total else least
        self.greatest = max(self.greatest, greatest)
        for index, count in counts.items():
            self.counts[index] = self.counts.get(index, 0) + count
            self.total += count

    def quantile(self, share: float) -> int:
        """A value that ``share`` (0–1) of the values do not exceed; 0 when there are none.

        Never off by more than its bucket is wide, and never beyond the greatest value.
        """
        rank = max(int(np.ceil(share * self.total)), 1)
        seen = 0
        for index in sorted(self.counts):
            seen += self.counts[index]
            if seen >= rank:
                return max(min(_edge(index + 1) - 1, self.greatest), self.least)
        return 0

    def buckets(self, per_power: int = 1) -> Iterator[Bucket]:
        """From the lowest that counts to the highest, none left out, ``per_power`` (a power of
        two up to 16) of them to a power of two."""
        if not self.total:
            return
        groups: dict[int, int] = {}
        for index, count in self.counts.items():
            group = _group(_edge(index), per_power)
            groups[group] = groups.get(group, 0) + count
        for group in range(min(groups), max(groups) + 1):
            low, high = _group_edge(group, per_power), _group_edge(group + 1, per_power)
            if low < high:  # the smallest powers have fewer values than parts
                yield Bucket(low, high, groups.get(group, 0))


def _group(value: int, parts: int) -> int:
    """The number of the bucket that ``value`` is in: 0 has the first for itself."""
    if not value:
        return 0
    power = value.bit_length() - 1
    return 1 + power * parts + ((value - (1 << power)) * parts >> power)


def _group_edge(group: int, parts: int) -> int:
    if not group:
        return 0
    power, part = divmod(group - 1, parts)
    return (1 << power) + -(-(part << power) // parts)
