"""What a check puts into the layers before it mounts them: files, directories, marks."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from overlay.spec import shell
from overlay.spec.observe import Lacks
from overlay.spec.steps import Steps

__all__ = ["LAYER_MTIME_NS", "Filling"]

#: Files of a layer are this old, so that a copy with the wrong time shows.
LAYER_MTIME_NS = 1_234_567_890_123_456_789

_BLOCK = 4096


class Filling:
    """The half of a bench that works on the layers themselves, as ordinary directories."""

    bottom: Path
    top: Path
    features: frozenset[str]
    steps: Steps

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
        self._parents(path)
        path.write_bytes(content)
        said = self.steps.path(path)
        self.steps.do(f"{shell.printing(content)} >{said}")
        if owner != (0, 0):
            self.own(path, owner)
        os.chmod(path, mode)
        if mode != 0o644:
            self.steps.do(f"chmod {mode:o} {said}")
        self.age(path)
        return path

    def files(self, format_: str, numbers: range, *, on: Path | None = None) -> None:
        """Regular files with a number in their names (of a % format)."""
        layer = on or self.bottom
        (layer / format_).parent.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            name = os.path.join(layer, format_ % number)
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            os.write(fd, b"bottom\n")
            os.utime(fd, ns=(LAYER_MTIME_NS, LAYER_MTIME_NS))
            os.close(fd)
        said = self.steps.path(layer / format_)
        parent = self.steps.path((layer / format_).parent)
        each = f"$(seq {numbers.start} {numbers.step} {numbers[-1]})"
        self.steps.do(
            f"mkdir -p {parent}; for n in {each}; do printf 'bottom\\n' >"
            f'"$(printf {said} $n)"; done; touch -d {shell.seconds(LAYER_MTIME_NS)} {parent}/*'
        )

    def sparse_file(self, name: str, content: bytes, code: str) -> None:
        """A file on the bottom with holes where ``content`` (in Python: ``code``) has zeros."""
        path = self.file(name, b"")
        with path.open("r+b") as file:
            for offset in range(0, len(content), _BLOCK):
                block = content[offset : offset + _BLOCK]
                if block.strip(b"\0"):
                    file.seek(offset)
                    file.write(block)
            file.truncate(len(content))
        dd = f"dd status=none bs={_BLOCK} iflag=fullblock conv=sparse of={self.steps.path(path)}"
        self.steps.do(f"{shell.calling(f'os.write(1, {code})')} | {dd}")

    def age(self, path: Path) -> None:
        """Make the file old."""
        os.utime(path, ns=(LAYER_MTIME_NS, LAYER_MTIME_NS))
        self.steps.do(f"touch -d {shell.seconds(LAYER_MTIME_NS)} {self.steps.path(path)}")

    def _parents(self, path: Path) -> None:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
            self.steps.do(f"mkdir -p {self.steps.path(path.parent)}")

    def directory(self, name: str, *, mode: int = 0o755, on: Path | None = None) -> Path:
        """A directory on the bottom (or ``on`` another layer)."""
        path = (on or self.bottom) / name
        self._parents(path)
        self.make(path)
        if mode != 0o755:
            path.chmod(mode)
            self.steps.do(f"chmod {mode:o} {self.steps.path(path)}")
        return path

    def make(self, *directories: Path) -> None:
        """New directories, anywhere among the layers."""
        for path in directories:
            path.mkdir()
        self.steps.do(f"mkdir {' '.join(map(self.steps.path, directories))}")

    def own(self, path: Path, owner: tuple[int, int]) -> None:
        """Give a file of a layer to somebody."""
        os.chown(path, *owner)
        self.steps.do(f"chown {owner[0]}:{owner[1]} {self.steps.path(path)}")

    def symlink(self, name: str, to: str, *, on: Path | None = None) -> None:
        """A symlink on the bottom (or ``on`` another layer)."""
        path = (on or self.bottom) / name
        path.symlink_to(to)
        self.steps.do(f"ln -sT {shlex.quote(to)} {self.steps.path(path)}")

    def hard_link(self, old: str, new: str) -> None:
        """One more name for a file of the bottom."""
        os.link(self.bottom / old, self.bottom / new)
        self.steps.do(
            f"link {self.steps.path(self.bottom / old)} {self.steps.path(self.bottom / new)}"
        )

    def fifo(self, name: str) -> None:
        """A fifo on the bottom."""
        os.mkfifo(self.bottom / name)
        self.steps.do(f"mkfifo {self.steps.path(self.bottom / name)}")

    def null_device(self, name: str) -> None:
        """What /dev/null is, on the bottom."""
        os.mknod(self.bottom / name, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        self.steps.do(f"mknod {self.steps.path(self.bottom / name)} c 1 3")

    def remove(self, path: Path) -> None:
        """Remove a file of a layer."""
        path.unlink()
        self.steps.do(f"unlink {self.steps.path(path)}")

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
        self._parents(self.top / name)
        os.mknod(self.top / name, stat.S_IFCHR, 0)
        self.steps.do(f"mknod {self.steps.path(self.top / name)} c 0 0")

    def opaque(self, name: str) -> None:
        """The directory ``name`` on the top, marked opaque."""
        if not (self.top / name).is_dir():
            self.directory(name, on=self.top)
        self._mark(self.top / name, "opaque", b"y")

    def fallthru(self, name: str) -> None:
        """A fallthru on the top to the bottom's ``name``, as directory copyup would leave it."""
        source, path = self.bottom / name, self.top / name
        from_, to = self.steps.path(source), self.steps.path(path)
        if source.is_dir():
            if not path.is_dir():
                self.make(path)
        else:
            path.write_bytes(b"")
            os.truncate(path, source.stat().st_size)
            self.steps.do(f"truncate -r {from_} {to}")
            self._mark(path, "metacopy", b"")
        self._mark(path, "redirect", b"/" + os.fsencode(name))
        status = source.stat()
        os.chown(path, status.st_uid, status.st_gid)
        os.chmod(path, stat.S_IMODE(status.st_mode))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        for tool in ("chown --reference", "chmod --reference", "touch -r"):
            self.steps.do(f"{tool}{'=' if '--' in tool else ' '}{from_} {to}")

    def _mark(self, path: Path, mark: str, value: bytes) -> None:
        family = "user" if "userxattr" in self.features else "trusted"
        self.xattr(path, f"{family}.overlay.{mark}", value)

    def xattr(self, path: Path, name: str, value: bytes) -> None:
        """Set an xattr on a file of a layer."""
        os.setxattr(path, name, value)
        self.steps.do(f"setfattr -n {name} -v {shell.value(value)} {self.steps.path(path)}")

    def user_xattr(self, path: Path, name: str, value: bytes) -> None:
        """The same, for what not all file systems have: Lacks if this one has none."""
        try:
            self.xattr(path, name, value)
        except OSError as error:
            raise Lacks(f"user xattrs on the layers ({error.strerror})") from None
