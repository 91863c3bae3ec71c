"""``fallthru snapshot`` and ``fallthru rollback``."""

from __future__ import annotations

import os
from datetime import datetime

import click

from overlay.cli.layers import agreed, emit_json, json_option, work_option, yes_option
from overlay.errors import UsageError
from overlay.text import printable


@click.command(short_help="Keep what a top holds, to go back to.")
@click.option("--label", metavar="LABEL", help="What it is called.  [default: the time]")
@click.option("--stack", is_flag=True, help="Copy nothing: let the top become a bottom of NAME.")
@click.option("--squash", is_flag=True, help="Make one bottom of all that --stack made of NAME.")
@click.option("--list", "listing", is_flag=True, help="List the snapshots there are.")
@click.option("--remove", metavar="LABEL", help="Remove one.")
@work_option
@json_option
@click.argument("top", metavar="TOP|NAME")
def snapshot(
    top: str,
    label: str | None,
    stack: bool,
    squash: bool,
    listing: bool,
    remove: str | None,
    work: str | None,
    as_json: bool,
) -> None:
    """Take a snapshot of a top that is not mounted, or of the stopped root NAME.

    It is a copy beside the top, TOP.snapshots/LABEL, which shares its blocks where the file
    system can (xfs, btrfs). With --stack it is the top itself, at once and of any size: a
    new one goes over it.

    \b
    Examples:
      fallthru snapshot /srv/web.top
      fallthru snapshot --label before-upgrade web
      fallthru snapshot --stack web
      fallthru snapshot --list web
    """
    from overlay import snapshots
    from overlay.roots import snapshots as rootsnapshots

    if [stack, squash, listing, remove is not None].count(True) > 1:
        raise UsageError("--stack, --squash, --list and --remove are four things", hint="say one")
    name, place = _meant(top)
    if (stack or squash) and name is None:
        raise UsageError(
            f"{printable(top)} is a top, whose bottoms are not known",
            hint="name a root; or move the top away, and name it as the uppermost --bottom",
        )
    if remove is not None:
        if name is None:
            snapshots.remove(place, remove)
        else:
            rootsnapshots.remove(name, remove)
        return
    if listing:
        found = snapshots.snapshots(place)
    elif name is None:
        found = [snapshots.take(place, label, work=work)]
    elif squash:
        found = [rootsnapshots.squash(name, label)]
    else:
        found = [rootsnapshots.take(name, label, stack=stack)]
    if as_json:
        emit_json(
            [{"label": each.label, "taken": each.taken, "stacked": each.stacked} for each in found]
        )
        return
    for each in found:
        taken = datetime.fromtimestamp(each.taken).isoformat(" ", "seconds")
        click.echo(f"{each.label}  taken {taken}{', stacked' if each.stacked else ''}")


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
    from overlay.roots import snapshots as rootsnapshots

    name, place = _meant(top)
    if not agreed(f"Lose what {printable(place)} holds now?", yes):
        raise click.Abort
    if name is None:
        chosen = snapshots.roll_back(place, label, work=work)
    else:
        chosen = rootsnapshots.roll_back(name, label)
    click.echo(f"back at {chosen.label}")


def _meant(named: str) -> tuple[str | None, str]:
    """The root that is meant, if it is no path, and the top."""
    if os.sep in named or os.path.isdir(named):
        return None, named
    from overlay.roots import named as roots

    root, _ = roots.load(named)
    return named, root.top or ""
