"""``fallthru create``, ``start``, ``stop``, ``list``, ``exec`` and ``rm``: roots by name."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from overlay.cli.layers import agreed, emit_json, json_option, yes_option
from overlay.cli.rootoptions import (
    Inside,
    command_of,
    command_options,
    limits_of,
    root_of,
    root_options,
)
from overlay.errors import FallthruError
from overlay.text import printable

if TYPE_CHECKING:
    from overlay.roots.notes import Standing

_names = click.argument("names", metavar="NAME...", nargs=-1, required=True)


@click.command(short_help="Make a root that can be started.")
@root_options
@click.argument("name")
def create(name: str, **options: Any) -> None:
    """Make the root NAME; it is kept in /var/lib/fallthru/roots until `fallthru rm`.

    Without --top it gets a top of its own there.  Many roots may have one bottom.

    \b
    Examples:
      fallthru create web --bottom /srv/debian --net bridge=lab
      fallthru create build --bottom base.erofs --memory 2G --bind /srv/src
    """
    from overlay.roots import named as roots

    root = roots.create(root_of(name, options), limits_of(options))
    click.echo(printable(root.top or ""))


@click.command(short_help="Start roots.")
@_names
def start(names: tuple[str, ...]) -> None:
    """Start roots: their mounts, network and a first process, in which commands can be run.

    \b
    Examples:
      fallthru start web db
      fallthru exec web -- nginx
    """
    from overlay.roots import named as roots

    for name in names:
        roots.start(name)


@click.command(short_help="Stop roots.")
@click.option(
    "--timeout",
    type=float,
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="How long its processes may take to end, before they are killed.",
)
@_names
def stop(names: tuple[str, ...], timeout: float) -> None:
    """End everything in roots; their tops stay, and they can be started again.

    \b
    Examples:
      fallthru stop web db
      fallthru stop --timeout 0 web
    """
    from overlay.roots import named as roots

    for name in names:
        roots.stop(name, patience=timeout)


@click.command("list", short_help="List the roots, and which of them run.")
@json_option
def list_(as_json: bool) -> None:
    """List the roots: what they consist of is in `fallthru list --json`.

    \b
    Examples:
      fallthru list
      fallthru list --json | jq '.[] | select(.running) | .name'
    """
    from overlay.roots import notes as rootnotes

    standings = rootnotes.standings()
    found = rootnotes.names()
    if as_json:
        emit_json([_record(name, standings.get(name)) for name in found])
        return
    # All at once: each echo is a write.
    click.echo(
        "\n".join(_line(name, standings.get(name)) for name in found) or "there are no roots"
    )


def _line(name: str, standing: Standing | None) -> str:
    if standing is None:
        return f"{name}  stopped"
    since = datetime.fromtimestamp(standing.since).isoformat(" ", "seconds")
    address = f"  {standing.address}" if standing.address else ""
    newer = ", started by a newer fallthru" if standing.newer else ""
    return f"{name}  running since {since}, process {standing.pid}{address}{newer}"


def _record(name: str, standing: Any) -> dict[str, object]:
    from overlay.roots import named as roots

    state: dict[str, object] = {
        "name": name,
        "running": standing is not None,
        "pid": standing and standing.pid,
        "since": standing and standing.since,
        "address": standing and standing.address,
    }
    try:
        root, _ = roots.load(name)
    except FallthruError as error:
        return {**state, "error": str(error)}  # the others are listed all the same
    return {
        **state,
        "bottoms": [printable(path) for path in root.bottoms],
        "top": printable(root.top or ""),
        "profile": root.profile,
        "network": root.network.kind + (f"={root.network.bridge}" if root.network.bridge else ""),
    }


@click.command(
    "exec",
    short_help="Run a command in a root that runs.",
    context_settings={"allow_interspersed_args": False},
)
@command_options
@click.argument("name")
@click.argument("words", metavar="[--] COMMAND...", nargs=-1, required=True)
@click.pass_context
def exec_(
    context: click.Context,
    name: str,
    user: str | None,
    directory: str,
    environment: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    """Run COMMAND in the root NAME, beside what runs there.  The exit code is the command's.

    \b
    Examples:
      fallthru exec web -- /bin/bash
      fallthru exec --user www-data web -- id
    """
    from overlay.roots import named as roots

    if words[0] == "--":
        words = words[1:]  # after NAME click takes it for a word
    if not words:
        raise click.UsageError("which command?")
    inside = Inside(user, directory, environment)
    context.exit(roots.execute(name, command_of(words, inside)))


@click.command("rm", short_help="Remove roots, with their tops.")
@yes_option
@_names
def rm(names: tuple[str, ...], yes: bool) -> None:
    """Remove stopped roots, and the tops that are kept with them.  Bottoms stay.

    \b
    Examples:
      fallthru rm web
      fallthru rm --yes web db
    """
    from overlay.roots import named as roots

    if not agreed(f"Remove {', '.join(names)} and what was changed in them?", yes):
        raise click.Abort
    for name in names:
        roots.remove(name)
