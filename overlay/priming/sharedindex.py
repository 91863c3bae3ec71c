"""One metadata layer for many tops: ``fallthru prime --shared`` (docs/fallthru.md).

The fallthrus of whole bottoms are made once, in a layer of their own.  A mount with
``--index META`` has it as its only merged bottom, so all lookups and readdirs end in one
directory, and the bottoms themselves only give the data of files that are read (data-only
layers, since 6.5).  META is a directory with the layer (``tree``) and the record of what
it was made of (``index``), or an erofs image with that record behind its end.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from overlay import images
from overlay.errors import OperationFailed, Refused, UsageError
from overlay.helpers import cores
from overlay.layer import Layer
from overlay.newtree import beside, lock
from overlay.outfile import sync_directory
from overlay.priming import indexfile
from overlay.priming.bottomlist import FAMILY
from overlay.priming.indexfile import SharedIndex, StaleIndex
from overlay.priming.indexlayer import make_layer, refresh, require_unused
from overlay.staging import open_bottom
from overlay.text import printable
from overlay.view import View

__all__ = ["IndexReport", "build", "layer_of", "require_fresh", "update", "verify"]

Progress = Callable[[int], None]

_TREE: Final = b"tree"
_INDEX: Final = b"index"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
#: Behind an image: the record, its length, and this.
_TRAILER: Final = struct.Struct("<Q16s")
_MAGIC: Final = b"fallthru-index-1"


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What an index covers, over all its bottoms; ``changed`` directories were made anew."""

    directories: int
    entries: int
    changed: int
    fingerprint: str


def layer_of(meta: str) -> str:
    """The layer to mount: a directory, or the image itself."""
    return meta if images.is_image(meta) else os.path.join(meta, os.fsdecode(_TREE))


# ----------------------------------------------------------------------- what it is of


def require_fresh(meta: str, roots: Sequence[int], paths: Sequence[str]) -> None:
    """Refuse an index that is not of these bottoms as they are: StaleIndex, exit code 4.

    The directories are compared (:func:`indexfile.look_over`); a file that was changed in
    place, which the document forbids for a bottom (L252), only :func:`verify` finds.
    """
    index = _read(meta)
    indexfile.look_over(index, roots, paths)


def verify(meta: str, bottoms: Sequence[str]) -> IndexReport:
    """Compare an index with everything in its bottoms; StaleIndex if anything differs."""
    index = _read(meta)
    with _opened(bottoms) as layers:
        roots = [layer.fd for layer in layers]
        indexfile.look_over(index, roots, bottoms)
        changed = _changed(index, indexfile.survey(roots))
        if changed:
            raise StaleIndex(
                f"{printable(min(changed))} has files that changed since the shared index was made",
                hint="fallthru prime --shared --update -o META with the same bottoms",
            )
    return _report(index, 0)


def _changed(old: SharedIndex, new: SharedIndex) -> set[bytes]:
    """The paths of directories that differ in any bottom."""
    changed: set[bytes] = set()
    if len(old.bottoms) != len(new.bottoms):
        raise StaleIndex(f"the shared index was made of {len(old.bottoms)} bottoms")
    for before, now in zip(old.bottoms, new.bottoms, strict=True):
        changed.update(
            path for path in before.keys() | now.keys() if before.get(path) != now.get(path)
        )
    return changed


def _report(index: SharedIndex, changed: int) -> IndexReport:
    return IndexReport(index.directories, index.entries, changed, index.fingerprint)


def _read(meta: str) -> SharedIndex:
    try:
        content = _content(meta)
        return indexfile.decode(content)
    except OSError as error:
        if os.path.isdir(os.path.join(meta, os.fsdecode(_TREE))):
            raise StaleIndex(
                f"the shared index {printable(meta)} was not completed",
                hint="run fallthru prime --shared --update with its bottoms",
            ) from None
        raise UsageError(
            f"no shared index at {printable(meta)}",
            hint="make one: fallthru prime --shared --bottom DIR -o META",
            errno=error.errno or 0,
        ) from None
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise Refused(
            f"{printable(meta)} cannot be used: {error}",
            hint="delete it and make it again",
        ) from None


def _content(meta: str) -> bytes:
    if not images.is_image(meta):
        with open(os.path.join(os.fsencode(meta), _INDEX), "rb") as file:
            return file.read()
    with open(meta, "rb") as file:
        end = file.seek(0, os.SEEK_END) - _TRAILER.size
        if end < 0:
            raise ValueError("an image without a record of its bottoms")
        file.seek(end)
        length, magic = _TRAILER.unpack(file.read(_TRAILER.size))
        if magic != _MAGIC or length > end:
            raise ValueError("an image without a record of its bottoms")
        file.seek(end - length)
        return file.read(length)


# --------------------------------------------------------------------------- making it


def build(
    meta: str,
    bottoms: Sequence[str],
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> IndexReport:
    """Make the index ``meta`` of ``bottoms`` (uppermost first); it must not exist.

    It appears when it is complete.  Refused where a bottom was a top and holds redirects
    or fallthrus, and where a bottom changes meanwhile.
    """
    if os.path.lexists(meta) and not (os.path.isdir(meta) and not os.listdir(meta)):
        raise UsageError(
            f"{printable(meta)} exists already",
            hint="--update refreshes an index, --verify checks it",
        )
    with _opened(bottoms) as layers, beside(meta) as (_, stage):
        index = _make(stage, layers, jobs or cores(), progress)
        _put(meta, stage, index, bottoms)
    return _report(index, index.directories)


def _make(stage: int, layers: list[Layer], jobs: int, progress: Progress | None) -> SharedIndex:
    """The layer, as ``tree`` in ``stage``, and what it was made of."""
    roots = [layer.fd for layer in layers]
    before = indexfile.survey(roots)
    make_layer(stage, _TREE, View(layers, FAMILY), jobs, progress)
    _require_unchanged(before, roots)
    return before


def _require_unchanged(before: SharedIndex, roots: Sequence[int]) -> None:
    if _changed(before, indexfile.survey(roots)):
        raise Refused(
            "a bottom was changed while it was indexed",
            hint="a bottom is read-only as long as it is used: see to that, and try again",
        )


def _put(meta: str, stage: int, index: SharedIndex, bottoms: Sequence[str]) -> None:
    """Let what is complete in ``stage`` appear as ``meta``."""
    content = indexfile.encode(index, bottoms)
    if meta.endswith(".erofs"):
        from overlay import erofs

        with open(b"/proc/self/fd/%d/image" % stage, "xb") as file:
            # A refreshed image has the same one: tops made over the old stay usable.
            same = b"".join(os.fsencode(os.path.realpath(path)) + b"\0" for path in bottoms)
            erofs.write_image(file, stage, _TREE, identity=same)
            file.write(content + _TRAILER.pack(len(content), _MAGIC))
            file.flush()
            os.fsync(file.fileno())
        os.rename(b"image", os.fsencode(meta), src_dir_fd=stage)
    else:
        _write(stage, content)
        os.chmod(f"/proc/self/fd/{stage}", 0o755)
        os.rename(os.readlink(f"/proc/self/fd/{stage}"), meta)
    sync_directory(os.path.dirname(os.path.abspath(meta)))


def _write(directory: int, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(b"index.new", flags, 0o644, dir_fd=directory), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(b"index.new", _INDEX, src_dir_fd=directory, dst_dir_fd=directory)


@contextmanager
def _opened(bottoms: Sequence[str]) -> Iterator[list[Layer]]:
    if not bottoms:
        raise UsageError("an index needs a bottom", hint="name one with --bottom")
    with ExitStack() as stack:
        try:
            yield [stack.enter_context(open_bottom(path)) for path in bottoms]
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            raise OperationFailed(
                "the shared index could not be made", errno=error.errno or 0
            ) from error


# --------------------------------------------------------------------- refreshing it


def update(
    meta: str,
    bottoms: Sequence[str],
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> IndexReport:
    """Make anew what changed in ``bottoms`` since ``meta`` was made of them.

    A directory is changed in place, so that tops keep fitting it, and must not be in use
    (Refused).  An image is replaced as a whole; overlays that have it keep the old one.
    A run that was killed leaves an index that is refused until it is updated again.
    """
    jobs = jobs or cores()
    image = images.is_image(meta)
    try:
        old = _read(meta)
    except StaleIndex:
        old = SharedIndex(tuple({} for _ in bottoms))
    with _opened(bottoms) as layers:
        now = indexfile.survey([layer.fd for layer in layers])
        changed = _changed(old, now)
        if not changed:
            return _report(now, 0)
        if image:
            with beside(meta) as (_, stage):
                now = _make(stage, layers, jobs, progress)
                _put(meta, stage, now, bottoms)
            return _report(now, len(changed))
        require_unused(layer_of(meta))
        with Layer.open(meta) as root:
            lock(root.fd, meta)
            with suppress(FileNotFoundError):
                os.unlink(_INDEX, dir_fd=root.fd)
            refresh(root.fd, _TREE, View(layers, FAMILY), changed, jobs, progress)
            _require_unchanged(now, [layer.fd for layer in layers])
            _write(root.fd, indexfile.encode(now, bottoms))
    return _report(now, len(changed))
