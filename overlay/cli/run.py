"""``fallthru run``."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import click

from overlay.cli.rootoptions import (
    Inside,
    command_of,
    command_options,
    limits_of,
    root_of,
    root_options,
)


@click.command(
    short_help="Run a command in a root of its own.",
    context_settings={"allow_interspersed_args": False},
)
@root_options
@command_options
@click.option("--hostname", metavar="NAME", help="What the root calls itself.  [default: run-PID]")
@click.argument("words", metavar="[--] COMMAND...", nargs=-1, required=True)
@click.pass_context
def run(
    context: click.Context,
    /,
    hostname: str | None,
    user: str | None,
    directory: str,
    environment: tuple[str, ...],
    words: tuple[str, ...],
    **options: Any,
) -> None:
    """Run COMMAND in a root of its own: the --top over the --bottom is its whole file system.

    It has its own processes, host name, and network; /proc, /sys, /dev and /run are fresh.
    Without --top the changes are in memory, and lost.  The exit code is the command's.  When
    it ends, or fallthru is killed, everything that it started ends, and nothing is left.

    It is no prison: root in it is root.  An ordinary user is root in a namespace of his own.

    \b
    Examples:
      fallthru run --bottom /srv/debian --top /srv/web.top -- /bin/bash
      fallthru run --bottom base.erofs --net host --user nobody -- id
      fallthru run --bottom / --ro-bind /srv/data --memory 512M -- make check
      fallthru run --bottom /srv/debian --net bridge=lab --hostname db -- postgres
    """
    from overlay.privilege import in_user_namespace
    from overlay.roots import cgroups, enclosure, net
    from overlay.roots.notes import check_name
    from overlay.roots.root import Builder, open_union

    root = root_of(hostname or f"run-{os.getpid()}", options)
    check_name(root.name)
    command = command_of(words, Inside(user, directory, environment))
    as_user = os.geteuid() != 0 or in_user_namespace()
    group = cgroups.make(f"{root.name}.{os.getpid()}", limits_of(options))
    pids: list[int] = []

    def outside(pid: int) -> None:
        pids.append(pid)
        if group is not None:
            group.add(pid)
        net.connect(root.network, pid, root.name)

    tidy = partial(_tidy, group, root.network)
    try:
        union = None if as_user or root.top is None else open_union(root)
        builder = Builder(root, union, _terminal())
        ending = enclosure.run(
            command,
            enclosure.Enclosure(
                root.namespaces,
                builder.build,
                as_user,
                as_root=as_user,
                outside=outside,
                cleanup=tidy,
            ),
        )
    finally:
        tidy(*pids)
    context.exit(ending.code)


def _tidy(group: Any, network: Any, pid: int = 0) -> None:
    """Undo what stays outside a root when its processes are gone."""
    from overlay.roots import net

    if group is not None:
        group.remove()
    if pid:
        net.disconnect(network, pid)


def _terminal() -> str | None:
    try:
        return os.ttyname(0)
    except OSError:
        return None
