"""``fallthru snapshot`` and ``fallthru rollback``."""

from __future__ import annotations

import os
from datetime import datetime

import click

from overlay.cli.layers import agreed, emit_json, json_option, work_option, yes_option
from overlay.text import printable


@click.command(short_help="Copy what a top holds, to go back to.")
@click.option("--label", metavar="LABEL", help="What it is called.  [default: the time]")
@click.option("--list", "listing", is_flag=True, help="List the snapshots there are.")
@click.option("--remove", metavar="LABEL", help="Remove one.")
@work_option
@json_option
@click.argument("top", metavar="TOP|NAME")
def snapshot(
    top: str,
    label: str | None,
    listing: bool,
    remove: str | None,
    work: str | None,
    as_json: bool,
) -> None:
    """Take a snapshot of a top that is not mounted, or of the stopped root NAME.

    It is a copy beside the top, TOP.snapshots/LABEL, which shares its blocks where the file
    system can (xfs, btrfs).

    \b
    Examples:
      fallthru snapshot /srv/web.top
      fallthru snapshot --label before-upgrade web
      fallthru snapshot --list web
    """
    from overlay import snapshots

    top, work = _top_of(top, work)
    if remove is not None:
        snapshots.remove(top, remove)
        return
    found = snapshots.snapshots(top) if listing else [snapshots.take(top, label, work=work)]
    if as_json:
        emit_json([{"label": each.label, "taken": each.taken} for each in found])
        return
    for each in found:
        taken = datetime.fromtimestamp(each.taken).isoformat(" ", "seconds")
        click.echo(f"{each.label}  taken {taken}")


@click.command(short_help="Make a top what it was at a snapshot.")
@work_option
@yes_option
@click.argument("top", metavar="TOP|NAME")
@click.argument("label", required=False)
def rollback(top: str, label: str | None, work: str | None, yes: bool) -> None:
    """Make a top that is not mounted, or that of the stopped root NAME, what it was at the
    snapshot LABEL, or the latest. What it holds now is lost; the snapshot stays.

    \b
    Examples:
      fallthru rollback web
      fallthru rollback --yes /srv/web.top before-upgrade
    """
    from overlay import snapshots

    top, work = _top_of(top, work)
    if not agreed(f"Lose what {printable(top)} holds now?", yes):
        raise click.Abort
    chosen = snapshots.roll_back(top, label, work=work)
    click.echo(f"back at {chosen.label}")


def _top_of(named: str, work: str | None) -> tuple[str, str | None]:
    """The top that is meant, and its work directory: of a root if it is no path."""
    if os.sep in named or os.path.isdir(named):
        return named, work
    from overlay import roots

    root, _ = roots.load(named)
    return root.top or "", work or root.work
