"""Container engines for a guest: docker, podman and containerd, as a disk of their own.

They are Debian's packages, unpacked only, and not in the root that all guests share: it would
be three times as large, and one test asks for them.  Whoever does mounts the disk, and sees to
it that programs and libraries are found there.
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
#: The first release whose docker has containerd's image store: in a tree of their own, later/.
#: They run with the libraries, and the runc, of the release above.
_LATER = ("trixie", ("docker.io", "docker-cli", "containerd"))
_LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale")


def build() -> Path:
    """The image, of the release that the guests' root is of; built when it is missing."""
    suite = debian.codename()

    def fill(tree: Path) -> None:
        debian.require("mkfs.erofs")
        unpacked = tree / "unpacked"
        later, packages = _LATER
        for release, place, names in (
            (suite, unpacked, _PACKAGES),
            (later, unpacked / "later", packages),
        ):
            debian.unpack(release, place, *names)
            for directory in _LEFT_OUT:
                shutil.rmtree(place / directory, ignore_errors=True)
        debian.succeed(("mkfs.erofs", "-zlz4", tree / "engines.erofs", unpacked))
        shutil.rmtree(unpacked)

    inputs = [suite, debian.MIRROR, _PACKAGES, _LATER, _LEFT_OUT]
    return store.cached("engines", inputs, fill) / "engines.erofs"
