"""Pictures of the cost model: the fitted line over the copyups, and what it leaves over."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from analysis.model import CostModel, fit
from analysis.panels import nothing, sample, scatter, size_ends, size_scale, time_ends
from analysis.style import HOW_COLOURS, INK, MUTED, figure, styled, tidy, time_axis
from analysis.units import human_time
from overlay.text import human_bytes

__all__ = ["fitted"]

Frame = pd.DataFrame

_FACTORS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16, 32)


@styled
def fitted(frame: Frame) -> Figure:
    """Copyups with the model of each way that data went up, and their residuals by size."""
    made = figure(11.6, 4.4)
    left, right = made.subplots(1, 2, width_ratios=(1.25, 1))
    left.set_title("Copyups and the fitted model")
    right.set_title("Time against the model")
    left.set_ylabel("time")
    right.set_ylabel("times as long as fitted")
    found = {how: one for how in HOW_COLOURS if (one := _model(frame, how)) is not None}
    if nothing(left, frame) or nothing(right, frame if found else frame.head(0)):
        return made
    scatter(left, frame, frame)
    low, high, _ = size_ends(frame)
    for how, one in found.items():
        first, last, _ = size_ends(frame[(frame["how"] == how).to_numpy()])
        size = np.geomspace(max(first, 1), last, 200)
        left.plot(size, one.at(size), color=INK, linewidth=2.6)
        left.plot(size, one.at(size), color=HOW_COLOURS[how], linewidth=1.4)
        _residuals(right, frame, how, one)
    if "copy" in found and low < found["copy"].knee < high:
        _knee(left, found["copy"])
    left.legend(loc="upper left", handletextpad=0.1)
    time_axis(left, "y", *time_ends(frame))
    for axes in (left, right):
        size_scale(axes, frame)
        tidy(axes).set_xlabel("file size")
    right.set_yscale("log", base=2)
    right.set_ylim(_FACTORS[0], _FACTORS[-1])
    right.yaxis.set_major_locator(FixedLocator(list(_FACTORS)))
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _factor(value)))
    right.axhline(1, color=INK, linewidth=1)
    return made


def _model(frame: Frame, how: str) -> CostModel | None:
    return fit(frame[(frame["how"] == how).to_numpy()], "", "", how)


def _knee(axes: Axes, one: CostModel) -> None:
    axes.axvline(one.knee, color=MUTED, linewidth=1, dashes=(4, 3))
    axes.annotate(
        f"knee {human_bytes(round(one.knee))}, {human_time(float(one.at(one.knee)))}",
        (one.knee, 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        color=INK,
        fontsize=8.5,
    )


def _residuals(axes: Axes, frame: Frame, how: str, one: CostModel) -> None:
    mine = sample(frame[((frame["how"] == how) & (frame["size"] > 0)).to_numpy()])
    ratio = np.clip(np.exp(one.residuals(mine)), _FACTORS[0], _FACTORS[-1])
    many = len(mine) > 1_500
    axes.scatter(
        mine["size"],
        ratio,
        s=7 if many else 12,
        color=HOW_COLOURS[how],
        alpha=0.35 if many else 0.6,
        linewidths=0,
        rasterized=many,
    )


def _factor(value: float) -> str:
    return f"{value:g}×" if value >= 1 else f"1/{1 / value:g}"
