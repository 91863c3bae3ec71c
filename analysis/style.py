"""How pictures look: colours, scales in human units, figures, and SVG that fits a page.

matplotlib's object interface only: no figure is kept in a global, so pictures can be
made from several threads and nothing has to be closed.
"""

from __future__ import annotations

import functools
import io
import math
import re
import warnings
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from analysis.units import human_time
from overlay.text import human_bytes

__all__ = [
    "GRID",
    "HOW_COLOURS",
    "INK",
    "MUTED",
    "PHASE_COLOURS",
    "SERIES",
    "Picture",
    "bytes_axis",
    "empty_at",
    "figure",
    "linear_time_axis",
    "png",
    "show",
    "size_axis",
    "styled",
    "svg",
    "tidy",
    "time_axis",
]

INK, MUTED, GRID = "#1b1f24", "#66707b", "#d9dee4"

# Okabe and Ito's palette: told apart with every common colour blindness, and with
# enough contrast on white and on near-black.
_SKY, _BLUE, _VERMILION, _GREEN, _PURPLE, _ORANGE, _GREY = (
    "#56b4e9",
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#9aa4ae",
)
PHASE_COLOURS = {
    "create": _SKY,
    "data": _BLUE,
    "sync": _VERMILION,
    "meta": _GREEN,
    "link": _PURPLE,
    "other": _GREY,
}
HOW_COLOURS = {"copy": _BLUE, "reflink": _GREEN, "metacopy": _ORANGE, "none": _PURPLE}
#: For groups that have no colour of their own, in order.
SERIES = (_BLUE, _ORANGE, _GREEN, _PURPLE, _SKY, _VERMILION)

#: In a page these follow its theme: the value after the comma is for an SVG by itself.
_THEMED = {
    INK: f"var(--ink, {INK})",
    MUTED: f"var(--muted, {MUTED})",
    GRID: f"var(--grid, {GRID})",
    _BLUE: f"var(--blue, {_BLUE})",
    _SKY: f"var(--sky, {_SKY})",
}
_RC: Any = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",  # text stays text: it is searched, copied, and read aloud
    "text.parse_math": False,  # a file named "$x_1$" is not a formula
}
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_HREF = f"{{{_XLINK}}}href"
ET.register_namespace("", _SVG)
ET.register_namespace("xlink", _XLINK)


_Draw = TypeVar("_Draw", bound=Callable[..., Any])


def styled(draw: _Draw) -> _Draw:
    """Decorate a function that draws: matplotlib reads its settings when parts are made."""

    @functools.wraps(draw)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with mpl.rc_context(_RC):
            return draw(*args, **kwargs)

    return cast(_Draw, wrapper)


def figure(width: float, height: float) -> Figure:
    """An empty figure of ``width`` × ``height`` inches that lays itself out."""
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06)
    return Figure(figsize=(width, height), layout=layout, facecolor="none")


def tidy(axes: Axes, *, grid: str = "both") -> Axes:
    """Take away the box around ``axes`` and put a quiet grid behind it."""
    for side in ("top", "right", "left" if grid == "x" else "top"):
        axes.spines[side].set_visible(False)
    axes.grid(True, axis=grid if grid in ("x", "y") else "both")  # type: ignore[arg-type]
    axes.tick_params(length=0)
    return axes


def time_axis(axes: Axes, which: str, low: float, high: float) -> None:
    """A logarithmic axis of durations (ns) over at least ``low`` to ``high``, in decades."""
    low, high = max(low, 1.0), max(high, low, 1.0)
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    ticks = [10.0**power for power in range(first, last + 1)]
    _log_axis(axes, which, ticks, [human_time(tick, trim=True) for tick in ticks])
    # Room to breathe, not a whole empty decade.
    limits = (max(10.0**first, low / 1.6), min(10.0**last, high * 1.6))
    axes.set_xlim(*limits) if which == "x" else axes.set_ylim(*limits)


def size_axis(axes: Axes, low: float, high: float, *, empty: bool) -> None:
    """A logarithmic x axis of file sizes (bytes) with powers of two as ticks.

    ``empty`` adds a place for size 0, which has no logarithm: see :func:`empty_at`.
    """
    first, last, step = _size_ends(low, high)
    ticks = [2.0**power for power in range(first, last + 1, step)]
    texts = [_size_tick(tick) for tick in ticks]
    left = ticks[0]
    if empty:
        left = empty_at(low, high)
        ticks.insert(0, left)
        texts.insert(0, "empty")
    _log_axis(axes, "x", ticks, texts, base=2)
    axes.set_xlim(left / 2 ** (step / 3), 2.0**last * 1.3)


def empty_at(low: float, high: float) -> float:
    """The x position of files without data on :func:`size_axis` with the same ends."""
    first, _, step = _size_ends(low, high)
    return float(2.0 ** (first - 0.9 * step))


def bytes_axis(axes: Axes, most: float, per: str = "") -> None:
    """A linear y axis of byte counts up to ``most``, with round numbers of one binary unit."""
    power = min(int(math.log(max(most, 1), 1024)), 4)
    unit = ("B", "KiB", "MiB", "GiB", "TiB")[power]
    locator = MaxNLocator(4).tick_values(0, max(most, 1) / 1024**power)
    ticks = [tick for tick in locator if tick >= 0]
    axes.set_yticks([tick * 1024**power for tick in ticks])
    axes.set_yticklabels([f"{tick:g} {unit}{per}" if tick else "0" for tick in ticks])


def linear_time_axis(axes: Axes, which: str = "x", count: int = 4) -> None:
    """A linear axis of durations in nanoseconds, with about ``count`` ticks."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(count))
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: human_time(value, trim=True) if value else "0")
    )


def _size_ends(low: float, high: float) -> tuple[int, int, int]:
    """The lowest and highest power of two of a size axis, and the step between ticks."""
    first = math.floor(math.log2(max(low, 1.0)))
    last = max(math.ceil(math.log2(max(high, 2.0))), first + 4)
    step = 2 if last - first <= 12 else 4
    return first - first % step, last, step


def _size_tick(value: float) -> str:
    return human_bytes(value).replace(".0 ", " ")


def _log_axis(
    axes: Axes, which: str, ticks: Sequence[float], texts: Sequence[str], base: int = 10
) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set_xscale("log", base=base) if which == "x" else axes.set_yscale("log", base=base)
    names = dict(zip(ticks, texts, strict=True))
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: names.get(value, "")))
    axis.set_minor_locator(NullLocator())


def png(picture: Figure, *, dpi: int = 100, background: str = "white") -> bytes:
    """The figure as PNG on ``background``; at 100 dpi an inch is 100 px."""
    out = io.BytesIO()
    with mpl.rc_context(_RC), warnings.catch_warnings():
        _ignore_missing_glyphs()
        picture.savefig(out, format="png", dpi=dpi, facecolor=background)
    return out.getvalue()


def svg(picture: Figure, title: str, description: str, *, key: str) -> str:
    """The figure as an ``<svg>`` element to stand in an HTML page.

    ``title`` and ``description`` are what a screen reader says.  ``key`` (letters, digits,
    hyphens) must differ between the pictures of a page: identifiers start with it.
    Colours follow the page's ``--ink``, ``--muted``, ``--grid``, ``--blue`` and ``--sky``.
    """
    out = io.BytesIO()
    with mpl.rc_context(_RC | {"svg.hashsalt": key}), warnings.catch_warnings():
        _ignore_missing_glyphs()
        picture.savefig(out, format="svg", dpi=180, transparent=True, metadata={"Date": None})
    root = ET.fromstring(out.getvalue())
    for name in ("metadata", "defs"):  # matplotlib's advertisement; a style for the whole page
        for child in root.findall(f"{{{_SVG}}}{name}"):
            root.remove(child)
    _rename_ids(root, key)
    for element in root.iter():
        if "style" in element.attrib:
            element.set("style", _restyle(element.attrib["style"]))
    head = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-labelledby": f"{key}-title {key}-desc",
        "style": "stroke-linejoin: round; stroke-linecap: butt",
        "font-family": "system-ui, sans-serif",
    }
    root.attrib.clear()
    root.attrib.update(head)
    for place, (name, text) in enumerate((("title", title), ("desc", description))):
        child = ET.Element(f"{{{_SVG}}}{name}", {"id": f"{key}-{name}"})
        child.text = text
        root.insert(place, child)
    return ET.tostring(root, encoding="unicode")


@dataclass(frozen=True)
class Picture:
    """A picture as a notebook shows it: SVG, without anything having to be installed."""

    markup: str

    def _repr_svg_(self) -> str:
        return self.markup


def show(picture: Figure, title: str) -> Picture:
    """The figure for the end of a notebook's cell; ``title`` must differ within a notebook."""
    return Picture(svg(picture, title, title, key=f"picture-{zlib.crc32(title.encode()):08x}"))


def _rename_ids(root: ET.Element, key: str) -> None:
    """Keep only the identifiers that something refers to, and make them the picture's own."""
    uses = re.compile(r"url\(#([^)]*)\)")
    wanted: dict[str, str] = {}
    for element in root.iter():
        for name, value in element.attrib.items():
            found = [value[1:]] if name == _HREF and value.startswith("#") else uses.findall(value)
            for one in found:
                wanted.setdefault(one, f"{key}-{len(wanted)}")
    for element in root.iter():
        identifier = element.attrib.pop("id", None)
        if identifier in wanted:
            element.set("id", wanted[identifier])
        for name, value in list(element.attrib.items()):
            if name == _HREF and value.startswith("#"):
                element.set(name, "#" + wanted[value[1:]])
            elif "url(#" in value:
                element.set(name, uses.sub(lambda hit: f"url(#{wanted[hit[1]]})", value))


def _restyle(style: str) -> str:
    """Theme the colours of one style attribute, and leave the typeface to the page."""
    kept = [one for one in style.split("; ") if not one.startswith("font-family")]
    return "; ".join(re.sub("#[0-9a-f]{6}", _theme, one) for one in kept)


def _theme(colour: re.Match[str]) -> str:
    return _THEMED.get(colour[0], colour[0])


def _ignore_missing_glyphs() -> None:
    """A name in a script that the measuring font lacks is still drawn by the browser."""
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")
