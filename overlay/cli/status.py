"""``fallthru status``."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from overlay.cli.layers import DIRECTORY, emit_json, json_option
from overlay.text import printable

if TYPE_CHECKING:
    from overlay.status import BottomStatus, OverlayStatus


@click.command(short_help="Show the overlays that are mounted.")
@json_option
@click.argument("mount_point", metavar="[MOUNTPOINT]", type=DIRECTORY, required=False)
def status(mount_point: str | None, as_json: bool) -> None:
    """Show the overlay at MOUNTPOINT, or all overlays: layers, profile, what holds the bottom.

    Overlays that something else mounted are shown too, without a profile.  An overlay is
    tainted when one of its bottoms changed, or was free to, since it was mounted.

    \b
    Examples:
      fallthru status
      fallthru status /mnt
      fallthru status --json | jq '.[].top'
    """
    from overlay import mountinfo
    from overlay.status import survey

    chosen = None if mount_point is None else [mountinfo.overlay_at(mount_point)]
    found = survey(chosen)
    if as_json:
        emit_json([overlay.to_json() for overlay in found])
        return
    if not found:
        click.echo("no overlays are mounted")
    for number, overlay in enumerate(found):
        if number:
            click.echo()
        _show(overlay)


def _show(overlay: OverlayStatus) -> None:
    mount = overlay.mount
    access = "read-only" if overlay.read_only else "writable"
    name = click.style(printable(mount.mount_point), bold=True)
    state = ", tainted" if overlay.tainted else ""
    state += ", the root that this machine booted on" if overlay.booted else ""
    click.echo(f"{name}  {overlay.profile or 'not mounted by fallthru'}, {access}{state}")
    click.echo(f"  top     {'none' if mount.top is None else printable(mount.top)}")
    for bottom in overlay.bottoms:
        role = "index " if bottom is overlay.index else "bottom"
        click.echo(f"  {role}  {printable(bottom.name)}")
        click.echo(f"          {_kept(bottom)}")
        for taint in bottom.taints:
            seen = datetime.fromtimestamp(taint.seen).isoformat(" ", "seconds")
            warning = click.style("tainted", fg="red")
            click.echo(f"          {warning}: {taint.what} (seen {seen})")
    if mount.work is not None:
        click.echo(f"  work    {printable(mount.work)}")
    shown = [
        f"{key}={printable(value)}" if value else key
        for key, value in mount.options.items()
        if key not in ("rw", "ro")
    ]
    click.echo(f"  options {','.join([*mount.vfs_options, *shown])}")


def _kept(bottom: BottomStatus) -> str:
    if bottom.state is None:
        return "it cannot be reached"
    kept = bottom.state.reason
    if bottom.held:
        kept += ", made so by fallthru"
    if bottom.users > 1:
        kept += f"; {bottom.users} overlays rely on it"
    return kept
