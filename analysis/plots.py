"""Pictures of copyups: each function takes spans and returns a matplotlib figure.

``style.svg(figure, …)`` puts one into a page, ``style.png(figure)`` makes a file.  Spans
without any data still give a figure, which says so.  Widths suit 1200 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis import stats
from analysis.style import (
    GRID,
    HOW_COLOURS,
    INK,
    MUTED,
    PHASE_COLOURS,
    SERIES,
    bytes_axis,
    empty_at,
    figure,
    human_time,
    label,
    linear_time_axis,
    size_axis,
    styled,
    tidy,
    time_axis,
)
from overlay.text import human_bytes
from tracer.schema import PHASES

__all__ = [
    "compare",
    "distribution",
    "latency",
    "phase_bars",
    "timeline",
    "top_files",
    "top_groups",
]

Frame = pd.DataFrame
Floats = npt.NDArray[np.float64]

WIDTH = 11.6
#: More points than this become one embedded image: an SVG of a million circles opens nowhere.
_VECTOR_POINTS = 1_500
#: More than this are sampled; the slowest are always kept.
_MOST_POINTS = 60_000
#: Medians below this (ns) are not drawn: they would only stretch the axis.
_NOTICEABLE = 300.0


@styled
def latency(frame: Frame) -> Figure:
    """Time against file size on logarithmic axes, and the median of each phase by size."""
    made = figure(WIDTH, 4.5)
    left, right = made.subplots(1, 2, width_ratios=(1.25, 1), sharey=True)
    left.set_title("Each copyup")
    right.set_title("Median of each phase")
    left.set_ylabel("time")
    if _nothing(left, frame) or _nothing(right, frame):
        return made
    _scatter(left, frame, frame)
    left.legend(loc="upper left", handletextpad=0.1)
    low, high = _time_ends(frame)
    low = min(low, _phase_lines(right, frame))
    for axes in (left, right):
        _size_scale(axes, frame)
        time_axis(axes, "y", low, high)
        tidy(axes)
        axes.set_xlabel("file size")
    return made


@styled
def distribution(frame: Frame, by: tuple[str, str] = ("op", "process"), most: int = 5) -> Figure:
    """What share of copyups took at most how long, by two groupings side by side."""
    made = figure(WIDTH, 3.9)
    names = {"op": "by system call", "process": "by process", "run": "by run"}
    for axes, key in zip(made.subplots(1, 2, sharey=True), by, strict=True):
        axes.set_title(f"Distribution {names.get(key, f'by {key}')}")
        if _nothing(axes, frame):
            continue
        _ecdf(axes, frame, key, most)
        time_axis(axes, "x", *_time_ends(frame))
        axes.set_ylim(0, 1.02)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 1.0], ["0", "25", "50", "75", "90", "100 %"])
        tidy(axes).set_xlabel("time of one copyup")
        if key == by[0]:
            axes.set_ylabel("share of copyups that took no longer")
    return made


@styled
def timeline(frame: Frame, bins: int = 120) -> Figure:
    """Copyups and bytes per second, and their latency, over the time of the run."""
    made = figure(WIDTH, 5.2)
    rate, flow, time = made.subplots(3, 1, sharex=True, height_ratios=(1, 1, 1.25))
    rate.set_title("Copyups per second")
    flow.set_title("Data copied per second")
    time.set_title("Time of one copyup: median, 99th percentile, longest")
    if sum(_nothing(axes, frame) for axes in (rate, flow, time)):
        return made
    steps = stats.timeline(frame, bins)
    width = steps.attrs["step"] / pd.Timedelta(seconds=1)
    at = np.arange(len(steps)) * width * 1e9
    for axes, name, colour in ((rate, "spans", SERIES[0]), (flow, "bytes", SERIES[2])):
        axes.bar(at, steps[name] / width, width * 1e9, align="edge", color=colour, linewidth=0)
    rate.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    rate.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    bytes_axis(flow, float(steps["bytes"].max()) / width)
    busy = steps["spans"].to_numpy() > 0
    middle = (at + width * 5e8)[busy]
    p50, p99, longest = (_ns(steps[name])[busy] for name in ("p50", "p99", "max"))
    time.vlines(middle, p50, longest, color=GRID, linewidth=1.2)
    time.plot(middle, longest, ".", color=SERIES[5], markersize=4, label="longest")
    time.plot(middle, p99, "_", color=SERIES[1], markersize=6, label="99th percentile")
    time.plot(middle, p50, ".", color=SERIES[0], markersize=5, label="median")
    time_axis(time, "y", float(p50.min()), float(longest.max()))
    time.legend(loc="upper right", bbox_to_anchor=(1, 1.2), ncols=3)
    for axes in (rate, flow, time):
        tidy(axes, grid="y")
    time.set_xlim(0, width * 1e9 * len(steps))
    linear_time_axis(time, count=8)
    time.set_xlabel("since the first copyup")
    return made


@styled
def phase_bars(frame: Frame) -> Figure:
    """By size class: how the time divides into phases, and how much time it is."""
    classes = _phase_times(frame)
    made = figure(WIDTH, 1.5 + 0.33 * max(len(classes), 2))
    share, whole = made.subplots(1, 2, sharey=True, width_ratios=(1.7, 1))
    share.set_title("Share of each phase")
    whole.set_title("Time in all copyups of that size")
    if _nothing(share, classes) or _nothing(whole, classes):
        return made
    total = classes.sum(axis=1)
    _stack(share, classes.div(total.where(total > 0, 1), axis=0))
    _stack(whole, classes)
    for place, value in enumerate(total):
        whole.annotate(
            f" {human_time(value)}", (value, place), va="center", color=MUTED, fontsize=8.5
        )
    whole.set_xlim(0, float(total.max()) * 1.18 or 1)
    share.set_xlim(0, 1)
    share.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    linear_time_axis(whole)
    share.set_ylabel("file size")
    handles, names = share.get_legend_handles_labels()
    made.legend(handles, names, loc="outside upper right", ncols=len(names))
    return made


@styled
def top_groups(frame: Frame, count: int = 10, depth: int = 2) -> Figure:
    """The processes and the directories on which most time went, side by side."""
    tables = {
        "Processes": stats.summarise(frame, "process").head(count),
        "Directories": stats.summarise(frame, "directory", depth=depth).head(count),
    }
    made = figure(WIDTH, 1.2 + 0.3 * max([len(table) for table in tables.values()] + [3]))
    for axes, (title, table) in zip(made.subplots(1, 2), tables.items(), strict=True):
        axes.set_title(f"{title} by time in copyup")
        if not _nothing(axes, table):
            _bars(axes, table, width=28)
    return made


@styled
def top_files(frame: Frame, count: int = 10) -> Figure:
    """The files on which most time went, with their bytes."""
    table = stats.top_files(frame, count)
    made = figure(WIDTH, 1.2 + 0.3 * max(len(table), 3))
    axes = made.subplots()
    axes.set_title("Files by time in copyup")
    if not _nothing(axes, table):
        _bars(axes, table, width=64)
    return made


@styled
def compare(runs: Mapping[str, Frame]) -> Figure:
    """Runs next to each other on the same scales: each copyup, and the time by phase and size."""
    made = figure(WIDTH, 7.2)
    grid = made.subplots(2, len(runs), sharex="row", sharey="row", squeeze=False)
    every = pd.concat(list(runs.values()))
    classes = {name: _phase_times(frame) for name, frame in runs.items()}
    shown = [
        one for one in stats.SIZE_CLASSES if any(one in table.index for table in classes.values())
    ]
    for (name, frame), upper, lower in zip(runs.items(), grid[0], grid[1], strict=True):
        upper.set_title(label(name, 40))
        total = pd.Timedelta(frame["dur"].sum())
        lower.set_title(f"{human_time(total.value)} in {len(frame):,} copyups")
        if _nothing(upper, every) or _nothing(lower, every):
            continue
        _scatter(upper, frame, every)
        if upper is grid[0][0]:
            upper.legend(loc="upper left", handletextpad=0.1)
        _size_scale(upper, every)
        time_axis(upper, "y", *_time_ends(every))
        tidy(upper).set_xlabel("file size")
        _stack(lower, classes[name].reindex(shown).fillna(0.0))
        linear_time_axis(lower)
        lower.set_xlabel("time in all copyups of that size")
    grid[0][0].set_ylabel("time of one copyup")
    grid[1][0].set_ylabel("file size")
    handles, names = grid[1][0].get_legend_handles_labels()
    if handles:
        made.legend(handles, names, loc="outside lower center", ncols=len(names))
    return made


# Parts of pictures.


def _nothing(axes: Axes, frame: Frame) -> bool:
    """Say so in ``axes`` when there is nothing to draw."""
    if len(frame):
        return False
    axes.text(0.5, 0.5, "nothing recorded", ha="center", va="center", color=MUTED)
    axes.set_xticks([])
    axes.set_yticks([])
    tidy(axes).grid(False)
    return True


def _ns(column: pd.Series[pd.Timedelta]) -> Floats:
    """Durations as float nanoseconds, NaN where there is none."""
    return np.asarray(column / pd.Timedelta(1, unit="ns"), dtype=np.float64)


def _time_ends(frame: Frame) -> tuple[float, float]:
    dur = _ns(frame["dur"])
    return float(np.quantile(dur, 0.001)), float(dur.max())


def _size_ends(frame: Frame) -> tuple[float, float, bool]:
    size = frame["size"].to_numpy()
    some = size[size > 0]
    return (
        float(some.min()) if len(some) else 1.0,
        float(some.max()) if len(some) else 4096.0,
        len(some) < len(size),
    )


def _size_scale(axes: Axes, frame: Frame) -> None:
    low, high, empty = _size_ends(frame)
    size_axis(axes, low, high, empty=empty)


def _scatter(axes: Axes, frame: Frame, every: Frame) -> None:
    """A point for each copyup; ``every`` are the spans that share the scale and the legend."""
    low, high, _ = _size_ends(every)
    shown = _sample(frame)
    many = len(shown) > _VECTOR_POINTS
    for how, colour in HOW_COLOURS.items():
        if not (every["how"] == how).any():
            continue
        part = shown[(shown["how"] == how).to_numpy()]
        size = part["size"].to_numpy(dtype=float)
        axes.scatter(
            np.where(size > 0, size, empty_at(low, high)),
            _ns(part["dur"]),
            s=7 if many else 11,
            color=colour,
            alpha=0.35 if many else 0.55,
            linewidths=0,
            rasterized=many,
        )
        axes.scatter([], [], s=26, color=colour, linewidths=0, label=how)


def _sample(frame: Frame) -> Frame:
    if len(frame) <= _MOST_POINTS:
        return frame
    step = -(-len(frame) // _MOST_POINTS)
    keep = np.zeros(len(frame), bool)
    keep[::step] = True
    keep[np.argpartition(frame["dur"].to_numpy(), -1000)[-1000:]] = True
    return frame[keep]


def _phase_lines(axes: Axes, frame: Frame) -> float:
    """Medians by power of two of the size; what never happens at a size is not drawn.

    Returns the lowest median drawn (ns), infinity without any.
    """
    size = frame["size"].to_numpy(dtype=float)
    least, most, _ = _size_ends(frame)
    nowhere = empty_at(least, most)
    place = np.where(size > 0, 2.0 ** np.round(np.log2(np.maximum(size, 1))), nowhere)
    lowest = np.inf
    for phase, colour in PHASE_COLOURS.items():
        if phase not in PHASES:
            continue
        values = _ns(frame[phase])
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


def _ecdf(axes: Axes, frame: Frame, key: str, most: int) -> None:
    column = stats.KEYS[key](frame, 2)
    counts = column.value_counts()
    counts = counts[counts > 0]
    dur = _ns(frame["dur"])
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


def _phase_times(frame: Frame) -> Frame:
    """Nanoseconds by size class (rows) and phase (columns), for spans that tell any phase.

    What a span does not tell stays in ``other``, with what lies between phases.
    """
    told = frame[frame[list(PHASES)].notna().any(axis=1)]
    times = pd.DataFrame({name: _ns(told[name]) for name in PHASES}).fillna(0.0)
    times["other"] = np.maximum(_ns(told["dur"]) - times.sum(axis=1), 0)
    sizes = stats.size_class(told["size"].reset_index(drop=True))
    return times.groupby(sizes, observed=True).sum()


def _stack(axes: Axes, table: Frame) -> None:
    left = np.zeros(len(table))
    places = np.arange(len(table))
    for phase, colour in PHASE_COLOURS.items():
        values = table[phase].to_numpy()
        axes.barh(places, values, 0.74, left=left, color=colour, linewidth=0, label=phase)
        left += values
    axes.set_yticks(places, [str(name) for name in table.index])
    axes.set_ylim(len(table) - 0.4, -0.6)
    tidy(axes, grid="x")


def _bars(axes: Axes, table: Frame, width: int) -> None:
    times = _ns(table["time"])
    places = np.arange(len(table))
    axes.barh(places, times, 0.7, color=SERIES[0], linewidth=0)
    names = ["(unknown)" if pd.isna(name) else label(name, width) for name in table.index]
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(table) - 0.4, -0.6)
    counts, moved = table["spans"].tolist(), table["bytes"].tolist()
    for place, (time, count, size) in enumerate(zip(times, counts, moved, strict=True)):
        spans = f", {count:,}×" if count > 1 else ""
        axes.annotate(
            f" {human_time(time)}{spans}, {human_bytes(size)}",
            (time, place),
            va="center",
            color=MUTED,
            fontsize=8.5,
        )
    axes.set_xlim(0, max(times.max(), 1) * (1.55 if width < 40 else 1.3))
    linear_time_axis(axes)
    tidy(axes, grid="x")
