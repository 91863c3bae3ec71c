"""Where the layers of a run are made, and how nothing of them stays."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from overlay.errors import OperationFailed
from overlay.newmount import new_mount, put_at
from overlay.spec import filesystems
from overlay.spec.bench import Places
from overlay.spec.kept import KeptImages

__all__ = ["Homes", "Scratch"]


@dataclass(frozen=True, slots=True)
class Homes:
    """Where layers are made instead of in memory: in directories, or on fresh file systems.

    ``nfs_dir``, on NFS, is for the clauses about that alone.
    """

    bottom_dir: Path | None = None
    top_dir: Path | None = None
    bottom_fs: str | None = None
    top_fs: str | None = None
    nfs_dir: Path | None = None


class Scratch:
    """Where the layers of one worker go: a tmpfs only it sees, or directories of the caller's.

    The parent makes and removes the directories, so that nothing stays when the worker is
    killed; what is in the tmpfs goes with the worker's namespace.
    """

    def __init__(self, homes: Homes, kept: KeptImages | None = None) -> None:
        self._kept = kept or KeptImages()
        self._homes = (homes.bottom_dir, homes.top_dir)
        self._kinds = (homes.bottom_fs, homes.top_fs)
        self._nfs = homes.nfs_dir
        self._made: list[Path] = []
        self._count = 0

    def __enter__(self) -> Scratch:
        for home in (None, *self._homes):
            if home is None and self._made and self._kinds[len(self._made) - 1] is None:
                self._made.append(self._made[0])
            else:
                try:
                    made = tempfile.mkdtemp(prefix="fallthru-spec-", dir=home)
                except OSError as error:
                    self.__exit__()
                    raise OperationFailed(
                        "no directory for the layers can be made", errno=error.errno or 0
                    ) from None
                # Resolved, because the kernel's mountinfo names mounts without symlinks.
                self._made.append(Path(made).resolve())
        return self

    def __exit__(self, *_error: object) -> None:
        for made in set(self._made):
            shutil.rmtree(made)

    def mount(self) -> None:
        """In the worker: put the tmpfs in place."""
        put_at(new_mount("tmpfs"), self._made[0])
        for kind, where in zip(self._kinds, self._made[1:], strict=True):
            if kind is not None:
                self._mount_kind(kind, where)

    def _mount_kind(self, kind: str, where: Path) -> None:
        """A fresh file system of ``kind``, its image in the tmpfs; Lacks where it can't be had."""
        image = self._made[0] / f"{where.name}.{kind}"
        filesystems.make_image(kind, image, where, self._kept)
        put_at(filesystems.open_image(kind, image, read_only=False), where)

    def places(self) -> Places:
        """Fresh empty directories for one clause."""
        self._count += 1
        mounts, bottom, top = (
            made / f"{self._count:03}-{what}"
            for made, what in zip(self._made, ("mounts", "bottom", "top"), strict=True)
        )
        for directory in (mounts, bottom, top):
            directory.mkdir()
        return Places(bottom, top, mounts, self._kept, self._nfs)

    def remove(self, places: Places) -> None:
        """Make room: the next clause must not find the file system full."""
        for directory in (places.bottom, places.top, places.mounts):
            shutil.rmtree(directory)
