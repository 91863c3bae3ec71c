"""Options that several trace commands share, so that they mean the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from overlay.cli.quantities import duration
from tracer.hooks import BACKENDS
from tracer.kinds import KINDS

if TYPE_CHECKING:
    from tracer.selection import Selection
    from tracer.session import Session

__all__ = [
    "kinds_of",
    "make_session",
    "noun_of",
    "recording_options",
    "selection_of",
    "selection_options",
]

Command = TypeVar("Command", bound=Callable[..., Any])

_COMMON = [
    click.option(
        "--uid",
        "uids",
        multiple=True,
        type=click.IntRange(min=0),
        metavar="U",
        help="Only this user's; may be repeated.",
    ),
    click.option(
        "--path", "under", metavar="P", help="Only this path in the union, and those below it."
    ),
    click.option(
        "--min-duration",
        "min_ns",
        type=duration,
        metavar="T",
        help="Only what took so long: 500us, 10ms.",
    ),
]
_RECORDING = [
    click.option(
        "--mount",
        "mounts",
        multiple=True,
        metavar="M",
        help="Only this union; may be repeated.  Default: all, also those mounted meanwhile.",
    ),
    click.option(
        "--pid",
        "pids",
        multiple=True,
        type=click.IntRange(min=1),
        metavar="P",
        help="Only this process and its descendants; may be repeated.",
    ),
    click.option("--cgroup", metavar="C", help="Only this cgroup2 directory and those below it."),
    click.option(
        "--container",
        metavar="NAME",
        help="Only this running container: its name, or the beginning of its id.",
    ),
    *_COMMON,
    click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        help="How to look into the kernel.  Default: the first of these that works here.",
    ),
    click.option(
        "--rows",
        multiple=True,
        type=click.Choice(KINDS[1:]),
        help="A row for each of these, not only histograms; may be repeated.",
    ),
    click.option("--lookups", is_flag=True, help="The same as --rows lookup."),
    click.option("--stacks", is_flag=True, help="Note the functions that made the call, too."),
]
_SELECTION = [
    click.option("--kind", "kinds", multiple=True, metavar="K", help="Only copyup, lookup, …"),
    click.option("--mount", "mounts", multiple=True, metavar="M", help="Only this mount point."),
    click.option(
        "--pid",
        "pids",
        multiple=True,
        type=click.IntRange(min=1),
        metavar="P",
        help="Only this process.",
    ),
    click.option("--comm", "comms", multiple=True, metavar="NAME", help="Only threads so named."),
    click.option("--op", "ops", multiple=True, metavar="CALL", help="Only this system call."),
    click.option(
        "--how", "hows", multiple=True, metavar="HOW", help="Only copy, reflink, metacopy or none."
    ),
    click.option(
        "--cgroup",
        "cgroups",
        multiple=True,
        metavar="C",
        help="Only this cgroup and those below it.",
    ),
    click.option(
        "--container", "containers", multiple=True, metavar="NAME", help="Only this container."
    ),
    *_COMMON,
    click.option("--failed", is_flag=True, help="Only system calls that failed."),
]


def _all(options: Sequence[Callable[[Command], Command]]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


#: What to trace; the values go to :func:`make_session`.
recording_options = _all(_RECORDING)
#: Which spans of a trace to use; the values go to :func:`selection_of`.
selection_options = _all(_SELECTION)


def selection_of(values: dict[str, Any]) -> Selection:
    """The selection that :data:`selection_options` gave."""
    from tracer.selection import Selection

    return Selection(**{name: value for name, value in values.items() if value})


def kinds_of(values: dict[str, Any]) -> tuple[str, ...]:
    """The kinds that :data:`recording_options` ask for."""
    return ("copyup", *values["rows"], *(["lookup"] if values["lookups"] else ()))


def noun_of(values: dict[str, Any]) -> str:
    """What to call spans of :func:`kinds_of`."""
    return "copyups" if kinds_of(values) == ("copyup",) else "spans"


def make_session(
    values: dict[str, Any], watched: Sequence[int] = (), command: Sequence[str] = ()
) -> Session:
    """A session by what :data:`recording_options` gave; ``watched`` processes are traced
    where the options name neither processes nor a cgroup."""
    from tracer.selection import Selection
    from tracer.session import Session

    pids = values["pids"] or (() if values["cgroup"] or values["container"] else watched)
    kept = Selection(uids=values["uids"], under=values["under"], min_ns=values["min_ns"] or 0)
    return Session(
        values["mounts"],
        pids,
        values["cgroup"],
        container=values["container"],
        selection=kept,
        command=command,
        backend=values["backend"],
        rows=kinds_of(values)[1:],
        stacks=values["stacks"],
    )
