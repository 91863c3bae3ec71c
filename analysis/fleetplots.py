"""Pictures of surveys: each host's latencies beside the others', and what changed on which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, PercentFormatter

from analysis import fleet
from analysis.order import Floats
from analysis.panels import bars
from analysis.sketch import Sketch
from analysis.style import GRID, INK, MUTED, SERIES, figure, styled, tidy, time_axis
from analysis.survey import Survey
from analysis.units import label

__all__ = ["groups", "ratios"]

_BINS = 90
#: A verdict's colour and marker: told apart by either.
_VERDICTS = {
    "slower": (SERIES[5], "^"),
    "faster": (SERIES[0], "v"),
    "same": (MUTED, "o"),
    "unsure": (MUTED, "x"),
}


@styled
def groups(survey: Survey, by: str | Sequence[str] = "host", most: int = 40) -> Figure:
    """How long copyups took in each group, one row each, and how much time that was in all; the
    ``most`` groups with most time, by their medians."""
    found = survey.summarise(by).head(most).sort_values("p50", ascending=False, kind="stable")
    made = figure(11.6, 1.3 + 0.27 * max(len(found), 4))
    left, right = made.subplots(1, 2, width_ratios=(2, 1), sharey=True)
    left.set_title("How long a copyup took")
    right.set_title("Time in all, copyups, data")
    if found.empty:
        left.text(0.5, 0.5, "no copyups", transform=left.transAxes, ha="center", color=MUTED)
        return made
    tally = survey.tally(by)
    assert isinstance(tally.durations, Sketch)  # as surveys have them
    sketch, places = tally.durations, tally.index.get_indexer_for(found.index)
    histograms = [sketch.histogram(int(place)) for place in places]
    low = max(min(float(values[0]) for values, _ in histograms), 1.0)
    high = float(found["max"].max().value)
    edges = np.geomspace(low, max(high, low * 2), _BINS + 1)
    shares = np.array([_shares(values, counts, edges) for values, counts in histograms])
    drawn = left.pcolormesh(
        edges,
        np.arange(len(found) + 1) - 0.5,
        np.where(shares > 0, shares, np.nan),
        cmap="cividis_r",
        vmin=0,
        rasterized=True,
    )
    bar = made.colorbar(drawn, ax=left, pad=0.01, aspect=30)
    bar.set_label("share of the row's copyups")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bar.outline.set_visible(False)
    for name, marker in (("p50", "|"), ("p99", "D")):
        at = found[name].astype("int64").to_numpy()
        left.scatter(
            at,
            range(len(found)),
            s=110 if marker == "|" else 16,
            color=SERIES[5],
            marker=marker,
            linewidths=1.8,
            label=name,
        )
    left.legend(loc="upper right", ncols=2)
    time_axis(left, "x", low, high)
    left.set_xlabel("time of one copyup")
    bars(right, found, 30)
    right.set_xlabel("time")
    left.set_yticks(range(len(found)), [_name(one) for one in found.index])
    left.tick_params(axis="y", labelcolor=INK, labelleft=True)
    tidy(left, grid="x")
    return made


@styled
def ratios(
    before: Survey, after: Survey, by: str | Sequence[str] = "host", most: int = 40
) -> Figure:
    """Typical times of two surveys by group, after to before, with 95 % intervals: what surely
    got slower stands first."""
    table = fleet.ratios(before, after, by)
    found = table[table["ratio"].notna()].head(most)
    made = figure(11.6, 1.3 + 0.27 * max(len(found), 4))
    axes = made.subplots()
    axes.set_title("Median copyup, after to before")
    if found.empty:
        axes.text(0.5, 0.5, "nothing to compare", transform=axes.transAxes, ha="center")
        return made
    axes.axvline(1, color=INK, linewidth=1)
    rows = np.arange(len(found))
    for verdict, (colour, marker) in _VERDICTS.items():
        mine = (found["verdict"] == verdict).to_numpy()
        if mine.any():
            part = found[mine]
            axes.hlines(rows[mine], part["ratio_low"], part["ratio_high"], colour, linewidth=2)
            text = f"{verdict} ({mine.sum():,})"
            axes.scatter(
                part["ratio"], rows[mine], s=38, color=colour, marker=marker, label=text, zorder=3
            )
    ends = found[["ratio", "ratio_low", "ratio_high"]].to_numpy(dtype=float)
    _factors(axes, float(np.nanmin(ends)), float(np.nanmax(ends)))
    axes.set_yticks(rows, [_name(one) for one in found.index])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_xlabel("times as long as before, with its 95 % interval")
    axes.legend(loc="best", ncols=1)
    tidy(axes, grid="x")
    return made


def _factors(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis of ratios with marks at powers of two."""
    first, last = math.floor(math.log2(min(low, 0.9))), math.ceil(math.log2(max(high, 1.1)))
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(low, 0.9) / 1.06, max(high, 1.1) * 1.06)
    steps = 1 if last - first > 2 else 4
    marks = [2 ** (power / steps) for power in range(first * steps, last * steps + 1)]
    axes.xaxis.set_major_locator(FixedLocator(marks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}×"))
    axes.grid(True, axis="x", color=GRID)


def _shares(values: Any, counts: Any, edges: Floats) -> Floats:
    found, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges, weights=counts)
    return np.asarray(found / max(counts.sum(), 1))


def _name(value: object) -> str:
    names = value if isinstance(value, tuple) else (value,)
    return ", ".join("(unknown)" if pd.isna(one) else label(one, 30) for one in names)
