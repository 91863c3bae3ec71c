"""Container engines for a guest: docker and podman, as a disk of their own.

They are Debian's packages, unpacked only, and not in the root that all guests share: it would
be twice as large, and one test asks for them.  Whoever does mounts the disk, and sees to it that
programs and libraries are found there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from . import debian, store

__all__ = ["build"]

#: What the engines need and the guests' root does not have follows them.
_PACKAGES = (
    *("docker.io", "containerd", "runc"),
    *("podman", "conmon", "crun", "golang-github-containers-common"),
    *("libassuan0", "libglib2.0-0", "libgpgme11", "libsubid4", "libyajl2"),
)
_LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale")


def build() -> Path:
    """The image, of the release that the guests' root is of; built when it is missing."""
    suite = debian.codename()

    def fill(tree: Path) -> None:
        debian.require("mkfs.erofs")
        unpacked = tree / "unpacked"
        debian.unpack(suite, unpacked, *_PACKAGES)
        for place in _LEFT_OUT:
            shutil.rmtree(unpacked / place, ignore_errors=True)
        debian.succeed(("mkfs.erofs", "-zlz4", tree / "engines.erofs", unpacked))
        shutil.rmtree(unpacked)

    inputs = [suite, debian.MIRROR, _PACKAGES, _LEFT_OUT]
    return store.cached("engines", inputs, fill) / "engines.erofs"
