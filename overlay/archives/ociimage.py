"""OCI image layouts: a directory of blobs, each checked by its digest, unpacked into bottoms.

The layout is hostile like everything that comes in: blobs are opened beneath it by their
digest alone, documents have a size limit, and what is unpacked appears as a whole or not.
"""

from __future__ import annotations

import json
import os
import platform
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from overlay.archives.archive import Imported, unpack
from overlay.archives.compressed import Digesting
from overlay.archives.item import HostileLayer, Limits
from overlay.archives.sink import Style
from overlay.errors import UsageError
from overlay.layer import Layer, open_beneath
from overlay.newtree import new_tree
from overlay.text import printable

__all__ = ["Image", "import_image"]

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")
_MAX_DOCUMENT: Final = 8 << 20
_INDEXES: Final = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)
_REFERENCE: Final = "org.opencontainers.image.ref.name"
#: What Python calls the machine, and what OCI calls it.
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True, slots=True)
class Image:
    """An image that was unpacked: its layers as bottoms, uppermost first."""

    digest: str
    bottoms: tuple[str, ...]
    layers: tuple[Imported, ...]


def import_image(
    layout: str,
    destination: str,
    style: Style,
    *,
    reference: str | None = None,
    limits: Limits | None = None,
    devices: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Image:
    """Unpack an image of a layout into the new directory ``destination``.

    Each layer becomes a directory ``00``, ``01``, … in it, lowest first, and the image's
    configuration ``config.json``.  ``reference`` is a tag of the layout, where it has
    several images.  HostileLayer where a digest or size is not as it is said to be.
    """
    with Layer.open(layout) as tree:
        blobs = _Blobs(tree)
        digest, manifest = _manifest(blobs, reference)
        config = blobs.document(_object(manifest, "config"))
        layers = _list(manifest, "layers")
        diff_ids = _list(_object(config, "rootfs"), "diff_ids")
        if len(layers) != len(diff_ids):
            raise HostileLayer("the image's manifest and configuration name different layers")
        unpacked = []
        names = [f"{number:02}" for number in range(len(layers))]
        with new_tree(destination) as (above, made):
            os.mkdir(made, 0o755, dir_fd=above)
            base = open_beneath(above, made, os.O_RDONLY | os.O_DIRECTORY)
            try:
                for name, layer, diff_id in zip(names, layers, diff_ids, strict=True):
                    os.mkdir(name, 0o755, dir_fd=base)
                    root = open_beneath(base, name.encode(), os.O_RDONLY | os.O_DIRECTORY)
                    try:
                        with open(blobs.open(layer), "rb", buffering=0) as file:
                            done = unpack(
                                file,
                                root,
                                style,
                                limits=limits or Limits(),
                                devices=devices,
                                progress=progress,
                            )
                    finally:
                        os.close(root)
                    for said, found in (
                        (layer.get("digest"), done.digest),
                        (diff_id, done.diff_id),
                    ):
                        if said != found:
                            raise HostileLayer(f"a layer is {found}, not {printable(str(said))}")
                    unpacked.append(done)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                with open(os.open("config.json", flags, 0o644, dir_fd=base), "w") as file_:
                    json.dump(config, file_, indent=2)
            finally:
                os.close(base)
    paths = tuple(os.path.join(destination, name) for name in reversed(names))
    return Image(digest, paths, tuple(unpacked))


class _Blobs:
    def __init__(self, tree: Layer) -> None:
        self._tree = tree

    def open(self, descriptor: Any) -> int:
        """A blob, of the size that its descriptor says."""
        digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
        if not isinstance(digest, str) or not _DIGEST.match(digest):
            raise HostileLayer(f"no digest that is known: {printable(str(digest)[:100])}")
        fd = self._file(b"blobs/sha256/" + digest.removeprefix("sha256:").encode())
        if os.fstat(fd).st_size != descriptor.get("size"):
            os.close(fd)
            raise HostileLayer(f"the blob {digest} is not of the size that is said")
        return fd

    def document(self, descriptor: Any) -> dict[str, Any]:
        """A blob that is JSON."""
        return self._read(self.open(descriptor), descriptor["digest"])

    def named(self, path: bytes) -> dict[str, Any]:
        return self._read(self._file(path), None)

    def _file(self, path: bytes) -> int:
        try:
            fd = self._tree.open_file(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise UsageError(
                f"{printable(self._tree.path)} is no complete OCI layout: {printable(path)}",
                errno=error.errno or 0,
            ) from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise HostileLayer(f"{printable(path)} of the layout is no file")
        return fd

    @staticmethod
    def _read(fd: int, digest: str | None) -> dict[str, Any]:
        with open(fd, "rb", buffering=0) as file:
            digesting = Digesting(file)
            data = digesting.read(_MAX_DOCUMENT + 1) or b""
            digesting.drain()
        if len(data) > _MAX_DOCUMENT:
            raise HostileLayer("a document of the layout is too large")
        if digest is not None and digesting.digest != digest:
            raise HostileLayer(f"a document is {digesting.digest}, not {digest}")
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            raise HostileLayer("a document of the layout is no JSON") from None
        if not isinstance(found, dict):
            raise HostileLayer("a document of the layout is no JSON object")
        return found


def _manifest(blobs: _Blobs, reference: str | None) -> tuple[str, dict[str, Any]]:
    """The image's digest and manifest: by tag, and for this machine."""
    if not str(blobs.named(b"oci-layout").get("imageLayoutVersion", "")).startswith("1."):
        raise UsageError("the layout is of a version that is not known")
    candidates = _list(blobs.named(b"index.json"), "manifests")
    if reference is not None:
        candidates = [each for each in candidates if _annotation(each) == reference]
    for _ in range(4):  # an index may name indexes; not for ever
        if len(candidates) > 1:
            candidates = [each for each in candidates if _fits(each)]
        if len(candidates) != 1:
            names = ", ".join(sorted({printable(str(_annotation(each))) for each in candidates}))
            raise UsageError(
                f"{len(candidates)} images of the layout fit" + (f": {names}" if names else ""),
                hint="name one: fallthru import oci:DIR:TAG",
            )
        chosen = candidates[0]
        document = blobs.document(chosen)
        if chosen.get("mediaType") not in _INDEXES:
            return str(chosen["digest"]), document
        candidates = _list(document, "manifests")
    raise HostileLayer("the layout's index names indexes without end")


def _annotation(descriptor: Any) -> Any:
    found = descriptor.get("annotations") if isinstance(descriptor, dict) else None
    return found.get(_REFERENCE) if isinstance(found, dict) else None


def _fits(descriptor: Any) -> bool:
    target = descriptor.get("platform") if isinstance(descriptor, dict) else None
    if not isinstance(target, dict):
        return True
    machine = platform.machine()
    return (target.get("os"), target.get("architecture")) == (
        "linux",
        _MACHINES.get(machine, machine),
    )


def _object(document: dict[str, Any], key: str) -> dict[str, Any]:
    found = document.get(key)
    if not isinstance(found, dict):
        raise HostileLayer(f"the image's documents have no {key}")
    return found


def _list(document: dict[str, Any], key: str) -> list[Any]:
    found = document.get(key)
    if not isinstance(found, list):
        raise HostileLayer(f"the image's documents have no {key}")
    return found
