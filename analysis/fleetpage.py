"""A fleet as one HTML page that needs nothing else: its hosts side by side, and a table to ask.

The page has one script of its own, which chooses and sorts the rows of that table; the policy
knows it by its hash.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

import pandas as pd

from analysis import fleet, fleetplots, fleettables, tables
from analysis.fleettables import Key
from analysis.markup import digest, document, figure, table, text, tiles, warnings
from analysis.sketch import VALUE_ERROR
from analysis.survey import Survey
from analysis.tables import duration, ratio
from overlay.text import human_bytes

__all__ = ["KEYS", "render"]

#: What a survey must have been asked for, besides the groups that are to be shown.
KEYS = (("host",),)

#: The verdicts of :func:`fleet.ratios` from good to bad, for sorting.
_ORDER = ("faster", "same", "unsure", "slower")


@dataclass(frozen=True)
class _Row:
    """One host: what it may be chosen by (``state``, and ``time`` of a copyup in ns), and its
    figures: as text, and as numbers to sort by."""

    host: str
    state: str
    time: float
    figures: tuple[tuple[str, float], ...]


def render(surveys: Sequence[Survey], keys: Sequence[Key], *, top: int = 10) -> str:
    """The page of one survey, or of how the second differs from the first.

    They must have :data:`KEYS`; ``keys`` have a table each, of ``top`` rows.
    """
    last = surveys[-1]
    keys = [key for key in keys if tuple(key) not in KEYS]
    hosts = len({run.host for run in last.runs})
    what = f"{hosts:,} hosts" + (", after against before" if len(surveys) > 1 else "")
    body = [
        f"<header><h1>What copyup cost: {what}</h1>",
        "<p class=sub>Each file of the bottom that is changed is copied to the top first. "
        "These are all the copies that were seen.</p>",
        *warnings(
            [lost for one in surveys for lost in one.damage],
            [run for one in surveys for run in one.runs],
        ),
        *(_alone(last, keys, top) if len(surveys) == 1 else _changed(surveys[0], last, keys, top)),
        "</main>",
    ]
    script = resources.files(__package__).joinpath("fleet.js").read_text("utf-8")
    body.append(f"<script>{script}</script>")
    policy = f"script-src {digest(script)}; img-src data:"
    precision = f"percentiles are within {VALUE_ERROR:.1%}"
    return document(f"Copyup: {what}", body, policy=policy, precision=precision)


def _alone(survey: Survey, keys: Sequence[Key], top: int) -> Iterator[str]:
    whole = survey.overview()
    lost = sum(run.metadata.lost for run in survey.runs)
    yield tiles(
        [
            (f"{whole['spans']:,}", f"copyups of {whole['files']:,} files", ""),
            (duration(whole["time"]), "in copyup", ""),
            (human_bytes(whole["bytes"]), "copied to the tops", ""),
            (duration(whole["p50"]), "median copyup", ""),
            (duration(whole["p99"]), "99th percentile", ""),
            (duration(whole["max"]), "longest", ""),
            (f"{lost:,}", "events lost", "bad" if lost else ""),
        ]
    )
    yield "</header><main>"
    yield figure(
        fleetplots.groups(survey),
        "The hosts side by side",
        "Each row is a host, the slowest median above: where its copyups lie (darker is more), the "
        "median (stroke) and the 99th percentile (diamond). Right: what it took in all. Of more "
        "than forty hosts, those with most time.",
        "hosts-groups",
    )
    titles = ("runs", "copyups", "time", "data", "p50", "p99", "longest", "errors")
    yield _chooser(_hosts(survey), titles, ("whole", "incomplete"), "p99")
    yield from map(table, fleettables.groups(survey, keys, top))
    yield table(tables.phase_rows(survey.phases(), whole["spans"]))


def _hosts(survey: Survey) -> Iterator[_Row]:
    runs = Counter(run.host for run in survey.runs)
    broken = {
        run.host
        for run in survey.runs
        if run.metadata.lost or run.metadata.unmatched or run.metadata.ended_ns is None
    }
    places = {run.path: run.host for run in survey.runs}
    for one in survey.damage:
        broken |= {places[path] for path in (one.path, os.path.dirname(one.path)) if path in places}
    for host, row in survey.summarise("host").iterrows():
        name = str(host)
        times = [(duration(row[each]), _ns(row[each])) for each in ("time", "p50", "p99", "max")]
        moved = (human_bytes(row["bytes"]), float(row["bytes"]))
        counts = [(f"{each:,}", float(each)) for each in (runs[name], row["spans"], row["errors"])]
        figures = (counts[0], counts[1], times[0], moved, *times[1:], counts[2])
        yield _Row(name, "incomplete" if name in broken else "whole", _ns(row["p99"]), figures)


def _changed(before: Survey, after: Survey, keys: Sequence[Key], top: int) -> Iterator[str]:
    row = fleet.compare(before, after).iloc[0]
    moved = (human_bytes(row["bytes_before"]), human_bytes(row["bytes_after"]))
    less = row["bytes_before"] / row["bytes_after"] if row["bytes_after"] else float("nan")
    alike = fleet.overlap(before, after)
    hosts = fleet.ratios(before, after, "host")
    verdicts = Counter(hosts["verdict"])
    spent = f"time in copyup: {duration(row['time_before'])} → {duration(row['time_after'])}"
    yield tiles(
        [
            (ratio(row["time_ratio"]), spent, ""),
            (ratio(less), f"data copied: {moved[0]} → {moved[1]}", ""),
            (f"{row['spans_after']:,}", f"copyups, against {row['spans_before']:,}", ""),
            (f"{verdicts['slower']:,}", "hosts slower", "bad" if verdicts["slower"] else ""),
            (f"{verdicts['faster']:,}", "hosts faster", "good" if verdicts["faster"] else ""),
        ]
    )
    yield (
        f"<p>{alike.both:,} files were copied up in both, {alike.only_before:,} only before, "
        f"{alike.only_after:,} only after.</p></header><main>"
    )
    yield figure(
        fleetplots.ratios(before, after),
        "What changed on each host",
        "The typical copyup after, as a multiple of before, with its 95 % interval: right of the "
        "line is slower. Where the interval holds 1, they may be alike.",
        "hosts-ratios",
    )
    titles = ("verdict", "ratio", "from", "to", "p50 before", "p50 after")
    yield _chooser(_pairs(hosts, before, after), titles, tuple(sorted(verdicts)), "p50 after")
    yield from map(table, fleettables.changes(before, after, keys, top))


def _pairs(hosts: pd.DataFrame, before: Survey, after: Survey) -> Iterator[_Row]:
    medians = [one.summarise("host")["p50"] for one in (before, after)]
    for host, row in hosts.iterrows():
        times = [one.get(host, pd.NaT) for one in medians]
        factors = [row[name] for name in ("ratio", "ratio_low", "ratio_high")]
        figures = (
            (str(row["verdict"]), float(_ORDER.index(str(row["verdict"])))),
            *(("–" if pd.isna(one) else f"{one:.2f}×", _number(one)) for one in factors),
            *((duration(one), _ns(one)) for one in times),
        )
        yield _Row(str(host), str(row["verdict"]), _ns(times[1]), figures)


def _chooser(rows: Iterator[_Row], titles: Sequence[str], states: Sequence[str], time: str) -> str:
    """The table of all hosts, with the form that chooses among them."""
    options = "".join(f'<option value="{one}">{one}</option>' for one in states)
    form = (
        '<form id="hosts-form" class="explore">'
        '<label>host has <input id="hosts-name" type="search" size="16"></label>'
        f'<label>{escape(time)} at least <input id="hosts-least" type="number" min="0" step="any"'
        ' size="8"> µs</label>'
        '<label>which are <select id="hosts-state"><option value="">all</option>'
        f"{options}</select></label>"
        '<button type="reset">all</button></form><p id="hosts-count" role="status"></p>'
    )
    head = "".join(
        f'<th scope="col" class="{kind}"><button type="button">{escape(name)}</button></th>'
        for name, kind in (("host", "text"), *((name, "") for name in titles))
    )
    body = "".join(
        f'<tr data-state="{text(row.state)}" data-time="{row.time:.0f}">'
        f'<th scope="row" class="text">{text(row.host)}</th>'
        + "".join(f'<td data-value="{value:.6g}">{text(said)}</td>' for said, value in row.figures)
        + "</tr>"
        for row in rows
    )
    return (
        f'<h3>Hosts</h3>{form}<div class="scroll"><table id="hosts"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _ns(value: object) -> float:
    return float(value.value) if isinstance(value, pd.Timedelta) else 0.0


def _number(value: float) -> float:
    return 0.0 if pd.isna(value) else float(value)
