"""``fallthru commit``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from overlay.cli.layers import (
    DIRECTORY,
    NamedLayers,
    agreed,
    bottoms_option,
    emit_json,
    json_option,
    named_layers,
    progress_shown,
    selection_options,
    unmounted_top_option,
    userxattr_option,
    work_option,
    yes_option,
)
from overlay.text import human_bytes, printable

if TYPE_CHECKING:
    from overlay.committing.commit import CommitConflict, Committed, Conflict


@click.command(short_help="Do what a top changes to its bottom.")
@json_option
@yes_option
@click.option(
    "-o",
    "--output",
    type=DIRECTORY,
    metavar="DIR",
    help="Make a new directory of it all instead, and leave the layers as they are.",
)
@selection_options
@click.option(
    "--on-conflict",
    type=click.Choice(["refuse", "keep", "overwrite"]),
    default="refuse",
    show_default=True,
    help="Where the bottom changed since: do nothing at all, keep what it has, or take the top's.",
)
@click.option("--keep-top", is_flag=True, help="Leave the top as it is.")
@click.option("--no-verify", is_flag=True, help="Do not compare all content before the top goes.")
@unmounted_top_option
@bottoms_option
@work_option
@userxattr_option
@click.argument("mount_point", metavar="[MOUNTPOINT]", type=DIRECTORY, required=False)
def commit(
    mount_point: str | None,
    top: str | None,
    bottoms: tuple[str, ...],
    work: str | None,
    userxattr: bool,
    output: str | None,
    only: tuple[str, ...],
    without: tuple[str, ...],
    on_conflict: str,
    keep_top: bool,
    no_verify: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Make the bottom what the union shows, and take what was committed off the top.

    The layers are those of the overlay at MOUNTPOINT, which is unmounted first, or --top
    and --bottom. Of several bottoms the uppermost is changed. What changed on the bottom
    since it was copied up is a conflict: nothing is done then, unless --on-conflict says
    what. After a crash or a full disk the same command goes on.

    \b
    Exit codes: 0 done, 1 some was left on the top, 4 conflicts, or the bottom is in use.

    \b
    Examples:
      fallthru commit --top /srv/top --bottom /srv/root
      fallthru commit --only 'etc/**' --top /srv/top --bottom /srv/root
      fallthru commit /mnt -o /srv/next
    """
    from overlay.committing.commit import CommitConflict, OnConflict
    from overlay.committing.commit import commit as commit_top
    from overlay.errors import EXIT_ANSWER_IS_NO
    from overlay.selection import select

    layers = named_layers("commit", mount_point, top, bottoms, work, userxattr)
    if output is None and not agreed(f"Change {printable(layers.bottoms[0])}?", yes):
        raise click.Abort
    unmount(layers)
    try:
        with progress_shown(as_json) as progress:
            done = commit_top(
                layers.top,
                layers.bottoms,
                output,
                work=layers.work,
                data_bottoms=layers.data_bottoms,
                family=layers.family,
                select=select(only, without),
                on_conflict=OnConflict(on_conflict),
                keep_top=keep_top,
                verify=not no_verify,
                progress=progress,
            )
    except CommitConflict as error:
        _show_conflicts(error, as_json)
        raise
    if as_json:
        emit_json(_record(done))
    else:
        click.echo(f"{done.entries} entries, {human_bytes(done.copied)} committed")
        for path in done.left:
            click.echo(f"left\t{printable(path)}")
    if done.left:
        click.get_current_context().exit(EXIT_ANSWER_IS_NO)


def unmount(layers: NamedLayers) -> None:
    """Unmount layers that were named by their mount point: they are about to change."""
    if layers.mount_point is not None:
        from overlay import kernel

        kernel.unmount(layers.mount_point)


def _show_conflicts(error: CommitConflict, as_json: bool) -> None:
    if as_json:
        emit_json({"conflicts": [_conflict(each) for each in error.conflicts]})
        return
    for each in error.conflicts:
        click.echo(f"conflict\t{printable(each.path)}\t{printable(each.newer)}")


def _conflict(each: Conflict) -> dict[str, str]:
    return {"path": printable(each.path), "newer": printable(each.newer)}


def _record(done: Committed) -> dict[str, object]:
    return {
        "entries": done.entries,
        "bytes": done.copied,
        "conflicts": [_conflict(each) for each in done.conflicts],
        "left": [printable(path) for path in done.left],
        "emptied": done.emptied,
    }
