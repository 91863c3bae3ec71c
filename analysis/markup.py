"""What pages are made of: a document that needs nothing else, and pictures and tables in it.

Every text that comes from a trace goes through :func:`text`: names of files, processes and
runs are chosen by whoever was traced.  A content security policy forbids the page
to load or run anything, should that ever fail.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from html import escape
from importlib import resources

from matplotlib.figure import Figure

from analysis import style
from analysis.runs import Damage, Run
from analysis.tables import Table
from overlay import __version__
from overlay.text import printable

__all__ = ["digest", "document", "figure", "table", "text", "tiles", "warnings"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; "


def document(title: str, body: Iterable[str], *, policy: str, precision: str) -> str:
    """The whole page: ``title`` and ``body`` are HTML, ``policy`` says what may be beside style,
    ``precision`` how exact percentiles are."""
    css = resources.files(__package__).joinpath("page.css").read_text("utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{css}</style></head>\n<body>\n"
        + "\n".join(body)
        + f"\n<footer>Written by fallthru {text(__version__)}. Times of processes that ran "
        f"side by side add up; {precision}.</footer>\n"
        "</body></html>\n"
    )


def digest(script: str) -> str:
    """By which the policy knows a script that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def text(value: object) -> str:
    """Text from a trace, fit to stand anywhere in the page."""
    return escape(printable(str(value)), quote=True)


def tiles(figures: list[tuple[str, str, str]]) -> str:
    """Figures that stand out: each with what it is, and ``good``, ``bad`` or nothing."""
    items = (
        f'<li><b class="{kind}">{text(value)}</b><span>{text(what)}</span></li>'
        for value, what, kind in figures
    )
    return f'<ul class="tiles">{"".join(items)}</ul>'


def warnings(damage: Iterable[Damage], runs: Iterable[Run]) -> Iterator[str]:
    """What is missing from the traces, if anything."""
    lines = [text(one) for one in damage]
    for run in runs:
        name = text(run.name)
        if run.metadata.lost:
            lines.append(f"{name}: {run.metadata.lost:,} events were lost while recording.")
        if run.metadata.unmatched:
            lines.append(f"{name}: {run.metadata.unmatched:,} copyups were seen but not completed.")
        if run.metadata.ended_ns is None:
            lines.append(f"{name}: the recording has no end; it was cut off.")
    if lines:
        yield '<div class="warning" role="alert"><strong>Not everything is here</strong><ul>'
        yield from (f"<li>{line}</li>" for line in lines)
        yield "</ul></div>"


def figure(picture: Figure, title: str, caption: str, key: str) -> str:
    """A picture; ``key`` as :func:`analysis.style.svg` has it."""
    drawn = style.svg(picture, title, caption, key=key)
    below = f"<figcaption>{escape(caption)}</figcaption>"
    return f"<figure><h3>{escape(title)}</h3>{drawn}{below}</figure>"


def table(made: Table) -> str:
    """A table under its title."""
    kinds = ["text" if at < made.texts else "" for at in range(len(made.columns))]
    head = "".join(
        f'<th scope="col" class="{kind}">{text(name)}</th>'
        for name, kind in zip(made.columns, kinds, strict=True)
    )
    rows = []
    for row in made.rows:
        cells = [
            f'<td class="{kind}">{text(cell)}</td>'
            for cell, kind in zip(row[1:], kinds[1:], strict=True)
        ]
        rows.append(f'<tr><th scope="row" class="text">{text(row[0])}</th>{"".join(cells)}</tr>')
    paths = ' class="paths"' if made.paths else ""
    note = f'<p class="note">{text(made.note)}</p>' if made.note else ""
    return (
        f'<h3>{text(made.title)}</h3><div class="scroll"><table{paths}><thead><tr>{head}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{note}"
    )
