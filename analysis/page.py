"""The report as one HTML page that needs nothing else: style and pictures are in it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import pandas as pd

from analysis import (
    lookupplots,
    lookups,
    maps,
    modelplots,
    plots,
    stats,
    tables,
)
from analysis.compare import compare, overlap
from analysis.findings import findings
from analysis.load import Run, Trace
from analysis.markup import document, figure, table, text, tiles, warnings
from analysis.panels import points_shown
from analysis.tables import duration, ratio
from overlay.text import human_bytes
from tracer.schema import PHASES

__all__ = ["render"]

Frame = pd.DataFrame


def render(trace: Trace, *, top: int = 10, depth: int = 3, interactive: bool = False) -> str:
    """The whole page.  ``top`` rows in each table; directories are cut after ``depth`` names.

    ``interactive`` adds a section in which copyups are chosen (:mod:`analysis.explore`); without
    it the page runs no script at all.
    """
    frames = {run.name: stats.copyups(trace.run(run.name)) for run in trace.runs}
    several = len(trace.runs) > 1
    names = " against ".join(text(run.name) for run in reversed(trace.runs))
    body = [
        f"<header><h1>What copyup cost: {names if several else text(trace.runs[0].name)}</h1>",
        "<p class=sub>Each file of the bottom that is changed is copied to the top first. "
        "These are all the copies that were seen.</p>",
        *(_navigation(trace) if several else ()),
        *warnings(trace.damage, trace.runs),
        '<div class="runs">',
        *(_facts(run) for run in trace.runs),
        "</div></header><main>",
        *(_comparison(trace, frames, top) if several else ()),
    ]
    for number, run in enumerate(trace.runs):
        every = trace.run(run.name)
        title = text(run.name) if several else "The copyups"
        body.append(f'<section id="run-{number}"><h2>{title}</h2>')
        body.extend(_run(run, frames[run.name], every, number, top, depth))
        body.append("</section>")
    policy = "img-src data:"
    if interactive:
        from analysis.explore import section

        markup, policy = section(trace)
        body.append(markup)
    body.append("</main>")
    precision = "percentiles interpolate between the nearest copyups"
    return document(f"Copyup: {names}", body, policy=policy, precision=precision)


def _navigation(trace: Trace) -> Iterator[str]:
    yield '<nav><a href="#comparison">Comparison</a>'
    for number, run in enumerate(trace.runs):
        yield f'<a href="#run-{number}">{text(run.name)}</a>'
    yield "</nav>"


# The runs.


def _facts(run: Run) -> str:
    data = run.metadata
    facts = [
        ("started", _moment(data.started_ns)),
        ("lasted", _elapsed(data.ended_ns - data.started_ns) if data.ended_ns else "unknown"),
        ("command", f"<code>{text(' '.join(map(str, data.command)))}</code>"),
        ("host", f"{text(data.hostname)}, kernel {text(data.kernel)}"),
    ]
    for place, mount in data.mounts.items():
        bottoms = mount.get("bottoms")
        below = " over ".join(map(str, bottoms)) if isinstance(bottoms, list) else "unknown"
        facts.append(("mount", f"<code>{text(place)}</code>"))
        facts.append(("layers", f"{text(mount.get('top'))} over {text(below)}"))
        # A long list breaks after commas, not inside a name.
        options = text(mount.get("options", "")).replace(",", ",<wbr>")
        facts.append(("options", f"<code>{options}</code>"))
    facts.append(("traced by", f"{text(data.backend)}, fallthru {text(data.tool_version)}"))
    facts.append(("spans", f"{run.spans:,}; {data.lost:,} events lost"))
    if not data.command:
        facts = [fact for fact in facts if fact[0] != "command"]
    items = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
    return f'<section class="run"><h3>{text(run.name)}</h3><dl>{items}</dl></section>'


def _elapsed(ns: int) -> str:
    """A duration in nanoseconds for people."""
    return duration(pd.Timedelta(ns, unit="ns"))


def _moment(ns: int) -> str:
    try:
        moment = datetime.datetime.fromtimestamp(ns // 1_000_000_000, datetime.UTC)
    except (OverflowError, OSError, ValueError):
        return "unknown"
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _run(run: Run, frame: Frame, every: Frame, number: int, top: int, depth: int) -> Iterator[str]:
    yield tiles(_key_figures(run, frame))
    other = tables.kinds(every)
    if other is not None:
        yield table(other)
    yield from _lookups(run, number)
    if frame.empty:
        yield "<p>No copyup was recorded: nothing on the bottom was changed, or the filters "
        yield "left it out.</p>"
        return
    found = findings(frame)
    if found:
        yield "<h3>What stands out</h3><ul class=findings>"
        yield from (f"<li><b>{text(one.what)}</b><span>{text(one.why)}</span>" for one in found)
        yield "</ul>"
    yield from _pictures(run, frame, number, top, depth)
    for key, title, first in tables.GROUPINGS:
        if key not in ("mount", "how", "ftype") or frame[key].nunique() > 1:
            yield table(tables.by(frame, key, title, first, top=top, depth=depth))
        if key == "size":
            yield table(tables.phases(frame))
    yield table(tables.files(frame, top=top))


def _lookups(run: Run, number: int) -> Iterator[str]:
    found = lookups.counted(run.metadata.latencies)
    if any(one.kind == "lookup" for one in found):
        yield figure(
            lookupplots.outcomes(found),
            "Lookup outcomes by layers",
            "Names that were looked for in the layers, as nothing was known of them yet. Above: "
            "how many, and the time they took in all. Below: the time of one, its median and where "
            "nine of ten lie. A name that is nowhere is looked for in every layer (“absent”), "
            "unless its directory ends in the top (“opaque”), which is what priming does.",
            f"run-{number}-lookups",
        )
    if found:
        yield table(tables.lookups(found))
    elif not lookups.seen(run):
        backend = text(run.metadata.backend)
        yield f"<p class=note>Lookups and listings: the backend {backend} cannot see them.</p>"


def _key_figures(run: Run, frame: Frame) -> list[tuple[str, str, str]]:
    whole = stats.overview(frame)
    lasted = run.metadata.ended_ns and run.metadata.ended_ns - run.metadata.started_ns
    share = f", {whole['time'].value / lasted:.0%} of the run" if lasted and lasted > 0 else ""
    lost = run.metadata.lost
    return [
        (f"{whole['spans']:,}", f"copyups of {whole['files']:,} files", ""),
        (duration(whole["time"]), f"in copyup{share}", ""),
        (human_bytes(whole["bytes"]), "copied to the top", ""),
        (duration(whole["p50"]), "median copyup", ""),
        (duration(whole["p99"]), "99th percentile", ""),
        (duration(whole["max"]), "longest", ""),
        (f"{lost:,}", "events lost", "bad" if lost else ""),
    ]


def _pictures(run: Run, frame: Frame, number: int, top: int, depth: int) -> Iterator[str]:
    told = frame[list(PHASES)].notna().any(axis=1)
    untold = int((~told).sum())
    left_out = f" {untold:,} copyups tell no phase and are not in it." if untold else ""
    yield figure(
        plots.latency(frame),
        "Time by file size",
        "Each point is one copyup. Where the cloud is flat, a copyup costs the same whatever the "
        "size: creating, syncing and linking the file. Where it rises, the bytes decide. "
        "Points far above the cloud waited for something else." + _sampled(frame),
        f"run-{number}-latency",
    )
    yield figure(
        modelplots.fitted(frame),
        "What a copyup costs",
        "The typical time, fitted: a fixed part, and one that grows with the bytes; from the knee "
        "on the bytes cost more. Right: each copyup against it. What lies far above waited for "
        "something else.",
        f"run-{number}-model",
    )
    yield figure(
        plots.phase_bars(frame),
        "Where the time goes",
        "Left: what a copyup of that size spends its time on. Right: how much time such "
        "copyups took in all, which is what a change can save. “Other” lies between the phases, "
        f"or was not told.{left_out}",
        f"run-{number}-phases",
    )
    yield figure(
        plots.distribution(frame),
        "Distribution",
        "How many copyups took no longer than the time below: the further left a curve, "
        "the faster; a long flat end is a slow tail.",
        f"run-{number}-distribution",
    )
    if frame["comm"].nunique() > 1:
        yield figure(
            maps.multiples(frame),
            "By process",
            "The same scales for each of the processes with most time.",
            f"run-{number}-multiples",
        )
    yield figure(
        maps.heat_map(frame),
        "When it was slow",
        "Darker is more copyups. A band that climbs, or splits, is a top that slows down.",
        f"run-{number}-heat",
    )
    yield figure(
        plots.timeline(frame),
        "Over time",
        "Steps of equal length from the first copyup to the last. A tall stroke over a quiet "
        "median is a single slow copyup; a median that climbs is a top that cannot keep up.",
        f"run-{number}-timeline",
    )
    yield figure(
        plots.top_groups(frame, top, depth),
        "Who and where",
        "Time in copyup, number of copyups, and data copied.",
        f"run-{number}-groups",
    )
    yield figure(
        maps.icicle(frame),
        "Where the data went",
        "Bytes copied up, each row one directory deeper; widths are in proportion.",
        f"run-{number}-icicle",
    )
    yield figure(
        plots.top_files(frame, top),
        "Files",
        "The files that cost most; the table below names who touched them.",
        f"run-{number}-files",
    )


def _sampled(frame: Frame) -> str:
    shown = points_shown(frame)
    return f" {shown:,} of {len(frame):,} are drawn, the slowest among them." * (shown < len(frame))


# Comparison.


def _comparison(trace: Trace, frames: dict[str, Frame], top: int) -> Iterator[str]:
    first, *others = trace.runs
    before = frames[first.name]
    yield '<section id="comparison">'
    for run in others:
        after = frames[run.name]
        yield f"<h2>What {text(run.name)} saves against {text(first.name)}</h2>"
        yield (
            f"<p class=sub>Before: <strong>{text(first.name)}</strong>. "
            f"After: <strong>{text(run.name)}</strong>.</p>"
        )
        yield from _saved(before, after)
    yield figure(
        plots.compare(frames),
        "Side by side",
        "The same scales throughout. Above, each copyup; below, all time by file size and phase: "
        "what is shorter is what was saved.",
        "comparison-runs",
    )
    for run in others:
        after = frames[run.name]
        if len(others) > 1:
            yield f"<h2>{text(run.name)} against {text(first.name)}</h2>"
        yield table(tables.typical(before, after, "op", "Typical time", "system call"))
        for key, title, column in tables.GROUPINGS[2:4]:
            yield table(tables.changes(before, after, key, title, column, top=top))
    yield "</section>"


def _saved(before: Frame, after: Frame) -> Iterator[str]:
    row = compare(before, after).iloc[0]
    time, moved = row["time_saved"], int(row["bytes_saved"])
    first, second = int(row["bytes_before"]), int(row["bytes_after"])
    less = first / second if second else float("nan")
    times = f"time in copyup: {duration(row['time_before'])} → {duration(row['time_after'])}"
    sizes = f"data copied: {human_bytes(first)} → {human_bytes(second)}"
    yield tiles(
        [
            (ratio(row["time_ratio"]), times, _kind(time.value)),
            (duration(abs(time)), _words("time", time.value), _kind(time.value)),
            (ratio(less) if second or not first else "none left", sizes, _kind(moved)),
            (human_bytes(abs(moved)), _words("data", moved), _kind(moved)),
            (f"{row['spans_after']:,}", f"copyups, against {row['spans_before']:,}", ""),
        ]
    )
    alike = overlap(before, after)
    yield (
        f"<p>{alike.both:,} files were copied up in both runs, {alike.only_before:,} only in the "
        f"first, {alike.only_after:,} only in the second."
    )
    if alike.share < 0.9:
        yield "<strong>They did different work: the figures say little about the mounts.</strong>"
    yield "</p>"


def _words(what: str, saved: int) -> str:
    return f"{what} saved" if saved >= 0 else f"more {what}"


def _kind(saved: int) -> str:
    return "good" if saved > 0 else "bad" if saved < 0 else ""
