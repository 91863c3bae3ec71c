"""``fallthru mount``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from overlay.cli.layers import DIRECTORY, key_value
from overlay.profiles import DEFAULT, PROFILES
from overlay.text import printable

if TYPE_CHECKING:
    from overlay.conflicts import Covered

PROFILE_HELP = "What the mount promises. " + "; ".join(
    f"{profile.name}: {profile.summary}" for profile in PROFILES.values()
)


@click.command(short_help="Mount a top over its bottoms.")
@click.option(
    "--bottom",
    "bottoms",
    type=DIRECTORY,
    multiple=True,
    required=True,
    help="The read-only directory below, or an image or block device; several, uppermost first.",
)
@click.option("--top", type=DIRECTORY, required=True, help="The directory that takes all writes.")
@click.option("--work", type=DIRECTORY, help="Scratch directory of the top.  [default: TOP.work]")
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    default=DEFAULT,
    show_default=True,
    help=PROFILE_HELP,
)
@click.option(
    "-o",
    "options",
    metavar="KEY[=VALUE]",
    multiple=True,
    callback=key_value,
    help="An overlayfs option, over what the profile pins.",
)
@click.option(
    "--require-read-only",
    is_flag=True,
    help="Refuse unless the kernel itself keeps every bottom read-only.",
)
@click.option(
    "--index",
    type=DIRECTORY,
    metavar="META",
    help="The bottoms' shared index, made by `fallthru prime --shared`.",
)
@click.option(
    "--hold/--no-hold",
    default=True,
    show_default=True,
    help="Keep the block device of a read-only bottom read-only while an overlay relies on it.",
)
@click.option(
    "--hold-lsm",
    is_flag=True,
    help="Where it has none (tmpfs), or does not heed it (btrfs), load a BPF LSM program to do so.",
)
@click.option(
    "--allow-submounts",
    is_flag=True,
    help="Cover file systems that are mounted read-write below a bottom.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Print the mount command, mount nothing.")
@click.argument("mount_point", metavar="MOUNTPOINT", type=DIRECTORY)
def mount(
    bottoms: tuple[str, ...],
    top: str,
    work: str | None,
    profile: str,
    options: tuple[tuple[str, str], ...],
    require_read_only: bool,
    index: str | None,
    hold: bool,
    hold_lsm: bool,
    allow_submounts: bool,
    dry_run: bool,
    mount_point: str,
) -> None:
    """Mount the directory --top, writable, over the directories --bottom.

    Lookups begin in the top and end in the bottom; every write goes to the top, and the
    bottom is never changed.  A work directory is made beside the top when none is named.

    \b
    Examples:
      fallthru mount --bottom /usr --top /srv/usr-top /mnt
      fallthru mount --bottom /usr --top /srv/usr-top --profile fallthru /mnt
      fallthru mount --bottom app --bottom base --top /srv/top /mnt
      fallthru mount --bottom /srv/base.erofs --top /srv/top /mnt
      fallthru mount --index /srv/usr.meta --bottom /usr --top /srv/usr-top /mnt
    """
    from overlay import conflicts, kernel

    overlay = kernel.Overlay(
        bottoms,
        top,
        work,
        profile,
        options,
        require_read_only,
        hold=hold,
        hold_lsm=hold_lsm,
        index=index,
    )
    if dry_run:
        click.echo(overlay.describe(mount_point))
        return
    tell_covered(conflicts.mount(overlay, mount_point, allow_submounts=allow_submounts))


def tell_covered(covered: list[Covered], command_name: str = "fallthru") -> None:
    """Say on standard error which file systems with data the union does not show."""
    missed = [mount for mount in covered if mount.holds_data]
    if missed:
        names = ", ".join(printable(mount.mount_point) for mount in missed)
        click.echo(f"{command_name}: the union does not show what is mounted at {names}", err=True)
