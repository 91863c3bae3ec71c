"""User-mode Linux: a kernel as an ordinary process, on the host's own root, read-only.

Quick (3 s a run) and close to native speed, since file access is the host's; but without
BPF, tracing and hardware.  An ordinary user can run it, and is root in it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from . import debian, store
from .jobs import CHECKOUT, Start

__all__ = ["build", "find", "start"]

_GUEST = Path(__file__).parent / "guest"
_NAME = "uml"
_MODPROBE = '#!/bin/sh\nexec modprobe -d /run/tree "$@"\n'


def _inputs(suite: str) -> object:
    return [suite, debian.MIRROR, _MODPROBE]


def find(suite: str) -> Path | None:
    """The finished tree of the suite's user-mode Linux; None when it is not built."""
    return store.find(_NAME, _inputs(suite))


def build(suite: str) -> Path:
    """The tree: ``linux``, ``busybox``, ``lib/modules``, ``modprobe``, ``release``."""
    debian.require("depmod")

    def fill(tree: Path) -> None:
        unpacked = tree / "unpacked"
        debian.unpack(suite, unpacked, "user-mode-linux", "busybox-static")
        shutil.move(unpacked / "usr/bin/linux.uml", tree / "linux")
        (busybox,) = unpacked.glob("**/bin/busybox")
        shutil.move(busybox, tree / "busybox")
        modules = tree / "lib/modules"
        modules.parent.mkdir()
        shutil.move(unpacked / "usr/lib/uml/modules", modules)
        shutil.rmtree(unpacked)
        (release,) = os.listdir(modules)
        debian.succeed(("depmod", "-b", tree, release))
        (tree / "release").write_text(release + "\n", "utf-8")
        (tree / "modprobe").write_text(_MODPROBE, "utf-8")
        (tree / "modprobe").chmod(0o755)

    return store.cached(_NAME, _inputs(suite), fill)


def start(tree: Path, memory: str, *, union_root: bool = False) -> Start:
    """How to start the machine whose files are in ``tree``, perhaps on an overlay."""

    def words(job: Path) -> list[str | os.PathLike[str]]:
        for name in ("init-uml", "run.sh"):
            shutil.copy(_GUEST / name, job)
        return [
            tree / "linux",
            f"mem={memory}",
            "root=/dev/root",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            "quiet",
            "panic=-1",
            f"init={job}/init-uml",
            f"vm_tree={tree}",
            f"vm_job={job}",
            f"vm_checkout={CHECKOUT}",
            *(["vm_union_root=1"] if union_root else []),
            f"uml_dir={job}/",  # or it litters the home directory
            "con=null",
            "con0=null,fd:1",
            "con1=null,fd:1",
        ]

    return words
