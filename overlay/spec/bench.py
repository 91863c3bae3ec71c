"""A fresh small union for one clause: layers to fill, a mount, and ways to look at it.

A check fills ``bottom`` and ``top`` as ordinary directories, calls :meth:`Bench.mount`,
does what the clause is about under ``mnt``, and yields observations.  The marks on the
top are looked at while it is mounted (looking changes nothing) and right after the
operation, because a mark is part of the operation, not something for unmount to catch up
on; clauses about what is *kept* call :meth:`Bench.remount` first.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from overlay import syscalls
from overlay.errors import FallthruError
from overlay.newmount import new_mount, put_at
from overlay.spec import shell
from overlay.spec.calls import MountedCalls
from overlay.spec.filling import LAYER_MTIME_NS
from overlay.spec.fingerprint import Entry, differences, fingerprint
from overlay.spec.held import Descriptor, HeldFile
from overlay.spec.kept import KeptImages
from overlay.spec.looking import Looking
from overlay.spec.observe import Lacks, Observation, errno_name
from overlay.spec.recording import RecordedCalls
from overlay.spec.steps import Steps
from overlay.spec.targets import Target

__all__ = ["LAYER_MTIME_NS", "Bench", "Lacks", "Places"]


_FLAGS = {
    "rb": os.O_RDONLY,
    "r+b": os.O_RDWR,
    "wb": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "ab": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
}


@dataclass(frozen=True, slots=True)
class Places:
    """Empty directories for one clause: where its bottom, its top and its mounts go.

    ``kept`` has images that need not be made anew; ``nfs`` is a directory on NFS, if there is one.
    """

    bottom: Path
    top: Path
    mounts: Path
    kept: KeptImages = field(default_factory=KeptImages)
    nfs: Path | None = None


class Bench(Looking):
    """One union: ``bottom``, ``top`` and ``work`` directories and the mount point ``mnt``."""

    def __init__(self, target: Target, features: frozenset[str], places: Places) -> None:
        self.target = target
        self.features = features
        self.bottom = places.bottom / "bottom"
        self.top = places.top / "top"
        self.work = places.top / "top.work"
        self.mnt = places.mounts / "mnt"
        self.kept = places.kept
        self._places = places
        self._mounted: list[Path] = []
        self._unmounting: dict[Path, str] = {}
        self._covered: list[Path] = []
        self._endings: list[Callable[[], object]] = []
        self._before: dict[str, Entry] | None = None
        self._calls: RecordedCalls | None = None
        #: All that is done here, as a script.
        self.steps = Steps(places.bottom, places.top, places.mounts)
        #: The bottom compared with what it was, once closed; None if nothing was mounted.
        self.untouched: Observation | None = None
        for directory in (self.bottom, self.top, self.work, self.mnt):
            directory.mkdir()

    def needs_mount(self, why: str) -> None:
        """For checks that no engine can answer: Lacks unless the target makes mounts."""
        if "engine" in self.features:
            raise Lacks(f"a mount ({why})")

    def found(self, feature: str) -> None:
        """What the check found out about these layers, for departures to hang on."""
        self.features |= {feature}

    def at_close(self, ending: Callable[[], object]) -> None:
        """Have ``ending`` called when all mounts are gone."""
        self._endings.append(ending)

    def limit_top(self, size: int, *, inodes: int = 0) -> None:
        """Move the still empty top to a tmpfs that holds only ``size`` bytes, ``inodes`` files."""
        home = self._places.top / "small"
        self.make(home)
        self.submount(home, size=str(size), nr_inodes=str(inodes))
        self.move_top(home)

    def move_top(self, home: Path) -> None:
        """Let top and work be new directories in ``home``."""
        self.top, self.work = home / "top", home / "top.work"
        self.make(self.top, self.work)

    def home_on_nfs(self) -> Path:
        """An empty directory on NFS, for a layer; Lacks where there is none."""
        if self._places.nfs is None:
            raise Lacks("a directory on NFS (--nfs-dir)")
        place = Path(tempfile.mkdtemp(prefix="fallthru-spec-", dir=self._places.nfs))
        self.at_close(lambda: shutil.rmtree(place))
        home = place / "nfs"
        home.mkdir()
        self.steps.add_home(place)
        self.steps.do("mkdir served nfs")
        self.steps.do('exportfs -o rw,no_root_squash,insecure,fsid=0 127.0.0.1:"$PWD"/served')
        self.steps.do("mount -t nfs4 127.0.0.1:/ nfs")
        return home

    def cover(self, directory: Path, *, read_only: bool) -> None:
        """Bind ``directory`` over itself, to make a mount of it (a read-only one)."""
        tree = syscalls.open_tree(syscalls.AT_FDCWD, directory, syscalls.OPEN_TREE_CLONE)
        if read_only:
            syscalls.mount_setattr(
                tree, "", syscalls.AT_EMPTY_PATH, attr_set=syscalls.MOUNT_ATTR_RDONLY
            )
        self.attach(tree, directory)
        said = self.steps.path(directory)
        self.steps.do(f"mount --bind {said} {said}")
        if read_only:
            self.steps.do(f"mount -o remount,bind,ro {said}")

    def bind(self, directory: Path, where: Path) -> None:
        """Bind ``directory`` to another place, where it is mounted read-write."""
        tree = syscalls.open_tree(syscalls.AT_FDCWD, directory, syscalls.OPEN_TREE_CLONE)
        syscalls.mount_setattr(
            tree, "", syscalls.AT_EMPTY_PATH, attr_clr=syscalls.MOUNT_ATTR_RDONLY
        )
        self.attach(tree, where)
        said = self.steps.path(where)
        self.steps.do(f"mount --bind {self.steps.path(directory)} {said}")
        self.steps.do(f"mount -o remount,bind,rw {said}")

    def submount(self, directory: Path, **options: str) -> None:
        """Mount an empty tmpfs at ``directory``."""
        self.attach(new_mount("tmpfs", options=options.items()), directory)
        how = ",".join(f"{key}={value}" for key, value in options.items())
        how = f"-o {how} " if how else ""
        self.steps.do(f"mount -t tmpfs {how}tmpfs {self.steps.path(directory)}")

    def seal(self, directory: Path) -> None:
        """Make the mount at ``directory`` read-only."""
        syscalls.mount_setattr(syscalls.AT_FDCWD, directory, 0, attr_set=syscalls.MOUNT_ATTR_RDONLY)
        self.steps.do(f"mount -o remount,bind,ro {self.steps.path(directory)}")

    def uncover(self, where: Path) -> None:
        """Remove a mount that :meth:`attach` made, before the bench does."""
        syscalls.umount2(where)
        self._covered.remove(where)
        self.steps.do(f"umount {self.steps.path(where)}")

    def attach(self, tree: int, where: Path) -> None:
        """Give a detached mount its place; it goes away with the bench."""
        put_at(tree, where)
        self._covered.append(where)

    # ------------------------------------------------------------------- mounting

    def mount(self) -> None:
        """Remember the bottom, then mount the union at ``mnt``."""
        self.remember_bottom()
        self.mount_union(self.mnt, bottom=self.bottom, top=self.top, work=self.work)

    def remember_bottom(self) -> None:
        """What the bottom will be compared with; mounting does it the first time."""
        if self._before is None:
            self._before = fingerprint(str(self.bottom))
            self.steps.do(f"state {self.steps.path(self.bottom)} >before")

    def mount_union(self, mnt: Path, *, bottom: Path, top: Path, work: Path) -> None:
        """Mount another union of the same target; it goes away with the bench."""
        self.mount_bottoms(mnt, (str(bottom),), top=top, work=work)

    def mount_bottoms(self, mnt: Path, bottoms: tuple[str, ...], *, top: Path, work: Path) -> None:
        """The same over several bottoms, uppermost first."""
        if not mnt.exists():
            self.make(mnt)
        said = [self.steps.path(path) for path in (top, work, mnt)]
        command, unmounting = self.target.by_hand(tuple(map(self.steps.path, bottoms)), *said)
        try:
            self.target.mount(bottoms, str(top), str(work), str(mnt))
        except FallthruError as error:
            self.steps.do(command, str(error))
            raise
        except OSError as error:
            self.steps.do(command, errno_name(error))
            raise
        self.steps.do(command)
        self._mounted.append(mnt)
        self._unmounting[mnt] = unmounting
        if mnt == self.mnt:
            self._calls = RecordedCalls(self.target.calls(str(mnt)), self.steps, mnt)

    def calls(self, root: Path) -> RecordedCalls:
        """The calls on another mount, or on a layer."""
        calls = self.target.calls(str(root)) if root in self._mounted else MountedCalls(str(root))
        return RecordedCalls(calls, self.steps, root)

    @property
    def union(self) -> RecordedCalls:
        """The calls on the union at ``mnt``, by whoever serves it."""
        if self._calls is None:
            raise RuntimeError("the check uses the union before it mounts it")
        return self._calls

    def mounts(self, mount: Callable[[], None] | None = None) -> Observation:
        """Mount, and tell whether it was accepted (for clauses about what can be mounted)."""
        return Observation(
            "mount", "mounting the union", "accepted", self._accepted(mount or self.mount)
        )

    def refuses(self, what: str, mount: Callable[[], None]) -> Observation:
        """Try a mount that has to be refused."""
        observed = self._accepted(mount)
        refused = observed != "accepted"
        return Observation("mount", what, "refused", "refused" if refused else observed)

    def _accepted(self, mount: Callable[[], None]) -> str:
        try:
            mount()
        except FallthruError as error:
            return f"refused ({type(error).__name__})"
        except OSError as error:
            return f"refused ({error.strerror})"
        return "accepted"

    def unmount(self, mnt: Path | None = None) -> None:
        """Unmount a union before the bench does."""
        self.target.unmount(str(mnt or self.mnt))
        self._mounted.remove(mnt or self.mnt)
        self.steps.do(self._unmounting[mnt or self.mnt])

    def remount(self) -> None:
        """Unmount the union and mount the same layers again: only the top remembers."""
        self.unmount()
        self.mount()

    def close(self) -> str | None:
        """Remove every mount of this bench and compare the bottom; what went wrong, if anything.

        What the target can't unmount (a broken check left a file open) or claims to have
        unmounted is taken away all the same: the next clause starts clean.
        """
        trouble = None
        for path in reversed(self._mounted):
            mounted = _mount_at(path)
            self.steps.do(self._unmounting[path])
            try:
                self.target.unmount(str(path))
            except (FallthruError, OSError) as error:
                trouble = str(error)
            # A bottom may be covered in place: then there is another mount below.
            if mounted is not None and _mount_at(path) == mounted:
                trouble = trouble or "it is still mounted"
                self._detach(path)
        if self._before is not None:
            self.untouched = self.compare_bottom(self._before)
        for path in (*reversed(self._mounted), *reversed(self._covered)):
            while _mount_at(path) is not None:
                self._detach(path)
        self._mounted.clear()
        for ending in reversed(self._endings):
            ending()
        return trouble

    def _detach(self, path: Path) -> None:
        syscalls.umount2(path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)

    def compare_bottom(self, before: dict[str, Entry] | None = None) -> Observation:
        """The bottom as it is now, compared with what it was before the first mount."""
        changes = differences(before or self._before or {}, fingerprint(str(self.bottom)))
        command = f"state {self.steps.path(self.bottom)} | cmp - before"
        self.steps.do(command, "differs" if changes else "")
        return Observation("bottom", "the bottom", "untouched", "; ".join(changes) or "untouched")

    def bottom_became_a_top(self) -> None:
        """Start the comparison anew: a mount was accepted that may write to the bottom."""
        self._before = fingerprint(str(self.bottom))
        self.steps.do(f"state {self.steps.path(self.bottom)} >before")

    # ------------------------------------------------------- files in the union

    def open(self, name: str, mode: str) -> HeldFile:
        """An unbuffered file of the union; ``mode`` as for :func:`open`, of ``_FLAGS``."""
        fd, number = self.union.open_held(name, _FLAGS[mode])
        return HeldFile(fd, mode, number, self.steps)

    def descriptor(self, name: str, flags: int) -> Descriptor:
        """A descriptor of the union to hold while something else happens."""
        fd, number = self.union.open_held(name, flags)
        return Descriptor(fd, number, self.steps)

    def open_and_close(self, name: str, flags: int) -> None:
        os.close(self.union.open(name, flags))

    def read(self, name: str) -> bytes:
        return self.union.read(name)

    def write(self, name: str, content: bytes) -> None:
        """Make a file of the union, or replace its content."""
        self._put(">", name, "wb", content)

    def append(self, name: str, content: bytes) -> None:
        self._put(">>", name, "ab", content)

    def _put(self, sign: str, name: str, mode: str, content: bytes) -> None:
        def put() -> None:
            with self.steps.quiet(), self.open(name, mode) as file:
                file.write(content)

        said = self.steps.path(self.mnt / name)
        self.steps.attempt(f"{shell.printing(content)} {sign}{said}", put)


def _mount_at(path: Path) -> int | None:
    """Which mount has its root at ``path``."""
    # Not os.path.ismount, which takes a bind mount of the same file system for a directory.
    status = syscalls.statx(syscalls.AT_FDCWD, path, syscalls.AT_SYMLINK_NOFOLLOW)
    return status.mnt_id if status.attributes & syscalls.STATX_ATTR_MOUNT_ROOT else None
