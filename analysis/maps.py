"""Pictures that fill an area: latency over time as a heat map, bytes by directory as an icicle."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis import stats
from analysis.panels import nanoseconds, nothing, scatter, size_scale, time_ends
from analysis.style import MUTED, figure, linear_time_axis, styled, tidy, time_axis
from analysis.units import label
from overlay.text import human_bytes

__all__ = ["Cell", "directory_tree", "heat_map", "icicle", "multiples"]

Frame = pd.DataFrame

#: Rectangles narrower than this share of the width are left blank.
_NARROW = 0.004
#: One hue, from light to dark: readable without colour.
_SHADES = ("#deebf7", "#c6dbef", "#9ecae1", "#6baed6", "#4292c6", "#2171b5")

#: Marks of a logarithmic scale of counts.
_ROUND = tuple(digit * 10**power for power in range(8) for digit in (1, 2, 5))

Cell = tuple[str, int, float, float, int]


@styled
def heat_map(frame: Frame, columns: int = 100, rows: int = 36) -> Figure:
    """How many copyups took how long, over the time of the run."""
    made = figure(11.6, 3.8)
    axes = made.subplots()
    axes.set_title("Copyups by time and latency")
    if nothing(axes, frame):
        return made
    start = frame["ts"].dt.as_unit("ns").astype("int64").to_numpy()
    since = (start - start.min()).astype(float)
    dur = np.maximum(nanoseconds(frame["dur"]), 1)
    low, high = time_ends(frame)
    high = max(high, low * 1.01)
    across = np.linspace(0, max(since.max(), 1), columns + 1)
    up = np.geomspace(low, high, rows + 1)
    counts, _, _ = np.histogram2d(since, np.clip(dur, low, high), [across, up])
    drawn = axes.pcolormesh(
        across,
        up,
        np.where(counts > 0, counts, np.nan).T,
        cmap="cividis_r",
        norm=LogNorm(1, max(counts.max(), 2)),
        rasterized=True,
    )
    bar = made.colorbar(drawn, ax=axes, pad=0.01, aspect=30)
    bar.set_label("copyups")
    bar.outline.set_visible(False)
    most = max(int(counts.max()), 2)
    bar.set_ticks([one for one in _ROUND if one <= most])
    bar.set_ticklabels([f"{one:,}" for one in _ROUND if one <= most])
    bar.minorticks_off()
    time_axis(axes, "y", low, high)
    tidy(axes, grid="y").set_ylabel("time of one copyup")
    axes.set_xlim(0, across[-1])
    linear_time_axis(axes, count=8)
    axes.set_xlabel("since the first copyup")
    return made


def directory_tree(frame: Frame, depth: int = 4) -> list[Cell]:
    """Bytes copied up by directory as nested intervals: path, level from 0, start and end between
    0 and 1, bytes.  A directory holds its subdirectories, largest first; "/" is all."""
    path = frame["path"]
    moved = pd.Series(stats.bytes_moved(frame)[path.notna().to_numpy()])
    deepest = stats.directory(path[path.notna()].reset_index(drop=True), depth)
    leaves = moved.groupby(deepest.astype(object)).sum()
    sizes: dict[str, int] = {}
    for name, size in leaves.items():
        parts = [part for part in str(name).split("/") if part]
        for level in range(len(parts) + 1):
            place = "/" + "/".join(parts[:level])
            sizes[place] = sizes.get(place, 0) + int(size)
    whole = sizes.get("/", 0)
    if not whole:
        return []
    children: dict[str, list[str]] = {}
    for place in sizes:
        if place != "/":
            children.setdefault(place.rpartition("/")[0] or "/", []).append(place)
    found: list[Cell] = []
    pending = [("/", 0, 0.0)]
    while pending:
        place, level, at = pending.pop()
        found.append((place, level, at, at + sizes[place] / whole, sizes[place]))
        for child in sorted(children.get(place, ()), key=lambda one: -sizes[one]):
            pending.append((child, level + 1, at))
            at += sizes[child] / whole
    return found


@styled
def icicle(frame: Frame, depth: int = 4) -> Figure:
    """Bytes copied up by directory: each row one level deeper, widths in proportion."""
    cells = directory_tree(frame, depth)
    levels = max((cell[1] for cell in cells), default=0) + 1
    made = figure(11.6, 0.8 + 0.42 * max(levels, 3))
    axes = made.subplots()
    axes.set_title("Data copied, by directory")
    if nothing(axes, frame.head(len(cells))):
        return made
    for place, level, start, end, size in cells:
        _cell(axes, place, level, start, end, size)
    axes.set_xlim(0, 1)
    axes.set_ylim(levels, 0)
    axes.set_axis_off()
    return made


def _cell(axes: Axes, place: str, level: int, start: float, end: float, size: int) -> None:
    width = end - start
    if width < _NARROW:
        return
    shade = _SHADES[min(level, len(_SHADES) - 1)]
    axes.add_patch(Rectangle((start, level), width, 0.94, facecolor=shade, edgecolor="white"))
    letters = int(width * 165)  # of this size in the width of the picture
    name = place if level == 0 else place.rpartition("/")[2]
    text = f"{label(name, 60)}  {human_bytes(size)}"
    if len(text) > letters:
        text = label(name, max(letters - 1, 4)) if letters > 5 else ""
    colour = "#ffffff" if level >= 4 else "#1b1f24"
    axes.text(start + 0.003, level + 0.47, text, va="center", fontsize=8.5, color=colour)


@styled
def multiples(frame: Frame, key: str = "process", most: int = 8) -> Figure:
    """Time against size, one small picture for each of the groups with most time."""
    column = stats.KEYS[key](frame, 2)
    names = list(stats.summarise(frame, key).index[:most]) if len(frame) else []
    across = min(max(len(names), 1), 4)
    down = -(-max(len(names), 1) // across)
    made = figure(11.6, 2.5 * down + 0.4)
    grid = made.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(names):
            axes.set_axis_off() if names else nothing(axes, frame)
            continue
        name = names[number]
        mine = (column.isna() if pd.isna(name) else column == name).to_numpy()
        title = "(unknown)" if pd.isna(name) else label(name, 26)
        axes.set_title(f"{title}  {mine.sum():,}")
        scatter(axes, frame[mine], frame)
        size_scale(axes, frame)
        axes.tick_params(axis="x", labelrotation=45, labelsize=8)
        time_axis(axes, "y", *time_ends(frame))
        tidy(axes)
        axes.tick_params(labelbottom=number + across >= len(names))
        if number % across == 0:
            axes.set_ylabel("time")
    if names:
        handles, texts = grid[0][0].get_legend_handles_labels()
        made.legend(handles, texts, loc="outside upper right", ncols=len(texts))
    made.supxlabel("file size", fontsize=9.5, color=MUTED)
    return made
