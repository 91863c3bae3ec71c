"""``fallthru status``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from overlay.cli.layers import DIRECTORY, emit_json, json_option
from overlay.text import printable

if TYPE_CHECKING:
    from overlay.status import OverlayStatus


@click.command(short_help="Show the overlays that are mounted.")
@json_option
@click.argument("mount_point", metavar="[MOUNTPOINT]", type=DIRECTORY, required=False)
def status(mount_point: str | None, as_json: bool) -> None:
    """Show the overlay at MOUNTPOINT, or all overlays: layers, profile, what holds the bottom.

    The kernel's mountinfo is the only source, so overlays that something else mounted
    are shown too, without a profile.

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
    click.echo(f"{name}  {overlay.profile or 'not mounted by fallthru'}, {access}")
    click.echo(f"  top     {'none' if mount.top is None else printable(mount.top)}")
    for path, state in overlay.bottoms:
        held = "it cannot be reached" if state is None else state.reason
        click.echo(f"  bottom  {printable(path)}")
        click.echo(f"          {held}")
    if mount.work is not None:
        click.echo(f"  work    {printable(mount.work)}")
    shown = [
        f"{key}={printable(value)}" if value else key
        for key, value in mount.options.items()
        if key not in ("rw", "ro")
    ]
    click.echo(f"  options {','.join([*mount.vfs_options, *shown])}")
