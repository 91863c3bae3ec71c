"""``fallthru trace top``."""

from __future__ import annotations

import json
import select
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from overlay.cli.quantities import duration
from tracer.cli.options import kinds_of, make_session, noun_of, recording_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from tracer.live import Live
    from tracer.session import Session

__all__ = ["top"]


@click.command()
@recording_options
@click.option(
    "--interval",
    type=duration,
    metavar="T",
    default="1s",
    show_default=True,
    help="Time between two looks.",
)
@click.option("--for", "lasting", type=duration, metavar="T", help="End after this time: 30s.")
@click.option("--once", is_flag=True, help="Show one interval, and end.")
@click.option(
    "--lines", type=click.IntRange(min=1), metavar="N", help="Processes, and files, shown."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document each interval.")
def top(
    *,
    interval: int,
    lasting: int | None,
    once: bool,
    lines: int | None,
    as_json: bool,
    **filters: Any,
) -> None:
    """Watch copyups live: rates, latency, the processes and files that cost most.

    Rates, latency and the order are those of the last ten seconds; TIME is the share of
    one processor that went into copyup.  Grey lines were busy before, and are not now.
    In a pipe it prints a line each interval.  Ctrl-C ends it.

    \b
    Examples:
      fallthru trace top
      fallthru trace top --mount /mnt --min-duration 1ms
      fallthru trace top --interval 10s | tee copyups.log
      fallthru trace top --once --interval 5s --json | jq '.processes[0]'
    """
    from tracer.footprint import keep_nothing, stay_small
    from tracer.recorder import stop_signals

    stay_small()
    title = _title(filters)
    with make_session(filters) as session, stop_signals() as wake:
        began = time.monotonic()
        keep_nothing()
        looks = _looks(
            session, wake, began, interval / 1e9, 0 if once else lasting, kinds_of(filters)
        )
        if as_json:
            for live in looks:
                click.echo(json.dumps(live.snapshot(lines or 20, session.lost).as_data()))
        elif sys.stdout.isatty() or once:
            _screens(looks, session, title, lines, once, noun_of(filters))
        else:
            from tracer.topscreen import line

            for live in looks:
                clock = time.strftime("%H:%M:%S")
                click.echo(line(live.snapshot(1, session.lost), clock))
                sys.stdout.flush()


def _title(filters: dict[str, Any]) -> str:
    from overlay.text import printable

    wanted = [printable(mount) for mount in filters["mounts"]] or ["all unions"]
    wanted += [f"pid {pid}" for pid in filters["pids"]]
    wanted += [f"uid {uid}" for uid in filters["uids"]]
    wanted += [
        printable(filters[name]) for name in ("cgroup", "container", "under") if filters[name]
    ]
    return ", ".join(wanted)


def _looks(
    session: Session,
    wake: int,
    began: float,
    interval: float,
    lasting: int | None,
    kinds: tuple[str, ...],
) -> Iterator[Live]:
    """The account after each interval, until there is something to read from ``wake``."""
    from tracer.live import Live
    from tracer.selection import Selection

    # Not the operations that copyups were a part of: their time is in both.
    counted = Selection(kinds=kinds)
    live, looks, over = Live(began), 0, False
    while not over:
        looks += 1
        # At whole intervals, however long showing takes.
        wait = began + looks * interval - time.monotonic()
        over = bool(select.select([wake], [], [], max(wait, 0))[0])
        now = time.monotonic()
        live.add(counted.apply(session.drain()), now)
        over = over or (lasting is not None and now - began >= lasting / 1e9)
        yield live


def _screens(
    looks: Iterator[Live], session: Session, title: str, lines: int | None, once: bool, noun: str
) -> None:
    """On a terminal of its own for the time, and the last one where people find it later."""
    from rich.console import Console
    from rich.live import Live as Display

    from tracer.topscreen import rows_for, screen

    console = Console(markup=False, highlight=False)

    def made(live: Live) -> RenderableType:
        count = lines or (10 if once else rows_for(console.height))
        return screen(live.snapshot(count, session.lost), title, console.width, noun)

    last = None
    with Display(console=console, screen=not once, auto_refresh=False, transient=True) as display:
        for live in looks:
            last = made(live)
            if not once:
                display.update(last, refresh=True)
    if last is not None:
        console.print(last)
