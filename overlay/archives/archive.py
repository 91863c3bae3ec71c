"""Layers to and from other formats: OCI tar, AUFS directory, overlayfs directory, OCI image.

Whatever is made appears complete and on the disk, or not at all.  What comes in is
hostile: it is refused as a whole, and nothing is written outside of what is made.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO, Final

from overlay.archives.compressed import Digesting, decompressed
from overlay.archives.item import Item, Limits
from overlay.archives.sink import DirectorySink, OverlayMarks, Style
from overlay.archives.source import aufs_items, top_items
from overlay.archives.tarexport import top_view
from overlay.archives.tarread import tar_items
from overlay.errors import OperationFailed, Refused, UsageError
from overlay.layer import Layer, open_beneath
from overlay.marks import MarkFamily
from overlay.newtree import new_tree
from overlay.text import printable
from overlay.view import View

__all__ = [
    "Format",
    "Imported",
    "export_directory",
    "import_directory",
    "import_tar",
    "unpack",
]

Progress = Callable[[int], None] | None
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY


class Format(StrEnum):
    """Layers are kept as an OCI tar, or as a directory with AUFS's names or overlayfs's marks."""

    OCI = "oci"
    AUFS = "aufs"
    OVERLAY = "overlay"


@dataclass(frozen=True, slots=True)
class Imported:
    """A layer that was made: entries and bytes; of an archive its digests."""

    path: str
    entries: int
    bytes: int
    digest: str | None = None
    diff_id: str | None = None


# --------------------------------------------------------------------------- export


def export_directory(
    top: str,
    destination: str,
    style: Style,
    *,
    bottoms: Sequence[str] = (),
    data_bottoms: Sequence[str] = (),
    family: str = "trusted",
    progress: Progress = None,
) -> Imported:
    """Write a top as a new directory that needs no redirects and stubs."""
    with top_view(top, bottoms, data_bottoms, family) as view:
        return _directory(_told(top_items(view), progress), destination, style, None)


# --------------------------------------------------------------------------- import


def import_tar(
    source: str,
    destination: str,
    *,
    style: Style | None = None,
    limits: Limits | None = None,
    devices: bool = False,
    expected: str | None = None,
    progress: Progress = None,
) -> Imported:
    """Make the new directory ``destination`` the layer of a tar, compressed or not.

    ``expected`` is its digest, if it is known: Refused if it is another.  HostileLayer for
    what no honest archive holds, with nothing left of it.
    """
    with _opened(source) as file, new_tree(destination) as (fd, name):
        os.mkdir(name, 0o755, dir_fd=fd)
        root = open_beneath(fd, name, _DIRECTORY)
        try:
            done = unpack(
                file,
                root,
                style or OverlayMarks(),
                limits=limits or Limits(),
                devices=devices,
                progress=progress,
            )
        finally:
            os.close(root)
        if expected is not None and done.digest != expected:
            raise Refused(f"{printable(source)} is {done.digest}, not {expected}")
    return Imported(destination, done.entries, done.bytes, done.digest, done.diff_id)


def _opened(path: str) -> BinaryIO:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{printable(path)} cannot be opened", errno=error.errno or 0) from None
    return open(fd, "rb", buffering=0)


def unpack(
    file: BinaryIO,
    root: int,
    style: Style,
    *,
    limits: Limits,
    devices: bool,
    progress: Progress = None,
) -> Imported:
    """Write a tar's layer below the open directory ``root``, which is new."""
    whole = Digesting(file)
    with decompressed(whole) as unpacked:  # type: ignore[arg-type]
        inner = Digesting(unpacked)
        items = tar_items(inner, limits=limits, devices=devices)  # type: ignore[arg-type]
        sink = DirectorySink(root, style, limits)
        try:
            sink.write(_told(items, progress))
            inner.drain()
        except (tarfile.TarError, zlib.error, EOFError) as error:
            raise OperationFailed(f"the archive is broken: {error}") from error
        except OSError as error:
            # Decompressors have no number to tell.
            if error.errno is None:
                raise OperationFailed(f"the archive is broken: {error}") from error
            raise OperationFailed("the layer could not be written", errno=error.errno) from error
    whole.drain()
    return Imported("", sink.entries, sink.bytes, whole.digest, inner.digest)


def import_directory(
    source: str,
    destination: str,
    kind: Format,
    *,
    style: Style | None = None,
    family: str = "trusted",
    progress: Progress = None,
) -> Imported:
    """Make the new directory ``destination`` the layer that a directory is, in another format."""
    with ExitStack() as stack:
        layer = stack.enter_context(Layer.open(source, private=True))
        if kind is Format.AUFS:
            items = aufs_items(layer)
        else:
            items = top_items(View([layer], MarkFamily(family)))
        return _directory(_told(items, progress), destination, style or OverlayMarks(), None)


def _directory(
    items: Iterable[Item], destination: str, style: Style, limits: Limits | None
) -> Imported:
    with new_tree(destination) as (fd, name):
        os.mkdir(name, 0o755, dir_fd=fd)
        root = open_beneath(fd, name, _DIRECTORY)
        try:
            sink = DirectorySink(root, style, limits)
            sink.write(items)
        except OSError as error:
            raise OperationFailed(
                "the layer could not be written", errno=error.errno or 0
            ) from error
        finally:
            os.close(root)
    return Imported(destination, sink.entries, sink.bytes)


def _told(items: Iterable[Item], progress: Progress) -> Iterator[Item]:
    for item in items:
        yield item
        if progress is not None:
            progress(1)
