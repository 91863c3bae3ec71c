"""``fallthru install-helper``."""

from __future__ import annotations

import os
import sys

import click

from overlay.cli.layers import DIRECTORY

_NAME = "mount.fallthru"


@click.command("install-helper", short_help="Let mount(8) and fstab mount overlays.")
@click.option(
    "--directory",
    type=DIRECTORY,
    default="/sbin",
    show_default=True,
    help="Where mount(8) looks for helpers.",
)
@click.option("--remove", is_flag=True, help="Take it away again.")
def install_helper(directory: str, remove: bool) -> None:
    """Put a symlink /sbin/mount.fallthru to this installation's helper, for `mount -t fallthru`.

    fstab lines and systemd mount units of type fallthru work from then on.  Nothing else is
    changed, and a file of that name that is no symlink is left alone.

    \b
    Examples:
      fallthru install-helper
      mount -t fallthru -o bottom=/usr,top=/srv/usr-top none /mnt
      fallthru install-helper --remove
    """
    from overlay.errors import OperationFailed, Refused
    from overlay.text import printable

    link = os.path.join(directory, _NAME)
    if os.path.lexists(link) and not os.path.islink(link):
        raise Refused(
            f"{printable(link)} is not a symlink: somebody else put it there",
            hint="remove it yourself, or choose another --directory",
        )
    try:
        if remove:
            if os.path.lexists(link):
                os.unlink(link)
            return
        helper = _helper()
        aside = f"{link}.{os.getpid()}"
        os.symlink(helper, aside)
        try:
            os.rename(aside, link)
        except OSError:
            os.unlink(aside)
            raise
    except OSError as error:
        raise OperationFailed(f"{printable(link)}", errno=error.errno or 0) from None
    click.echo(f"{printable(link)} → {printable(helper)}")


def _helper() -> str:
    """The console script that was installed beside the command, or beside the interpreter."""
    from overlay.errors import EnvironmentLacks

    for beside in (sys.argv[0], sys.executable):
        found = os.path.join(os.path.dirname(os.path.abspath(beside)), _NAME)
        if os.access(found, os.X_OK):
            return found
    raise EnvironmentLacks(
        f"there is no {_NAME} beside {sys.executable}",
        hint="install fallthru again (scripts/setup, or pip install)",
    )
