"""The report's tables as text: made once, shown by the terminal and by the page alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import stats
from analysis.compare import compare
from analysis.lookups import Counted
from analysis.regress import ratios
from analysis.units import human_time, label
from overlay.text import human_bytes, printable

__all__ = [
    "GROUPINGS",
    "Table",
    "by",
    "changed",
    "changes",
    "duration",
    "files",
    "groups",
    "kinds",
    "lookups",
    "phase_rows",
    "phases",
    "ratio",
    "typical",
    "typical_times",
]

Frame = pd.DataFrame

#: The groupings that every report shows: key, the table's title, its first column.
GROUPINGS = (
    ("process", "By process", "process"),
    ("directory", "By directory", "directory"),
    ("op", "By system call", "system call"),
    ("size", "By file size", "file size"),
    ("ftype", "By type of file", "type"),
    ("how", "By what was copied", "how"),
    ("mount", "By mount", "mount point"),
)


@dataclass(frozen=True)
class Table:
    """Rows of text under ``columns``; the first ``texts`` columns are text, the rest figures.

    Cells are printable but not escaped for HTML.  ``note`` says what is left out;
    ``paths`` that the first column holds paths.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    texts: int = 1
    paths: bool = False


def duration(value: Any) -> str:
    """A Timedelta for people; a dash for NaT."""
    return "–" if value is pd.NaT or value is None else human_time(value.value)


def ratio(value: float) -> str:
    """``before / after`` in words: ``1.8× less``, ``1.3× more``, ``same``."""
    if math.isnan(value):
        return "–"
    if value == 0:
        return "new"
    if 0.995 < value < 1.005:
        return "same"
    factor = value if value > 1 else 1 / value
    text = f"{factor:,.0f}" if factor >= 9.95 else f"{factor:.1f}"
    if text == "1.0":
        text = f"{factor:.2f}"
    return f"{text}× {'less' if value > 1 else 'more'}"


def _share(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.1%}"


def _name(value: Any) -> str:
    return "(unknown)" if pd.isna(value) else printable(str(value))


def by(frame: Frame, key: str, title: str, first: str, *, top: int, depth: int) -> Table:
    """One grouping of :func:`stats.summarise`: ``top`` rows, and one for the rest."""
    return groups(stats.summarise(frame, key, depth=depth), (key,), title, (first,), top=top)


def groups(
    found: Frame, key: Sequence[str], title: str, first: Sequence[str], *, top: int
) -> Table:
    """The same of a table that is there already, by one key or several."""
    cut = found if tuple(key) == ("size",) else found.head(top)
    rest = found.iloc[len(cut) :]
    rows = _named_cells(cut)
    if len(rest):
        figures = [f"{rest['spans'].sum():,}", duration(pd.Timedelta(rest["time"].sum()))]
        figures += [_share(rest["share"].sum()), human_bytes(rest["bytes"].sum())]
        more = (f"… {len(rest):,} more", *[""] * (len(first) - 1))
        rows.append((*more, *figures, "", "", "", duration(rest["max"].max())))
    columns = (*first, "copyups", "time", "share", "data", "p50", "p90", "p99", "longest")
    paths = key[0] in ("directory", "mount")
    return Table(title, columns, tuple(rows), _untold(found), texts=len(first), paths=paths)


def _rows(frame: Frame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _named_cells(found: Frame) -> list[tuple[str, ...]]:
    named = zip(found.index, _rows(found), strict=True)
    return [(*_names(name), *_cells(row)) for name, row in named]


def _names(value: Any) -> tuple[str, ...]:
    """A group's name, or its names where several keys make it."""
    return tuple(map(_name, value)) if isinstance(value, tuple) else (_name(value),)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    times = (duration(row[name]) for name in (*stats.PERCENTILES, "max"))
    return (
        f"{row['spans']:,}",
        duration(row["time"]),
        _share(row["share"]),
        human_bytes(row["bytes"]),
        *times,
    )


def _untold(found: Frame) -> str:
    untold = int(found["untold"].sum())
    return f"{untold:,} copyups do not tell their bytes and count none." if untold else ""


def kinds(frame: Frame) -> Table | None:
    """What else was traced; None when there are only copyups."""
    found = stats.summarise(frame, "kind")
    if set(found.index) <= {"copyup"}:
        return None
    rows = _named_cells(found)
    columns = ("kind", "spans", "time", "share", "data", "p50", "p90", "p99", "longest")
    return Table("All that was traced", columns, tuple(rows))


def phases(frame: Frame) -> Table:
    """The phases of copyups; spans that do not tell a phase are left out of its row."""
    return phase_rows(stats.phases(frame), len(frame))


def phase_rows(found: Frame, spans: int) -> Table:
    """The same of :func:`stats.phases`' own table."""
    rows = []
    for name, row in zip(found.index, _rows(found), strict=True):
        if name == "other" and not row["happened"]:
            continue
        times = [duration(row[one]) for one in ("p50", "p90", "p99", "max")]
        share = _share(row["share"])
        rows.append((_name(name), f"{row['happened']:,}", duration(row["time"]), share, *times))
    unknown = {str(name): int(count) for name, count in found["unknown"].items() if count}
    unknown.pop("other", None)
    told = ", ".join(f"{name} by {count:,}" for name, count in unknown.items())
    note = f"Not told, and not counted: {told} of {spans:,} copyups." if told else ""
    columns = ("phase", "copyups", "time", "share", "p50", "p90", "p99", "longest")
    return Table("By phase", columns, tuple(rows), note)


def lookups(found: Sequence[Counted]) -> Table:
    """Lookups and listings by how they came out and how many layers were asked."""
    several = len({one.mount for one in found}) > 1
    rows = []
    for one in found:
        times = (one.times.sum, one.mean, one.times.quantile(0.5), one.times.quantile(0.99))
        layers = f"{one.layers:,}" if one.layers else "–"
        where = (_name(one.mount),) if several else ()
        rows.append(
            (*where, one.kind, one.outcome, layers, f"{one.count:,}", *map(human_time, times))
        )
    columns = ("operation", "outcome", "layers", "number", "time", "mean", "p50", "p99")
    first = ("mount point",) if several else ()
    note = "Counted in the kernel: percentiles are within 6 %."
    return Table(
        "Lookups and listings", (*first, *columns), tuple(rows), note, texts=len(first) + 2
    )


def files(frame: Frame, *, top: int) -> Table:
    """The files on which most time went."""
    found = stats.top_files(frame, top)
    rows = tuple(
        (
            label(name, 90),
            _name(row["process"]),
            _name(row["op"]),
            f"{row['spans']:,}",
            duration(row["time"]),
            human_bytes(row["bytes"]),
            human_bytes(row["size"]),
        )
        for name, row in zip(found.index, _rows(found), strict=True)
    )
    nameless = int(frame["path"].isna().sum())
    note = f"{nameless:,} copyups have no path and are not here." if nameless else ""
    columns = ("file", "process", "system call", "copyups", "time", "data", "file size")
    return Table("Files with most time", columns, rows, note, texts=3, paths=True)


def changes(before: Frame, after: Frame, key: str, title: str, first: str, *, top: int) -> Table:
    """What the run ``after`` costs against ``before``, by one grouping."""
    return changed(compare(before, after, key), (key,), title, (first,), top=top)


def changed(
    found: Frame, key: Sequence[str], title: str, first: Sequence[str], *, top: int
) -> Table:
    """The same of :func:`compare`'s own table, by one key or several."""
    cut = found if tuple(key) == ("size",) else found.head(top)
    rows = tuple(
        (
            *_names(name),
            f"{row['spans_before']:,}",
            f"{row['spans_after']:,}",
            duration(row["time_before"]),
            duration(row["time_after"]),
            ratio(row["time_ratio"]),
            human_bytes(row["bytes_before"]),
            human_bytes(row["bytes_after"]),
        )
        for name, row in zip(cut.index, _rows(cut), strict=True)
    )
    pairs = [f"{what} {when}" for what in ("copyups", "time") for when in ("before", "after")]
    columns = (*first, *pairs, "change", "data before", "data after")
    more = len(found) - len(cut)
    note = f"… and {more:,} more." if more else ""
    return Table(title, columns, rows, note, texts=len(first))


def typical(before: Frame, after: Frame, key: str, title: str, first: str) -> Table:
    """Medians of two runs by one grouping, and their ratio; what surely got slower first."""
    return typical_times(ratios(before, after), ratios(before, after, key), title, (first,))


def typical_times(whole: Frame, groups: Frame, title: str, first: Sequence[str]) -> Table:
    """The same of :func:`ratios`' own tables, of everything and by one key or several."""
    rows = []
    for found in (whole, groups):
        for name, row in zip(found.index, _rows(found), strict=True):
            sure = not math.isnan(row["ratio_low"] + row["ratio_high"])
            rows.append(
                (
                    *(_names(name) if found is groups else ("all", *[""] * (len(first) - 1))),
                    f"{row['spans_before']:,}",
                    f"{row['spans_after']:,}",
                    duration(row["p50_before"]),
                    duration(row["p50_after"]),
                    "–" if math.isnan(row["ratio"]) else f"{row['ratio']:.2f}",
                    f"{row['ratio_low']:.2f} to {row['ratio_high']:.2f}" if sure else "–",
                    str(row["verdict"]),
                )
            )
    pairs = ("copyups before", "copyups after", "median before", "median after")
    columns = (*first, *pairs, "ratio", "95 % interval", "verdict")
    note = "The ratio is after to before: above 1 is slower. “Unsure” needs more copyups."
    return Table(title, columns, tuple(rows), note, texts=len(first))
