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

__all__ = ["Bucket", "Histogram", "bucket_of", "lowest_of"]

#: Each power of two has 2**_BITS buckets; smaller values have one each.
_BITS = 4


@dataclass(frozen=True)
class Bucket:
    """``count`` values from ``low`` to below ``high``."""

    low: int
    high: int
    count: int


def bucket_of(values: npt.NDArray[np.int64], bits: int = _BITS) -> npt.NDArray[np.int64]:
    """The bucket of each value (not negative), with 2**``bits`` buckets to a power of two."""
    # A double has the power of two above its mantissa: the same order, with 52 bits to a power.
    # Beyond 2**53 what it cannot hold is cut off, for rounding could lift it to the next power.
    exact = np.where(values >> 53, values & ~0x3FF, values)
    doubles = exact.astype(np.float64).view(np.int64) >> (52 - bits)
    return np.where(values < 1 << bits, values, doubles - ((1023 + bits - 1) << bits))


def lowest_of(buckets: npt.NDArray[np.int64], bits: int = _BITS) -> npt.NDArray[np.int64]:
    """The smallest value of each bucket: :func:`bucket_of` the other way round."""
    shift: npt.NDArray[np.int64] = np.maximum((buckets >> bits) - 1, 0)
    lowest: npt.NDArray[np.int64] = (buckets - (shift << bits)) << shift
    return lowest


def _edge(index: int) -> int:
    """The smallest value of a bucket, whatever its size."""
    shift = max((index >> _BITS) - 1, 0)
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
        buckets, counts = np.unique(bucket_of(array), return_counts=True)
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
