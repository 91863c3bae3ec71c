"""``trace top`` as people see it: a screen of 80 columns or more, or a line an interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from overlay.text import human_bytes, human_time

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from tracer.live import Snapshot

__all__ = ["line", "rows_for", "screen"]

_BLOCKS = " ▁▂▃▄▅▆▇█"
_SCALE = [10**power for power in range(3, 11)]  # 1 µs to 10 s


def line(snapshot: Snapshot, clock: str) -> str:
    """One line for a pipe: rates, latency, and what costs most."""
    now, latency = snapshot.now, snapshot.latency
    parts = [
        clock,
        f"{_rate(now.count, snapshot)}/s",
        f"{human_bytes(now.bytes / max(snapshot.seconds, 1e-9))}/s",
        f"time {_share(now.ns, snapshot)}",
        f"p50 {human_time(latency.quantile(0.5))}",
        f"p99 {human_time(latency.quantile(0.99))}",
        f"max {human_time(latency.greatest)}",
        f"failed {now.failed}",
        f"lost {snapshot.lost}",
    ]
    if snapshot.processes and snapshot.processes[0][1].count:
        (pid, comm, op, _), cost, _ = snapshot.processes[0]
        parts.append(f"{comm}[{pid}] {op} {100 * cost.ns / max(now.ns, 1):.0f} %")
    return "  ".join(parts)


def rows_for(height: int) -> int:
    """Processes, and files, that fit a terminal of so many lines."""
    return max((height - 12) // 2, 2)


def screen(snapshot: Snapshot, title: str, width: int, noun: str = "copyups") -> RenderableType:
    """The whole screen.  ``title`` says what is traced, and how."""
    from rich.console import Group
    from rich.text import Text

    now, total, latency = snapshot.now, snapshot.total, snapshot.latency
    head = Text(no_wrap=True, overflow="ellipsis")
    head.append("fallthru top", style="bold")
    head.append(f"  {title}  {_clock(snapshot.elapsed)}")
    head.append(
        f"  (rates and latency: last {human_time(snapshot.seconds * 1e9, trim=True)})", style="dim"
    )
    rates = Text(no_wrap=True, overflow="ellipsis")
    rates.append(f"{_rate(now.count, snapshot)}", style="bold")
    rates.append(f" {noun}/s   ")
    rates.append(f"{human_bytes(now.bytes / max(snapshot.seconds, 1e-9))}/s", style="bold")
    rates.append(" copied   ")
    rates.append(_share(now.ns, snapshot), style="bold")
    rates.append(" of the time")
    if now.failed:
        rates.append(f"   {now.failed:,} failed", style="bold red")
    sums = Text(
        f"{total.count:,} in all, {human_bytes(total.bytes)}, {human_time(total.ns)}",
        style="dim",
    )
    if snapshot.lost:
        sums.append(f"   {snapshot.lost:,} records LOST", style="bold red not dim")
    marks = Text(no_wrap=True, overflow="ellipsis")
    if latency.total:
        for share in (50, 90, 99):
            marks.append(f"p{share} ", style="dim")
            marks.append(f"{human_time(latency.quantile(share / 100))}   ", style="bold")
        marks.append("longest ", style="dim")
        marks.append(human_time(latency.greatest), style="bold")
    else:
        marks.append(f"no {noun}", style="dim")
    return Group(
        head, rates, sums, Text(), marks, *_graph(snapshot, width), Text(),
        _processes(snapshot), Text(), _files(snapshot, width, noun),
    )  # fmt: skip


def _graph(snapshot: Snapshot, width: int) -> tuple[RenderableType, RenderableType]:
    """Latency from 1 µs to 10 s on a logarithmic scale: bars, and the scale below."""
    from math import log10

    from rich.text import Text

    cells = min(width - 2, 77)
    counts = [0.0] * cells
    per_decade = cells / (len(_SCALE) - 1)
    for bucket in snapshot.latency.buckets(4):
        if bucket.count:
            middle = max((bucket.low + bucket.high) / 2, 1)
            place = int((log10(middle) - 3) * per_decade)
            counts[min(max(place, 0), cells - 1)] += bucket.count
    most = max(counts)
    bars = (
        "".join(_BLOCKS[max(round(count / most * 8), 1)] if count else " " for count in counts)
        if most
        else ""
    )
    scale = [" "] * (cells + 2)
    for number, mark in enumerate(_SCALE[:-1]):
        text = f"|{human_time(mark, trim=True)}"
        at = round(number * per_decade)
        scale[at : at + len(text)] = text
    return Text(bars, style="cyan", no_wrap=True), Text("".join(scale)[:width], style="dim")


def _table(*columns: tuple[str, int | None, bool]) -> Table:
    """Columns by title, width (None: what is left), and whether they hold numbers."""
    from rich.table import Table

    made = Table(
        box=None, padding=(0, 2, 0, 0), pad_edge=False, expand=True, header_style="reverse"
    )
    for title, width, number in columns:
        made.add_column(
            title,
            width=width,
            ratio=None if width else 1,
            justify="right" if number else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    return made


def _processes(snapshot: Snapshot) -> Table:
    from rich.text import Text

    made = _table(
        ("PID", 7, True), ("PROCESS", None, False), ("CALL", 10, False), ("/s", 7, True),
        ("DATA/s", 9, True), ("TIME", 6, True), ("IN ALL", 8, True), ("TIME", 7, True),
    )  # fmt: skip
    for (pid, comm, op, container), now, total in snapshot.processes:
        made.add_row(
            str(pid),
            Text(f"{comm} ({container})" if container else comm),
            Text(op),
            _rate(now.count, snapshot) if now.count else "",
            human_bytes(now.bytes / max(snapshot.seconds, 1e-9)) if now.bytes else "",
            _share(now.ns, snapshot) if now.count else "",
            f"{total.count:,}",
            human_time(total.ns),
            style="" if now.count else "dim",
        )
    return made


def _files(snapshot: Snapshot, width: int, noun: str) -> Table:
    from rich.text import Text

    made = _table(
        ("FILE", None, False), (noun.upper(), 7, True), ("DATA", 9, True), ("TIME", 8, True)
    )
    room = width - 33
    for (path,), now, total in snapshot.files:
        made.add_row(
            Text(_end_of(path, room)),
            f"{total.count:,}",
            human_bytes(total.bytes),
            human_time(total.ns),
            style="" if now.count else "dim",
        )
    return made


def _end_of(path: str, room: int) -> str:
    """The end of a path says more than its beginning."""
    return path if len(path) <= room else "…" + path[len(path) - room + 1 :]


def _rate(count: int, snapshot: Snapshot) -> str:
    rate = count / max(snapshot.seconds, 1e-9)
    return f"{rate:,.0f}" if rate >= 9.95 or not count else f"{rate:.1f}"


def _share(ns: int, snapshot: Snapshot) -> str:
    """Of one processor's time: several threads can make it more than 100 %."""
    return f"{100 * ns / 1e9 / max(snapshot.seconds, 1e-9):.0f} %"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
