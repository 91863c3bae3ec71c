"""What a copyup costs: ``fixed + bytes / bandwidth``, and the same for its fsync.

Times scatter by factors, not by sums, and some copyups wait for something else altogether.  So
the typical time, not the mean, is fitted: of the residual ``log(time / fitted)``, by Tukey's
biweight, which gives outliers no weight at all.  The scale is the median absolute deviation.
Intervals (95 %) come from the sandwich covariance of the estimator, which assumes neither equal
nor normal scatter.  numpy is enough for this; nothing else is needed.

Where the tracer tells the fsync of each copyup, it is fitted apart; where not, it is in
``fixed`` and ``bytes``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.load import Trace
from analysis.stats import bytes_moved, copyups

__all__ = ["MIN_SPANS", "CostModel", "Estimate", "Line", "fit", "fit_line", "models", "pairs"]

Frame = pd.DataFrame
Floats = npt.NDArray[np.float64]

#: Fewer copyups than this say nothing about a line.
MIN_SPANS = 20
#: Beyond this many, evenly chosen ones do: the intervals are far below the scatter by then.
_MOST = 50_000
#: Sizes must differ by this factor before a slope means anything.
_SPREAD = 8
#: Tukey's constant: 95 % as efficient as least squares where the scatter is normal.
_BIWEIGHT = 4.685
_NORMAL = 1.959964
_MAD = 1.4826


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class Line:
    """``fixed`` ns + ``per_byte`` ns for each byte; ``scatter`` is the robust standard deviation
    of log(time / fitted): 0.25 means that two thirds lie within a quarter."""

    fixed: Estimate
    per_byte: Estimate
    scatter: float

    def at(self, size: npt.ArrayLike) -> Floats:
        """The typical time (ns) for that many bytes."""
        return self.fixed.value + self.per_byte.value * np.asarray(size, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class CostModel:
    """The cost of copyups of one kind: from ``bottom`` to ``top`` (file systems), by ``how``.

    ``work`` is all but the fsync, ``sync`` the fsync (None where the tracer does not tell it, and
    then it is part of ``work``; or where there is none).
    """

    top: str
    bottom: str
    how: str
    spans: int
    work: Line
    sync: Line | None

    def at(self, size: npt.ArrayLike) -> Floats:
        """The typical time (ns) of a copyup of that many bytes, fsync included."""
        whole = self.work.at(size)
        return whole if self.sync is None else whole + self.sync.at(size)

    @property
    def bandwidth(self) -> Estimate:
        """Bytes a second of copying, without the fsync; infinite where bytes cost nothing."""
        slope = self.work.per_byte
        ends = (1e9 / one if one > 0 else np.inf for one in (slope.value, slope.high, slope.low))
        return Estimate(*ends)

    @property
    def knee(self) -> float:
        """The size (bytes) from which on bytes cost more than the copyup itself."""
        lines = [line for line in (self.work, self.sync) if line is not None]
        slope = sum(line.per_byte.value for line in lines)
        return sum(line.fixed.value for line in lines) / slope if slope > 0 else np.inf

    @property
    def scatter(self) -> float:
        return self.work.scatter

    def residuals(self, frame: Frame) -> Floats:
        """log(time / fitted) of each span: 0 as expected, 0.69 twice, -0.69 half the time."""
        dur = frame["dur"].to_numpy().view("int64").astype(np.float64)
        return np.log(np.maximum(dur, 1) / self.at(_bytes(frame, self.how)))

    def outliers(self, frame: Frame, *, beyond: float = 4.0) -> Frame:
        """The spans that took longer than ``beyond`` times the scatter explains, worst first.

        Columns: those of ``frame``, and ``expected`` (timedelta) and ``factor``.
        """
        residual = self.residuals(frame)
        spread = np.median(np.abs(residual - np.median(residual))) * _MAD if len(frame) else 0.0
        far = residual > np.maximum(beyond * spread, np.log(2))
        expected = pd.to_timedelta(np.round(self.at(_bytes(frame, self.how)[far])), unit="ns")
        found = frame[far].assign(expected=expected, factor=np.exp(residual[far]))
        worst: Frame = found.sort_values("factor", ascending=False)
        return worst


def pairs(trace: Trace) -> Iterator[tuple[str, str, Frame]]:
    """The copyups of each pair of file systems: top, bottom (uppermost first), and the spans."""
    frame = copyups(trace.frame)
    mounts: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for run in trace.runs:
        for place, told in run.metadata.mounts.items():
            bottoms = told.get("bottoms")
            below = " over ".join(map(str, bottoms)) if isinstance(bottoms, list) else "unknown"
            key = (str(told.get("top") or "unknown"), below)
            mounts.setdefault(key, []).append((run.name, place))
    for (top, bottom), places in sorted(mounts.items()):
        mine = np.zeros(len(frame), bool)
        for name, place in places:
            mine |= ((frame["run"] == name) & (frame["mount"] == place)).to_numpy()
        if mine.any():
            yield top, bottom, frame if mine.all() else frame[mine]


def models(trace: Trace) -> list[CostModel]:
    """A model for each pair of file systems and each way that data went up, where spans suffice.

    Every mount of a pair counts, whatever its profile: compare those run by run.
    """
    found = []
    for top, bottom, frame in pairs(trace):
        for how in ("copy", "reflink", "metacopy", "none"):
            made = fit(frame[(frame["how"] == how).to_numpy()], top, bottom, how)
            if made is not None:
                found.append(made)
    return found


def fit(frame: Frame, top: str, bottom: str, how: str) -> CostModel | None:
    """The model of these copyups, or None for fewer than :data:`MIN_SPANS`.

    Failed ones, and those that do not tell their bytes, are left out.
    """
    sound = ((frame["errno"] == 0) & frame["bytes"].notna()).to_numpy()
    frame = frame if sound.all() else frame[sound]
    frame = frame.iloc[:: -(-len(frame) // _MOST) or 1]
    if len(frame) < MIN_SPANS:
        return None
    size = _bytes(frame, how)
    dur = frame["dur"].to_numpy().view("int64").astype(np.float64)
    told = frame["sync"].notna().to_numpy()
    sync = np.where(told, frame["sync"].to_numpy().view("int64"), 0).astype(np.float64)
    synced = told & (sync > 0)
    if synced.sum() >= MIN_SPANS and told.mean() > 0.5:
        rest = (dur - sync)[told]
        work = fit_line(size[told], rest)
        return CostModel(top, bottom, how, len(frame), work, fit_line(size[synced], sync[synced]))
    return CostModel(top, bottom, how, len(frame), fit_line(size, dur), None)


def _bytes(frame: Frame, how: str) -> Floats:
    """What a span's time may grow with: the bytes moved, or of shared extents the size."""
    if how == "reflink":
        return frame["size"].to_numpy(dtype=np.float64)
    return bytes_moved(frame).astype(np.float64)


def fit_line(size: Floats, time: Floats) -> Line:
    """Fit the typical ``time`` (ns) of ``size`` bytes; neither part is ever below zero."""
    keep = time > 0
    size, time = size[keep], time[keep]
    slope = len(size) >= MIN_SPANS and size.max() >= _SPREAD * max(float(np.median(size)), 1.0) / 4
    slope = slope and size.max() > _SPREAD * max(float(np.quantile(size, 0.05)), 1.0)
    shape = np.column_stack([np.ones(len(size)), size]) if slope else np.ones((len(size), 1))
    made = _biweight(shape, time)
    if slope and made[0][1] <= 0:
        made = _biweight(shape[:, :1], time)
    elif slope and made[0][0] <= 0:
        made = _biweight(shape[:, 1:], time)
        return Line(Estimate(0.0, 0.0, 0.0), _estimate(made, 0), made[2])
    nothing = Estimate(0.0, 0.0, 0.0)
    two = len(made[0]) == 2
    return Line(_estimate(made, 0), _estimate(made, 1) if two else nothing, made[2])


_Fitted = tuple[Floats, Floats, float]


def _estimate(made: _Fitted, place: int) -> Estimate:
    value, error = float(made[0][place]), float(made[1][place]) * _NORMAL
    return Estimate(value, max(value - error, 0.0), value + error)


def _biweight(shape: Floats, time: Floats) -> _Fitted:
    """Coefficients, their standard errors, and the scatter."""
    if not len(time):
        return np.zeros(shape.shape[1]), np.full(shape.shape[1], np.nan), float("nan")
    unit = np.maximum(np.abs(shape).max(axis=0), 1e-300)  # columns of like size: stable solving
    scaled = shape / unit
    at = _start(scaled, time)
    scale = 1.0
    for _ in range(100):
        fitted = np.maximum(scaled @ at, 1e-3)
        residual = np.log(time / fitted)
        scale = max(float(np.median(np.abs(residual - np.median(residual)))) * _MAD, 1e-6)
        weight = _weights(residual / scale)
        slope = scaled / fitted[:, None]
        step = np.linalg.lstsq(
            slope * np.sqrt(weight)[:, None], residual * np.sqrt(weight), rcond=None
        )[0]
        new = at + step
        # A step must not leave the region where every time is positive.
        while (scaled @ new).min() <= 0 and np.abs(step).max() > 1e-12:
            step = step / 2
            new = at + step
        done = np.abs(step).max() <= 1e-9 * np.abs(new).max()
        at = new
        if done:
            break
    fitted = np.maximum(scaled @ at, 1e-3)
    errors = _errors(scaled / fitted[:, None], np.log(time / fitted), scale)
    return at / unit, errors / unit, scale


def _weights(standard: Floats) -> Floats:
    part = np.clip(1 - (standard / _BIWEIGHT) ** 2, 0, None)
    return part * part


def _start(shape: Floats, time: Floats) -> Floats:
    """A first guess that outliers cannot spoil: through the medians of the low and high end."""
    if shape.shape[1] == 1:
        return np.array([float(np.median(time / shape[:, 0]))])
    order = np.argsort(shape[:, 1], kind="stable")
    low, high = order[: max(len(order) // 4, 1)], order[-max(len(order) // 20, 1) :]
    fixed = float(np.median(time[low]))
    rest = np.maximum(time[high] - fixed, 0) / np.maximum(shape[high, 1], 1e-300)
    return np.array([fixed, max(float(np.median(rest)), fixed * 1e-3)])


def _errors(slope: Floats, residual: Floats, scale: float) -> Floats:
    """Standard errors by the sandwich formula of M-estimators."""
    standard = residual / scale
    inside = np.abs(standard) < _BIWEIGHT
    ratio = np.where(inside, (standard / _BIWEIGHT) ** 2, 1.0)
    influence = standard * (1 - ratio) ** 2
    derivative = np.where(inside, (1 - ratio) * (1 - 5 * ratio), 0.0)
    bread = np.linalg.pinv(slope.T @ (slope * derivative[:, None]))
    meat = slope.T @ (slope * (influence**2)[:, None])
    covariance: Any = bread @ meat @ bread * scale**2
    return np.sqrt(np.maximum(np.diag(covariance), 0.0))
