"""Options that several subcommands share, so that they look and fail alike."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import click

from overlay.errors import UsageError
from overlay.text import printable

__all__ = [
    "DIRECTORY",
    "SIZE",
    "NamedLayers",
    "Progress",
    "agreed",
    "bottoms_option",
    "emit_json",
    "json_option",
    "key_value",
    "marks_option",
    "named_layers",
    "named_twice",
    "progress_shown",
    "required_bottoms_option",
    "selection_options",
    "unmounted_top_option",
    "userxattr_option",
    "whiteouts_option",
    "work_option",
    "yes_option",
]

#: Existence is checked where the directory is used, by descriptor and with a better message.
DIRECTORY = click.Path(path_type=str)


class _Size(click.ParamType):  # type: ignore[type-arg]
    """Bytes, with a binary unit if one is given: 4096, 64K, 2G."""

    name = "size"
    _units: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        text = str(value).upper().removesuffix("B").removesuffix("I")
        number, unit = text.rstrip("KMGT"), text[len(text.rstrip("KMGT")) :]
        if not number.isdecimal() or unit not in self._units:
            self.fail(f"{value!r} is no size: 4096, 64K, 512M, 2G", param, ctx)
        return int(number) << self._units[unit]


SIZE = _Size()

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")

unmounted_top_option = click.option(
    "--top", type=DIRECTORY, metavar="DIR", help="The top, when nothing is mounted."
)
_BOTTOM_HELP = "A bottom, uppermost first; may be given several times."
bottoms_option = click.option(
    "--bottom", "bottoms", type=DIRECTORY, metavar="DIR", multiple=True, help=_BOTTOM_HELP
)
required_bottoms_option = click.option(
    "--bottom",
    "bottoms",
    type=DIRECTORY,
    metavar="DIR",
    multiple=True,
    required=True,
    help=_BOTTOM_HELP,
)
userxattr_option = click.option(
    "--userxattr", is_flag=True, help="The top's marks are user.*, not trusted.*."
)
work_option = click.option(
    "--work", type=DIRECTORY, metavar="DIR", help="The work directory.  [default: TOP.work]"
)
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")

Progress = Callable[[int], None] | None


def selection_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--only`` and ``--except``, for :func:`overlay.selection.select`."""
    for name, what in (("--except", "Leave out"), ("--only", "Take only")):
        command = click.option(
            name,
            "without" if name == "--except" else "only",
            metavar="PATTERN",
            multiple=True,
            help=f"{what} paths that match, as `etc/*.conf` or `**/*.pyc`; may be repeated.",
        )(command)
    return command


def marks_option(name: str, what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """``--marks``, or the like for other marks: a family of attributes."""
    return _choice(name, ("trusted", "user"), what)


def whiteouts_option(what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """``--whiteouts``, for :class:`overlay.marks.Whiteout`."""
    return _choice("--whiteouts", ("device", "xattr"), what)


def _choice(
    name: str, values: tuple[str, ...], what: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        name, type=click.Choice(values), default=values[0], show_default=True, help=what
    )


@dataclass(frozen=True, slots=True)
class NamedLayers:
    """The layers that a command was given; bottoms uppermost first.

    ``mount_point`` is where they are mounted, if they were named by it.
    """

    top: str
    bottoms: tuple[str, ...]
    data_bottoms: tuple[str, ...] = ()
    work: str | None = None
    family: str = "trusted"
    mount_point: str | None = None


def named_layers(
    verb: str,
    mount_point: str | None,
    top: str | None,
    bottoms: tuple[str, ...],
    work: str | None = None,
    userxattr: bool = False,
    *,
    bottoms_needed: bool = True,
) -> NamedLayers:
    """The layers of the overlay at a mount point, or those named one by one; UsageError."""
    if mount_point is None:
        if top is None or (bottoms_needed and not bottoms):
            raise UsageError(
                "which layers? Neither a mount point nor a top with its bottoms was given",
                hint=f"fallthru {verb} MOUNTPOINT, or fallthru {verb} --top DIR --bottom DIR",
            )
        return NamedLayers(top, bottoms, (), work, "user" if userxattr else "trusted")
    if top is not None or bottoms or userxattr or work is not None:
        raise named_twice(mount_point)
    from overlay.mountinfo import overlay_at

    mount = overlay_at(mount_point)
    if mount.top is None:
        raise UsageError(
            f"the overlay at {printable(mount.mount_point)} has no top: nothing can have changed"
        )
    for path in (mount.top, *mount.bottoms, *mount.data_bottoms):
        if not path.startswith("/"):
            raise UsageError(
                f"the overlay was mounted with the relative path {printable(path)}, so nobody "
                "can tell where that was",
                hint=f"name the layers: fallthru {verb} --top DIR --bottom DIR",
            )
    return NamedLayers(
        mount.top, mount.bottoms, mount.data_bottoms, mount.work, mount.family, mount.mount_point
    )


def named_twice(mount_point: str) -> UsageError:
    """For layers that were given beside a mount point, or what was taken for one."""
    return UsageError(
        f"{printable(mount_point)} was given as a mount point, and layers too",
        hint="leave the layers out: a mount names its own; a top that is not mounted is --top DIR",
    )


def agreed(question: str, yes: bool) -> bool:
    """Whether the user says yes; UsageError where there is nobody to ask."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(f"{question} There is nobody to ask", hint="say --yes")
    return click.confirm(question, err=True)


@contextmanager
def progress_shown(quiet: bool) -> Iterator[Progress]:
    """A counter of entries on a terminal, to be told how many more; nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed:,.0f} entries"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda made: bar.advance(task, made)


def emit_json(value: object) -> None:
    """``value`` on standard output, as one JSON document."""
    click.echo(json.dumps(value, indent=2, default=os.fspath))


def key_value(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """``-o a=1,b -o c`` as (("a", "1"), ("b", ""), ("c", "")), in the order given."""
    pairs = []
    for value in values:
        for option in value.split(","):
            key, _, text = option.partition("=")
            if not key:
                raise click.BadParameter(f"an option needs a name: {value!r}")
            pairs.append((key, text))
    return tuple(pairs)
