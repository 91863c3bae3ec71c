"""The interactive part of a page: plotly and the copyups themselves, inlined.

Plotly rather than altair: its one script runs under a content security policy without
``unsafe-eval`` (vega compiles expressions), it draws icicles, and its Python package holds it, so
that nothing is downloaded.  The price is 4.8 MB in each page, which is why pages are without it
unless it is asked for.
"""

from __future__ import annotations

import json
from html import escape
from importlib import resources, util
from typing import Any

import numpy as np
import pandas as pd

from analysis import stats
from analysis.load import Trace
from analysis.markup import digest
from analysis.panels import sample
from overlay.errors import EnvironmentLacks
from overlay.text import printable

__all__ = ["MOST", "check_available", "section"]

Frame = pd.DataFrame

#: Copyups in a page: a browser draws this many in half a second.
MOST = 20_000

_FILTERS = (
    ("run", "run", "run"),
    ("process", "process", "comm"),
    ("op", "system call", "op"),
    ("how", "how", "how"),
)
_PICTURES = ("cloud", "shares", "heat", "tree")


def check_available() -> None:
    """Raise :class:`EnvironmentLacks` unless plotly is installed."""
    if util.find_spec("plotly") is None:
        raise EnvironmentLacks(
            "an interactive page needs plotly", hint="pip install 'fallthru[interactive]'"
        )


def section(trace: Trace) -> tuple[str, str]:
    """The section of the page, and the policy's word on scripts (their hashes)."""
    check_available()
    frame = sample(stats.copyups(trace.frame), MOST)
    plotly = resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text("utf-8")
    own = resources.files(__package__).joinpath("explore.js").read_text("utf-8")
    data = json.dumps(_columns(frame), separators=(",", ":"), ensure_ascii=False)
    # In a script element only "<" could end it; in JSON it stands in strings alone.
    safe = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    whole = len(stats.copyups(trace.frame))
    part = f" A sample of {len(frame):,} of {whole:,}, the slowest among them."
    markup = (
        '<section id="explore"><h2>Explore</h2>'
        f"<p class=sub>Choose copyups; every picture follows.{part * (len(frame) < whole)}</p>"
        f'<form id="explore-form" class="explore">{_controls()}</form>'
        '<p id="explore-count" role="status"></p><div class="explore-pictures">'
        + "".join(
            f'<div id="explore-{name}"></div>' for name in ("cloud", "shares", "heat", "tree")
        )
        + f'</div><script type="application/json" id="explore-data">{safe}</script>'
        f"<script>{plotly}</script><script>{own}</script></section>"
    )
    hashes = f"{digest(plotly)} {digest(own)}"
    return markup, f"script-src {hashes}; img-src data: blob:"


def _controls() -> str:
    made = [
        f'<label>{escape(text)} <select id="explore-{name}"><option value="">all</option>'
        "</select></label>"
        for name, text, _ in _FILTERS
    ]
    options = "".join(f'<option value="{name}">{text}</option>' for name, text, _ in _FILTERS[::-1])
    return "".join(
        [
            *made,
            '<label>path has <input id="explore-path" type="search" size="16"></label>',
            '<label>at least <input id="explore-least" type="number" min="0" step="any" size="8">'
            " µs</label>",
            f'<label>colours by <select id="explore-by">{options}</select></label>',
            '<button type="reset">all</button>',
        ]
    )


def _columns(frame: Frame) -> dict[str, Any]:
    start = frame["ts"].dt.as_unit("ns").astype("int64").to_numpy()
    made: dict[str, Any] = {
        "at": (start - (start.min() if len(start) else 0)).tolist(),
        "dur": np.maximum(frame["dur"].to_numpy().view("int64"), 1).tolist(),
        "size": frame["size"].tolist(),
        "bytes": stats.bytes_moved(frame).tolist(),
        "path": [printable(path) for path in frame["path"].fillna("(unknown)").tolist()],
        "words": {},
    }
    for name, _, column in _FILTERS:
        used = frame[column].cat.remove_unused_categories()
        words = [printable(str(word)) for word in used.cat.categories]
        codes = used.cat.codes.to_numpy()
        made[name] = np.where(codes < 0, len(words), codes).tolist()
        made["words"][name] = words + ["not told"] * bool((codes < 0).any())
    return made
