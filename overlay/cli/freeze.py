"""``fallthru freeze``."""

from __future__ import annotations

import click

from overlay.cli.layers import DIRECTORY, emit_json, json_option
from overlay.text import human_bytes, printable


@click.command(short_help="Make a bottom that cannot change of a directory.")
@click.option("-o", "--output", type=DIRECTORY, required=True, help="The image's file to make.")
@click.option("--compress", metavar="NAME", help="A compressor of mkfs.erofs, as lz4hc.")
@click.option("--no-verify", is_flag=True, help="Do not compare the image with the directory.")
@click.option("--force", is_flag=True, help="Replace an image that exists.")
@click.option(
    "--snapshot", is_flag=True, help="Make a read-only btrfs snapshot there instead of an image."
)
@json_option
@click.argument("directory", metavar="DIR", type=DIRECTORY)
def freeze(
    directory: str,
    output: str,
    compress: str | None,
    no_verify: bool,
    force: bool,
    snapshot: bool,
    as_json: bool,
) -> None:
    """Make an erofs image of what is visible in DIR, to be a bottom.

    Of an overlay's mount point that is the union; what is mounted below DIR is left out.
    The same tree gives the same image, byte by byte.  The image is compared with the tree
    before it appears.  An image that is replaced stays as it is for those that use it.

    \b
    Examples:
      fallthru freeze /usr -o /srv/usr.erofs
      fallthru freeze /mnt -o union.erofs --compress lz4hc
      fallthru freeze --snapshot /srv/subvolume -o /srv/snapshots/monday
    """
    from overlay import freeze as freezing

    if snapshot:
        if compress or no_verify or force:
            raise click.UsageError("--snapshot makes no image: it takes only -o")
        freezing.snapshot(directory, output)
        if as_json:
            emit_json({"snapshot": printable(output)})
        return
    made = freezing.freeze(
        directory, output, compression=compress, verify=not no_verify, replace=force
    )
    if as_json:
        emit_json(
            {
                "image": printable(made.path),
                "size": made.size,
                "entries": made.entries,
                "uuid": made.uuid,
                "verified": made.verified,
            }
        )
        return
    checked = "verified" if made.verified else "not verified"
    click.echo(f"{printable(output)}: {made.entries} entries, {human_bytes(made.size)}, {checked}")
