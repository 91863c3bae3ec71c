"""The parts that pictures are made of: each draws one thing into given axes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes

from analysis import stats
from analysis.style import (
    HOW_COLOURS,
    INK,
    MUTED,
    PHASE_COLOURS,
    SERIES,
    empty_at,
    linear_time_axis,
    size_axis,
    tidy,
)
from analysis.units import human_time, label
from overlay.text import human_bytes
from tracer.schema import PHASES

__all__ = [
    "bars",
    "beside",
    "ecdf",
    "nanoseconds",
    "nothing",
    "phase_lines",
    "phase_times",
    "points_shown",
    "sample",
    "scatter",
    "size_ends",
    "size_scale",
    "stack",
    "time_ends",
]

Frame = pd.DataFrame
Floats = npt.NDArray[np.float64]

#: More points than this become one embedded image: an SVG of a million circles opens nowhere.
_VECTOR_POINTS = 1_500
#: More than this are sampled; the slowest are always kept.
_MOST_POINTS = 60_000
#: Medians below this (ns) are not drawn: they would only stretch the axis.
_NOTICEABLE = 300.0
_UNTOLD = "not told"


def nothing(axes: Axes, frame: Frame) -> bool:
    """Say so in ``axes`` when there is nothing to draw."""
    if len(frame):
        return False
    axes.text(0.5, 0.5, "nothing recorded", ha="center", va="center", color=MUTED)
    axes.set_xticks([])
    axes.set_yticks([])
    tidy(axes).grid(False)
    return True


def nanoseconds(column: pd.Series[pd.Timedelta]) -> Floats:
    """Durations as float nanoseconds, NaN where there is none."""
    return np.asarray(column / pd.Timedelta(1, unit="ns"), dtype=np.float64)


def time_ends(frame: Frame) -> tuple[float, float]:
    dur = nanoseconds(frame["dur"])
    return float(np.quantile(dur, 0.001)), float(dur.max())


def size_ends(frame: Frame) -> tuple[float, float, bool]:
    size = frame["size"].to_numpy()
    some = size[size > 0]
    return (
        float(some.min()) if len(some) else 1.0,
        float(some.max()) if len(some) else 4096.0,
        len(some) < len(size),
    )


def size_scale(axes: Axes, frame: Frame) -> None:
    low, high, empty = size_ends(frame)
    size_axis(axes, low, high, empty=empty)


def scatter(axes: Axes, frame: Frame, every: Frame) -> None:
    """A point for each copyup; ``every`` are the spans that share the scale and the legend."""
    low, high, _ = size_ends(every)
    shown = sample(frame)
    many, few = len(shown) > _VECTOR_POINTS, len(shown) < 200
    for how, colour in (HOW_COLOURS | {_UNTOLD: MUTED}).items():
        if not _went(every, how).any():
            continue
        part = shown[_went(shown, how)]
        size = part["size"].to_numpy(dtype=float)
        axes.scatter(
            np.where(size > 0, size, empty_at(low, high)),
            nanoseconds(part["dur"]),
            s=7 if many else 24 if few else 11,
            color=colour,
            alpha=0.35 if many else 0.8 if few else 0.55,
            linewidths=0,
            rasterized=many,
        )
        axes.scatter([], [], s=26, color=colour, linewidths=0, label=how)


def _went(frame: Frame, how: str) -> npt.NDArray[np.bool_]:
    """Which spans' data went up like this."""
    told = frame["how"]
    return np.asarray(told.isna() if how == _UNTOLD else told == how, dtype=bool)


def points_shown(frame: Frame) -> int:
    """How many copyups of ``frame`` a cloud of points shows."""
    return len(sample(frame))


def sample(frame: Frame, most: int = _MOST_POINTS) -> Frame:
    """At most a drawable number of spans, evenly chosen, the slowest always among them."""
    if len(frame) <= most:
        return frame
    step = -(-len(frame) // most)
    keep = np.zeros(len(frame), bool)
    keep[::step] = True
    keep[np.argpartition(frame["dur"].to_numpy(), -1000)[-1000:]] = True
    return frame[keep]


def phase_lines(axes: Axes, frame: Frame) -> float:
    """Medians by power of two of the size; what never happens at a size is not drawn.

    Returns the lowest median drawn (ns), infinity without any.
    """
    size = frame["size"].to_numpy(dtype=float)
    least, most, _ = size_ends(frame)
    nowhere = empty_at(least, most)
    place = np.where(size > 0, 2.0 ** np.round(np.log2(np.maximum(size, 1))), nowhere)
    lowest = np.inf
    for phase, colour in PHASE_COLOURS.items():
        if phase not in PHASES:
            continue
        values = nanoseconds(frame[phase])
        told = np.isfinite(values)
        median = pd.Series(values[told]).groupby(place[told]).median()
        median = median[median >= _NOTICEABLE]
        if median.empty:
            continue
        lowest = min(lowest, float(median.min()))
        line = median[median.index > nowhere]
        axes.plot(line.index, line, color=colour, linewidth=1.6, label=phase)
        axes.plot(median.index, median, "o", color=colour, markersize=3.4)
    if np.isfinite(lowest):
        axes.legend(loc="upper left", ncols=2, columnspacing=1, handlelength=1.4)
    else:
        words = "no phase was told"
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", color=MUTED)
    return lowest


def ecdf(axes: Axes, frame: Frame, key: str, most: int) -> None:
    column = stats.KEYS[key](frame, 2)
    counts = column.value_counts()
    counts = counts[counts > 0]
    dur = nanoseconds(frame["dur"])
    share = np.linspace(0, 1, 400)
    for number, name in enumerate(counts.index[:most]):
        mine = dur[(column == name).to_numpy()]
        axes.step(
            np.quantile(mine, share) if len(mine) > len(share) else np.sort(mine),
            share if len(mine) > len(share) else np.arange(1, len(mine) + 1) / len(mine),
            where="post",
            color=SERIES[number],
            linewidth=1.6,
            label=f"{label(name, 18)}  ({len(mine):,})",
        )
    if len(counts) > 1:
        axes.plot(
            np.quantile(dur, share), share, color=INK, linewidth=1, dashes=(4, 2), label="all"
        )
    axes.legend(loc="lower right", handlelength=1.5)


def phase_times(frame: Frame) -> Frame:
    """Nanoseconds by size class (rows) and phase (columns), for spans that tell any phase.

    What a span does not tell stays in ``other``, with what lies between phases.
    """
    told = frame[frame[list(PHASES)].notna().any(axis=1)]
    times = pd.DataFrame({name: nanoseconds(told[name]) for name in PHASES}).fillna(0.0)
    times["other"] = np.maximum(nanoseconds(told["dur"]) - times.sum(axis=1), 0)
    sizes = stats.size_class(told["size"].reset_index(drop=True))
    return times.groupby(sizes, observed=True).sum()


def stack(axes: Axes, table: Frame) -> None:
    left = np.zeros(len(table))
    places = np.arange(len(table))
    for phase, colour in PHASE_COLOURS.items():
        values = table[phase].to_numpy()
        axes.barh(places, values, 0.74, left=left, color=colour, linewidth=0, label=phase)
        left += values
    axes.set_yticks(places, [str(name) for name in table.index])
    axes.set_ylim(len(table) - 0.4, -0.6)
    tidy(axes, grid="x")


def bars(axes: Axes, table: Frame, width: int, rows: int = 0) -> None:
    times = nanoseconds(table["time"])
    places = np.arange(len(table))
    axes.barh(places, times, 0.7, color=SERIES[0], linewidth=0)
    names = ["(unknown)" if pd.isna(name) else label(name, width) for name in table.index]
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(max(len(table), rows) - 0.4, -0.6)
    counts, moved = table["spans"].tolist(), table["bytes"].tolist()
    for place, (time, count, size) in enumerate(zip(times, counts, moved, strict=True)):
        spans = f", {count:,}×" if count > 1 else ""
        beside(axes, time, place, f"{human_time(time)}{spans}, {human_bytes(size)}")
    axes.set_xlim(0, max(times.max(), 1) * (1.55 if width < 40 else 1.3))
    linear_time_axis(axes)
    tidy(axes, grid="x")


def beside(axes: Axes, at: float, place: int, text: str) -> None:
    """Write ``text`` next to the end of a bar."""
    axes.annotate(
        text,
        (at, place),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        color=MUTED,
        fontsize=8.5,
    )
