"""What a check puts into the layers before it mounts them: files, directories, marks."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from overlay.spec.observe import Lacks

__all__ = ["LAYER_MTIME_NS", "Filling"]

#: Files of a layer are this old, so that a copy with the wrong time shows.
LAYER_MTIME_NS = 1_234_567_890_123_456_789


class Filling:
    """The half of a bench that works on the layers themselves, as ordinary directories."""

    bottom: Path
    top: Path
    features: frozenset[str]

    def file(
        self,
        name: str,
        content: bytes = b"bottom\n",
        *,
        mode: int = 0o644,
        owner: tuple[int, int] = (0, 0),
        on: Path | None = None,
    ) -> Path:
        """A regular file on the bottom (or ``on`` another layer), its parents made."""
        path = (on or self.bottom) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.chown(path, *owner)
        os.chmod(path, mode)
        os.utime(path, ns=(LAYER_MTIME_NS, LAYER_MTIME_NS))
        return path

    def directory(self, name: str, *, mode: int = 0o755, on: Path | None = None) -> Path:
        """A directory on the bottom (or ``on`` another layer)."""
        path = (on or self.bottom) / name
        path.mkdir(parents=True)
        path.chmod(mode)
        return path

    def plants_marks(self) -> None:
        """For checks that write marks onto the top by themselves: Lacks if unknown how."""
        if not self.features & {"engine", "overlayfs", "fuse.fuse-overlayfs"}:
            raise Lacks("a known on-disk format of marks on the top")

    def plants_fallthrus(self) -> None:
        """The same for fallthrus, which fewer file systems know."""
        if not self.features & {"engine", "overlayfs"}:
            raise Lacks("a known on-disk format of fallthrus")

    def whiteout(self, name: str) -> None:
        """A whiteout on the top, as overlayfs writes it."""
        (self.top / name).parent.mkdir(parents=True, exist_ok=True)
        os.mknod(self.top / name, stat.S_IFCHR, 0)

    def opaque(self, name: str) -> None:
        """The directory ``name`` on the top, marked opaque."""
        (self.top / name).mkdir(parents=True, exist_ok=True)
        self._mark(self.top / name, "opaque", b"y")

    def fallthru(self, name: str) -> None:
        """A fallthru on the top to the bottom's ``name``, as directory copyup would leave it."""
        source, path = self.bottom / name, self.top / name
        if source.is_dir():
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(b"")
            os.truncate(path, source.stat().st_size)
            self._mark(path, "metacopy", b"")
        self._mark(path, "redirect", b"/" + os.fsencode(name))
        status = source.stat()
        os.chown(path, status.st_uid, status.st_gid)
        os.chmod(path, stat.S_IMODE(status.st_mode))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _mark(self, path: Path, mark: str, value: bytes) -> None:
        family = "user" if "userxattr" in self.features else "trusted"
        os.setxattr(path, f"{family}.overlay.{mark}", value)

    def user_xattr(self, path: Path, name: str, value: bytes) -> None:
        """Set an xattr on a file of a layer; Lacks if its file system has none."""
        try:
            os.setxattr(path, name, value)
        except OSError as error:
            raise Lacks(f"user xattrs on the layers ({error.strerror})") from None
