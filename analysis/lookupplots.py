"""A picture of lookups: how they came out, how many layers were asked for it, and how long."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from analysis.lookups import Counted
from analysis.style import INK, MUTED, SERIES, figure, styled, tidy, time_axis
from analysis.units import human_time, label
from tracer.histogram import Histogram

__all__ = ["outcomes"]

#: Found, not there, failed: each panel has its title, colour only groups them.
_COLOURS = {
    **dict.fromkeys(("top", "bottom", "merged"), SERIES[0]),
    **dict.fromkeys(("whiteout", "opaque", "absent"), SERIES[5]),
}
#: More numbers of layers than this in a panel are not all marked.
_MARKS = 8


@styled
def outcomes(found: Sequence[Counted]) -> Figure:
    """A column for each outcome: above, how many lookups asked how many layers, and what they
    took in all; below, how long one took: the median, and from the 5th to the 95th percentile."""
    mine: dict[str, dict[int, Histogram]] = {}
    for one in found:
        if one.kind == "lookup":
            layers = mine.setdefault(one.outcome, {})
            layers.setdefault(one.layers, Histogram()).merge(one.times)
    across = max(len(mine), 1)
    made = figure(11.6, 4.8)
    grid = made.subplots(2, across, sharey="row", squeeze=False, height_ratios=(1, 1))
    if not mine:
        for axes in grid.flat:
            axes.set_axis_off()
        grid[0][0].text(0, 0.5, "no lookups were counted", color=MUTED)
        return made
    every = [times for layers in mine.values() for times in layers.values()]
    most = max(times.total for times in every)
    ends = [times.quantile(at) for times in every for at in (0.05, 0.95)]
    for number, (outcome, layers) in enumerate(mine.items()):
        colour = _COLOURS.get(outcome, MUTED)
        above, below = grid[0][number], grid[1][number]
        total = sum(times.total for times in layers.values())
        above.set_title(f"{label(outcome, 14)}  {total:,}")
        _counts(above, layers, colour, most)
        _times(below, layers, colour)
        time_axis(below, "y", max(min(ends), 1), max(ends))
        for axes in (above, below):
            _layers_axis(axes, sorted(layers))
            tidy(axes, grid="y")
    grid[0][0].set_ylabel("lookups")
    grid[1][0].set_ylabel("time of one lookup")
    made.supxlabel("layers that were asked for the name", fontsize=9.5, color=MUTED)
    return made


def _counts(axes: Axes, layers: dict[int, Histogram], colour: str, most: int) -> None:
    for place, number in enumerate(sorted(layers)):
        times = layers[number]
        axes.bar(place, times.total, 0.7, color=colour, linewidth=0)
        if len(layers) <= _MARKS:
            axes.annotate(
                human_time(times.sum),
                (place, times.total),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                color=INK,
                fontsize=8,
            )
    axes.set_ylim(0, most * 1.16)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _times(axes: Axes, layers: dict[int, Histogram], colour: str) -> None:
    places = np.arange(len(layers))
    low, middle, high = (
        [max(layers[number].quantile(at), 1) for number in sorted(layers)]
        for at in (0.05, 0.5, 0.95)
    )
    axes.vlines(places, low, high, color=colour, linewidth=3, alpha=0.5)
    axes.plot(places, middle, "o", color=colour, markersize=5)


def _layers_axis(axes: Axes, numbers: list[int]) -> None:
    step = -(-len(numbers) // _MARKS)
    shown = range(0, len(numbers), step)
    axes.xaxis.set_major_locator(FixedLocator(list(shown)))
    axes.set_xticklabels([f"{numbers[place]}" for place in shown])
    axes.set_xlim(-0.8, len(numbers) - 0.2)
