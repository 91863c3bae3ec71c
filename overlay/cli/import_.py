"""``fallthru import``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from overlay.cli.layers import (
    DIRECTORY,
    emit_json,
    json_option,
    marks_option,
    progress_shown,
    whiteouts_option,
)
from overlay.errors import UsageError
from overlay.text import human_bytes, printable

if TYPE_CHECKING:
    from overlay.archives.archive import Imported
    from overlay.archives.item import Limits
    from overlay.archives.sink import Style


@click.command(name="import", short_help="Make a layer of an archive, image or directory.")
@json_option
@click.option(
    "--format",
    "kind",
    type=click.Choice(["oci", "aufs", "overlay"]),
    help="What SOURCE is.  [default: oci; a directory has to be named]",
)
@click.option(
    "-o", "--output", "--top", type=DIRECTORY, required=True, help="The directory to make."
)
@marks_option("--from-marks", "The family of an overlayfs directory's marks.")
@marks_option("--marks", "The family of the marks to make.")
@whiteouts_option("What a whiteout is to be.")
@click.option("--digest", metavar="sha256:HEX", help="Refuse an archive of another digest.")
@click.option("--devices", is_flag=True, help="Take device nodes from an archive.")
@click.option(
    "--max-entries", type=click.IntRange(min=1), help="Refuse more.  [default: 10 million]"
)
@click.option("--max-bytes", type=click.IntRange(min=1), help="Refuse more.  [default: 1 TiB]")
@click.argument("source", metavar="SOURCE", type=DIRECTORY)
def import_(
    source: str,
    kind: str | None,
    output: str,
    from_marks: str,
    marks: str,
    whiteouts: str,
    digest: str | None,
    devices: bool,
    max_entries: int | None,
    max_bytes: int | None,
    as_json: bool,
) -> None:
    """Make the new directory a top or bottom of SOURCE: a layer's tar, compressed or not,
    oci:DIR[:TAG] for a whole image, or a directory of another format.

    An image becomes one bottom a layer. Every digest is checked. An archive that would
    write outside of itself, or is not what an honest program makes, is refused as a whole.

    \b
    Examples:
      fallthru import layer.tar.gz --top /srv/top
      fallthru import oci:/srv/debian:latest -o /srv/bottoms
      fallthru import --format aufs /srv/branch -o /srv/top
    """
    from overlay.archives.item import Limits
    from overlay.archives.sink import OverlayMarks
    from overlay.marks import MarkFamily, Whiteout

    style = OverlayMarks(MarkFamily(marks), Whiteout(whiteouts))
    default = Limits()
    limits = Limits(max_entries or default.entries, max_bytes or default.bytes)
    if source.startswith("oci:"):
        _image(source.removeprefix("oci:"), output, style, limits, devices, as_json)
        return
    if os.path.isdir(source) and kind not in ("aufs", "overlay"):
        raise UsageError(
            f"{printable(source)} is a directory", hint="say which: --format aufs, or overlay"
        )
    from overlay.archives import archive

    with progress_shown(as_json) as progress:
        if kind in ("aufs", "overlay"):
            done = archive.import_directory(
                source,
                output,
                archive.Format(kind),
                style=style,
                family=from_marks,
                progress=progress,
            )
        else:
            done = archive.import_tar(
                source,
                output,
                style=style,
                limits=limits,
                devices=devices,
                expected=digest,
                progress=progress,
            )
    if as_json:
        emit_json(_record(done))
    else:
        click.echo(f"{printable(output)}: {done.entries} entries, {human_bytes(done.bytes)}")


def _record(done: Imported) -> dict[str, object]:
    return {
        "path": printable(done.path),
        "entries": done.entries,
        "bytes": done.bytes,
        "digest": done.digest,
        "diff_id": done.diff_id,
    }


def _image(
    layout: str, output: str, style: Style, limits: Limits, devices: bool, as_json: bool
) -> None:
    from overlay.archives.ociimage import import_image

    # The layout's own name may have a colon in it, if there is such a directory.
    directory, colon, tag = layout.rpartition(":")
    if not colon or os.path.isdir(layout):
        directory, tag = layout, ""
    with progress_shown(as_json) as progress:
        image = import_image(
            directory,
            output,
            style,
            reference=tag or None,
            limits=limits,
            devices=devices,
            progress=progress,
        )
    if as_json:
        emit_json(
            {
                "digest": image.digest,
                "bottoms": [printable(path) for path in image.bottoms],
                "layers": [_record(each) for each in image.layers],
            }
        )
        return
    for path in image.bottoms:
        click.echo(printable(path))
