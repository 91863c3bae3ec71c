"""``fallthru umount``."""

from __future__ import annotations

import click

from overlay.cli.layers import DIRECTORY


@click.command(short_help="Remove an overlay.")
@click.option("--lazy", is_flag=True, help="Take it out of sight now; it ends with its last user.")
@click.argument("mount_points", metavar="MOUNTPOINT...", type=DIRECTORY, nargs=-1, required=True)
def umount(mount_points: tuple[str, ...], lazy: bool) -> None:
    """Unmount overlays.  The tops stay as they are and can be mounted again.

    \b
    Examples:
      fallthru umount /mnt
      fallthru umount --lazy /mnt
    """
    from overlay import kernel

    for mount_point in mount_points:
        kernel.unmount(mount_point, lazy=lazy)
