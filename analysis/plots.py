"""Pictures of copyups: each function takes spans and returns a matplotlib figure.

``style.svg(figure, …)`` puts one into a page, ``style.png(figure)`` makes a file.  Spans
without any data still give a figure, which says so.  Widths suit 1200 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis import stats
from analysis.panels import (
    bars,
    beside,
    ecdf,
    nanoseconds,
    nothing,
    phase_lines,
    phase_times,
    scatter,
    size_scale,
    stack,
    time_ends,
)
from analysis.style import (
    GRID,
    SERIES,
    bytes_axis,
    figure,
    linear_time_axis,
    styled,
    tidy,
    time_axis,
)
from analysis.units import human_time, label

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

WIDTH = 11.6


@styled
def latency(frame: Frame) -> Figure:
    """Time against file size on logarithmic axes, and the median of each phase by size."""
    made = figure(WIDTH, 4.5)
    left, right = made.subplots(1, 2, width_ratios=(1.25, 1), sharey=True)
    left.set_title("Each copyup")
    right.set_title("Median of each phase")
    left.set_ylabel("time")
    if nothing(left, frame) or nothing(right, frame):
        return made
    scatter(left, frame, frame)
    left.legend(loc="upper left", handletextpad=0.1)
    low, high = time_ends(frame)
    low = min(low, phase_lines(right, frame))
    for axes in (left, right):
        size_scale(axes, frame)
        time_axis(axes, "y", low, high)
        tidy(axes)
        axes.set_xlabel("file size")
    return made


@styled
def distribution(frame: Frame, by: tuple[str, str] = ("op", "process"), most: int = 5) -> Figure:
    """What share of copyups took at most how long, by two groupings side by side."""
    made = figure(WIDTH, 3.9)
    names = {"op": "By system call", "process": "By process", "run": "By run"}
    for axes, key in zip(made.subplots(1, 2, sharey=True), by, strict=True):
        axes.set_title(names.get(key, f"By {key}"))
        if nothing(axes, frame):
            continue
        ecdf(axes, frame, key, most)
        time_axis(axes, "x", *time_ends(frame))
        axes.set_ylim(0, 1.02)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 1.0], ["0%", "25%", "50%", "75%", "90%", "100%"])
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
    if sum(nothing(axes, frame) for axes in (rate, flow, time)):
        return made
    steps = stats.timeline(frame, bins)
    width = steps.attrs["step"] / pd.Timedelta(seconds=1)
    edges = np.arange(len(steps) + 1) * width * 1e9
    for axes, name, colour in ((rate, "spans", SERIES[0]), (flow, "bytes", SERIES[2])):
        axes.stairs(steps[name] / width, edges, fill=True, color=colour)
        axes.set_ylim(bottom=0)
    rate.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    rate.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    bytes_axis(flow, float(steps["bytes"].max()) / width)
    busy = steps["spans"].to_numpy() > 0
    middle = (edges[:-1] + width * 5e8)[busy]
    p50, p99, longest = (nanoseconds(steps[name])[busy] for name in ("p50", "p99", "max"))
    time.vlines(middle, p50, longest, color=GRID, linewidth=1.2)
    time.plot(middle, longest, ".", color=SERIES[5], markersize=4, label="longest")
    time.plot(middle, p99, "_", color=SERIES[1], markersize=6, label="99th percentile")
    time.plot(middle, p50, ".", color=SERIES[0], markersize=5, label="median")
    time_axis(time, "y", float(p50.min()), float(longest.max()))
    time.legend(loc="upper right", bbox_to_anchor=(1, 1.2), ncols=3)
    for axes in (rate, flow, time):
        tidy(axes, grid="y")
    time.set_xlim(0, edges[-1])
    linear_time_axis(time, count=8)
    time.set_xlabel("since the first copyup")
    return made


@styled
def phase_bars(frame: Frame) -> Figure:
    """By size class: how the time divides into phases, and how much time it is."""
    classes = phase_times(frame)
    made = figure(WIDTH, 1.5 + 0.33 * max(len(classes), 2))
    share, whole = made.subplots(1, 2, sharey=True, width_ratios=(1.7, 1))
    share.set_title("Share of each phase")
    whole.set_title("Time in all copyups of that size")
    if nothing(share, classes) or nothing(whole, classes):
        return made
    total = classes.sum(axis=1)
    stack(share, classes.div(total.where(total > 0, 1), axis=0))
    stack(whole, classes)
    for place, value in enumerate(total):
        beside(whole, value, place, human_time(value))
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
    rows = max(3, *(len(table) for table in tables.values()))
    made = figure(WIDTH, 1.2 + 0.3 * rows)
    for axes, (title, table) in zip(made.subplots(1, 2), tables.items(), strict=True):
        axes.set_title(f"{title} by time in copyup")
        if not nothing(axes, table):
            bars(axes, table, width=28, rows=rows)
    return made


@styled
def top_files(frame: Frame, count: int = 10) -> Figure:
    """The files on which most time went, with their bytes."""
    table = stats.top_files(frame, count)
    made = figure(WIDTH, 1.2 + 0.3 * max(len(table), 3))
    axes = made.subplots()
    axes.set_title("Files by time in copyup")
    if not nothing(axes, table):
        bars(axes, table, width=64)
    return made


@styled
def compare(runs: Mapping[str, Frame]) -> Figure:
    """Runs next to each other on the same scales: each copyup, and the time by phase and size."""
    made = figure(WIDTH, 7.2)
    grid = made.subplots(2, len(runs), sharex="row", sharey="row", squeeze=False)
    every = pd.concat(list(runs.values()))
    classes = {name: phase_times(frame) for name, frame in runs.items()}
    shown = [
        one for one in stats.SIZE_CLASSES if any(one in table.index for table in classes.values())
    ]
    for (name, frame), upper, lower in zip(runs.items(), grid[0], grid[1], strict=True):
        upper.set_title(label(name, 40))
        total = pd.Timedelta(frame["dur"].sum())
        lower.set_title(f"{human_time(total.value)} in {len(frame):,} copyups")
        if nothing(upper, every) or nothing(lower, every):
            continue
        scatter(upper, frame, every)
        if upper is grid[0][0]:
            upper.legend(loc="upper left", handletextpad=0.1)
        size_scale(upper, every)
        time_axis(upper, "y", *time_ends(every))
        tidy(upper).set_xlabel("file size")
        stack(lower, classes[name].reindex(shown).fillna(0.0))
        linear_time_axis(lower)
        lower.set_xlabel("time in all copyups of that size")
    grid[0][0].set_ylabel("time of one copyup")
    grid[1][0].set_ylabel("file size")
    handles, names = grid[1][0].get_legend_handles_labels()
    if handles:
        made.legend(handles, names, loc="outside lower center", ncols=len(names))
    return made
