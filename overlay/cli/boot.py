"""``fallthru boot``: what it takes that a machine's root is an overlay."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from overlay.cli.layers import DIRECTORY, emit_json, json_option
from overlay.profiles import DEFAULT, PROFILES
from overlay.text import printable

if TYPE_CHECKING:
    from overlay.booting.systems import Finding

__all__ = ["boot"]

_root_option = click.option(
    "--root",
    type=DIRECTORY,
    default="/",
    show_default=True,
    metavar="DIR",
    help="The system, as an image's tree that is mounted somewhere.",
)
_maker_option = click.option(
    "--for",
    "maker_name",
    type=click.Choice(["initramfs-tools", "dracut"]),
    help="What makes the initramfs.  [default: what is installed]",
)


@click.group(
    short_help="Have a machine boot on an overlay.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
def boot() -> None:
    """Have a machine boot with a writable top over read-only bottoms as its root.

    `install` puts a hook into the system, the initramfs made by it mounts the root, and
    `line` says what to add to the kernel's command line.  Without that a boot is as before.

    \b
    Examples:
      fallthru boot install && update-initramfs -u
      fallthru boot check
      fallthru boot line --bottom /srv/debian.squashfs --top tmpfs
    """


@boot.command(short_help="Put the hook for the initramfs in its place.")
@_root_option
@_maker_option
def install(root: str, maker_name: str | None) -> None:
    """Put what an initramfs takes into the system: a hook for initramfs-tools or for dracut.

    It has an effect once the initramfs is made anew, which the last line tells how to do, and
    then only with fallthru= on the kernel's command line.

    \b
    Examples:
      fallthru boot install
      fallthru boot install --root /mnt/image
    """
    from overlay.booting import files as bootfiles

    maker = bootfiles.maker_of(root, maker_name)
    for file in bootfiles.install(root, maker):
        click.echo(printable(os.path.join(root, file.path)))
    click.echo(f"next: {_inside(root, maker.command)}")


@boot.command(short_help="Take it away again.")
@_root_option
@_maker_option
def remove(root: str, maker_name: str | None) -> None:
    """Take away all that `install` put there.  An initramfs that has it keeps it until it is
    made anew.

    \b
    Examples:
      fallthru boot remove
    """
    from overlay.booting import files as bootfiles

    maker = bootfiles.maker_of(root, maker_name)
    gone = bootfiles.remove(root, maker)
    for file in gone:
        click.echo(f"removed {printable(os.path.join(root, file.path))}")
    if gone:
        click.echo(f"next: {_inside(root, maker.command)}")


def _inside(root: str, command: str) -> str:
    return command if root == "/" else f"chroot {printable(root)} {command}"


@boot.command(short_help="Tell whether the system can boot so.")
@_root_option
@_maker_option
@json_option
def check(root: str, maker_name: str | None, as_json: bool) -> None:
    """Tell what is missing for a boot on an overlay: the files of this version, the programs
    that they take, and an initramfs made since.  Exit code 1 if anything is.

    \b
    Examples:
      fallthru boot check
      fallthru boot check --root /mnt/image --json
    """
    from overlay.booting import files as bootfiles
    from overlay.booting import systems as bootcheck
    from overlay.errors import EXIT_ANSWER_IS_NO

    maker = bootfiles.maker_of(root, maker_name)
    found = bootcheck.check(root, maker)
    if as_json:
        emit_json({"maker": maker.label, "checks": [_plain(each) for each in found]})
    else:
        for each in found:
            state = click.style("ok", fg="green") if each.good else click.style("no", fg="red")
            click.echo(f"{state}  {each.what}")
            if not each.good:
                click.echo(f"    → {each.remedy}")
    if not all(each.good for each in found):
        sys.exit(EXIT_ANSWER_IS_NO)


def _plain(finding: Finding) -> dict[str, Any]:
    remedy = None if finding.good else finding.remedy
    return {"what": finding.what, "ok": finding.good, "remedy": remedy}


@boot.command(short_help="Print the word for the kernel's command line.")
@click.option(
    "--bottom",
    "bottoms",
    metavar="SOURCE",
    multiple=True,
    required=True,
    help="An image, directory or device, uppermost first; may be given several times.",
)
@click.option(
    "--top",
    metavar="SOURCE",
    required=True,
    help="A directory or device that keeps it, or tmpfs, which does not.",
)
@click.option("--profile", type=click.Choice(list(PROFILES)), default=DEFAULT, show_default=True)
@click.option("--size", metavar="SIZE", help="Of a top in memory: 512M, 75%.  [default: 50%]")
@click.option(
    "--wait",
    type=click.IntRange(0),
    metavar="SECONDS",
    help="How long to wait for each device.  [default: 30]",
)
def line(
    bottoms: tuple[str, ...], top: str, profile: str, size: str | None, wait: int | None
) -> None:
    """Print the word that has the kernel boot on these layers.

    Layers are named as they are in this system: a file or directory becomes the UUID of its
    device, and its path there.  UUID=…, LABEL=…, PARTUUID=… and PARTLABEL=…, with :/PATH for
    something in that file system, are taken as they are, and need not be here.

    \b
    Examples:
      fallthru boot line --bottom /srv/debian.squashfs --top /srv/tops/web
      fallthru boot line --bottom /dev/sda2 --top tmpfs --size 75%
      fallthru boot line --bottom LABEL=LIVECD:/live/root.squashfs --top LABEL=keep
    """
    from overlay.booting import line as bootline

    click.echo(bootline.word(bottoms, top, profile=profile, size=size, wait=wait))
