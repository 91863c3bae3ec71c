"""The options of ``fallthru run`` and ``create``: what a root consists of and may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from overlay.cli.layers import DIRECTORY, SIZE
from overlay.profiles import DEFAULT, PROFILES

if TYPE_CHECKING:
    from overlay.roots.cgroups import Limits
    from overlay.roots.enclosure import Command
    from overlay.roots.root import Bind, Root

__all__ = ["Inside", "command_of", "command_options", "limits_of", "root_of", "root_options"]

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])

#: What a root's command finds in its environment, besides what its user adds.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INHERITED = ("TERM", "COLORTERM", "LANG", "LC_ALL", "TZ")


@dataclass(frozen=True, slots=True)
class Inside:
    """How a command runs in a root."""

    user: str | None
    directory: str
    environment: tuple[str, ...]


def _applied(options: list[Callable[[_Decorated], _Decorated]], to: _Decorated) -> _Decorated:
    for option in reversed(options):
        to = option(to)
    return to


def root_options(function: _Decorated) -> _Decorated:
    """Everything that :func:`root_of` and :func:`limits_of` take."""
    return _applied(
        [
            click.option(
                "--bottom",
                "bottoms",
                type=DIRECTORY,
                multiple=True,
                required=True,
                help="A directory, image or block device; several, uppermost first.",
            ),
            click.option("--top", type=DIRECTORY, help="The directory that takes all writes."),
            click.option(
                "--work", type=DIRECTORY, help="Scratch directory of the top.  [default: TOP.work]"
            ),
            click.option(
                "--profile",
                type=click.Choice(list(PROFILES)),
                default=DEFAULT,
                show_default=True,
                help="What the union promises, as for `fallthru mount`.",
            ),
            click.option(
                "--net",
                "network",
                default="none",
                show_default=True,
                metavar="none|host|isolated|bridge=NAME",
                help="The network: only a loopback; this machine's; a link to this machine; "
                "one with all roots on a bridge.",
            ),
            click.option(
                "--bind",
                "binds",
                metavar="PATH[:PLACE]",
                multiple=True,
                help="Show a path of this system in the root, writable.",
            ),
            click.option(
                "--ro-bind",
                "read_only_binds",
                metavar="PATH[:PLACE]",
                multiple=True,
                help="The same, read-only.",
            ),
            click.option(
                "--persist",
                metavar="PATH",
                multiple=True,
                help="A path in the root that writes through to the bottom.",
            ),
            click.option("--memory", type=SIZE, metavar="SIZE", help="Limit of its memory."),
            click.option("--cpus", type=float, metavar="N", help="Limit of its processors."),
            click.option("--pids", type=int, metavar="N", help="Limit of its processes."),
            click.option(
                "--allow-submounts",
                is_flag=True,
                help="Cover file systems that are mounted read-write below a bottom.",
            ),
        ],
        function,
    )


def command_options(function: _Decorated) -> _Decorated:
    """Everything that :class:`Inside` takes."""
    return _applied(
        [
            click.option(
                "--user", metavar="USER[:GROUP]", help="Who runs the command, by the root's passwd."
            ),
            click.option(
                "--cwd", "directory", default="/", show_default=True, help="Where it starts."
            ),
            click.option(
                "--env",
                "environment",
                metavar="NAME[=VALUE]",
                multiple=True,
                help="A variable of its environment; without a value, the one of this shell.",
            ),
        ],
        function,
    )


def root_of(name: str, options: dict[str, Any]) -> Root:
    """The root that the options describe; UsageError for a wrong network or bind."""
    from overlay.roots import net
    from overlay.roots.root import Root

    binds = [_bind(text, False) for text in options["binds"]]
    binds += [_bind(text, True) for text in options["read_only_binds"]]
    return Root(
        name=name,
        bottoms=tuple(os.path.abspath(path) for path in options["bottoms"]),
        top=_absolute(options["top"]),
        work=_absolute(options["work"]),
        profile=options["profile"],
        binds=tuple(binds),
        persist=options["persist"],
        network=net.parse(options["network"]),
        allow_submounts=options["allow_submounts"],
    )


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def _bind(text: str, read_only: bool) -> Bind:
    from overlay.roots.root import Bind

    source, _, place = text.partition(":")
    source = os.path.abspath(source)
    return Bind(source, place or source, read_only)


def limits_of(options: dict[str, Any]) -> Limits:
    """The limits among the options."""
    from overlay.roots.cgroups import Limits

    return Limits(options["memory"], options["cpus"], options["pids"])


def command_of(words: tuple[str, ...], inside: Inside) -> Command:
    """A command in a root; its user is looked up there, once the root is in place."""
    from overlay.roots import users
    from overlay.roots.enclosure import Command

    environment = {"PATH": _PATH}
    environment |= {name: os.environ[name] for name in _INHERITED if name in os.environ}
    given = dict(_variable(text) for text in inside.environment)

    def become() -> dict[str, str]:
        user = users.find(inside.user or "0")
        if inside.user is not None:
            user.become()
        return {**user.environment(), **given}

    return Command(words, {**environment, **given}, inside.directory, become)


def _variable(text: str) -> tuple[str, str]:
    name, given, value = text.partition("=")
    return name, value if given else os.environ.get(name, "")
