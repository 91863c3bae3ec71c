"""``fallthru export``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from overlay.cli.layers import (
    DIRECTORY,
    NamedLayers,
    bottoms_option,
    emit_json,
    json_option,
    marks_option,
    named_layers,
    progress_shown,
    unmounted_top_option,
    userxattr_option,
    whiteouts_option,
)
from overlay.text import human_bytes, printable

if TYPE_CHECKING:
    from overlay.archives.compressed import Compression
    from overlay.archives.sink import Style


@click.command(short_help="Write a top in another format.")
@json_option
@click.option(
    "--format",
    "kind",
    type=click.Choice(["oci", "aufs", "overlay"]),
    default="oci",
    show_default=True,
    help="An OCI layer's tar, a directory with AUFS's names, or one with overlayfs's marks.",
)
@click.option(
    "-o", "--output", type=DIRECTORY, required=True, help="The file or directory to make."
)
@click.option(
    "--compress",
    type=click.Choice(["none", "gzip", "zstd"]),
    help="How to compress a tar.  [default: by the name: .gz, .tgz, .zst]",
)
@marks_option("--marks", "The attributes' family in an overlayfs directory.")
@whiteouts_option("What a whiteout is in an overlayfs directory.")
@unmounted_top_option
@bottoms_option
@userxattr_option
@click.argument("mount_point", metavar="[MOUNTPOINT]", type=DIRECTORY, required=False)
def export(
    mount_point: str | None,
    top: str | None,
    bottoms: tuple[str, ...],
    userxattr: bool,
    kind: str,
    output: str,
    compress: str | None,
    marks: str,
    whiteouts: str,
    as_json: bool,
) -> None:
    """Write what a top says about its bottoms as a layer of another kind.

    The top is that of the overlay at MOUNTPOINT, or --top. Bottoms are only needed where
    something of the top reads from them: renamed directories, files without data. The same
    top gives the same archive, byte by byte.

    \b
    Examples:
      fallthru export /mnt -o layer.tar.gz
      fallthru export --top /srv/top -o layer.tar.zst --json | jq -r .digest
      fallthru export --top /srv/top --format overlay --marks user --whiteouts xattr -o /srv/layer
    """
    layers = named_layers(
        "export", mount_point, top, bottoms, userxattr=userxattr, bottoms_needed=False
    )
    if mount_point is not None:
        click.echo(
            "fallthru: the top is mounted: what changes meanwhile may be half in it", err=True
        )
    if kind == "oci":
        _tar(layers, output, _compression(output, compress), as_json)
        return
    if compress is not None:
        raise click.UsageError("--compress is for --format oci")
    from overlay.archives.sink import AufsNames, OverlayMarks
    from overlay.marks import MarkFamily, Whiteout

    style: Style = AufsNames()
    if kind == "overlay":
        style = OverlayMarks(MarkFamily(marks), Whiteout(whiteouts))
    _directory(layers, output, style, as_json)


def _compression(output: str, named: str | None) -> Compression:
    from overlay.archives.compressed import Compression

    if named is not None:
        return Compression(named)
    if output.endswith((".gz", ".tgz")):
        return Compression.GZIP
    return Compression.ZSTD if output.endswith((".zst", ".tzst")) else Compression.NONE


def _tar(layers: NamedLayers, output: str, compression: Compression, as_json: bool) -> None:
    from overlay.archives.tarexport import export_tar

    with progress_shown(as_json) as progress:
        done = export_tar(
            layers.top,
            output,
            bottoms=layers.bottoms,
            data_bottoms=layers.data_bottoms,
            family=layers.family,
            compression=compression,
            progress=progress,
        )
    if as_json:
        emit_json(
            {
                "path": printable(done.path),
                "digest": done.digest,
                "diff_id": done.diff_id,
                "size": done.size,
                "entries": done.entries,
                "sockets": done.sockets,
            }
        )
        return
    click.echo(f"{printable(output)}: {done.entries} entries, {human_bytes(done.size)}")
    click.echo(done.digest)
    if done.sockets:
        click.echo(f"fallthru: {done.sockets} sockets were left out: a tar has none", err=True)


def _directory(layers: NamedLayers, output: str, style: Style, as_json: bool) -> None:
    from overlay.archives.archive import export_directory

    with progress_shown(as_json) as progress:
        done = export_directory(
            layers.top,
            output,
            style,
            bottoms=layers.bottoms,
            data_bottoms=layers.data_bottoms,
            family=layers.family,
            progress=progress,
        )
    if as_json:
        emit_json({"path": printable(output), "entries": done.entries, "bytes": done.bytes})
    else:
        click.echo(f"{printable(output)}: {done.entries} entries, {human_bytes(done.bytes)}")
