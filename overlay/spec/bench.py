"""A fresh small union for one clause: layers to fill, a mount, and ways to look at it.

A check fills ``bottom`` and ``top`` as ordinary directories, calls :meth:`Bench.mount`,
does what the clause is about under ``mnt``, and yields observations.  The marks on the
top are looked at while it is mounted (looking changes nothing) and right after the
operation, because a mark is part of the operation, not something for unmount to catch up
on; clauses about what is *kept* call :meth:`Bench.remount` first.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from overlay import syscalls
from overlay.errors import FallthruError
from overlay.spec.calls import Calls, read
from overlay.spec.filling import LAYER_MTIME_NS, Filling
from overlay.spec.fingerprint import Entry, differences, fingerprint
from overlay.spec.observe import (
    Lacks,
    Observation,
    attempt,
    errno_name,
    shown,
    shown_names,
    top_entry,
)
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
    """Empty directories for one clause: where its bottom, its top and its mounts go."""

    bottom: Path
    top: Path
    mounts: Path


class Bench(Filling):
    """One union: ``bottom``, ``top`` and ``work`` directories and the mount point ``mnt``."""

    def __init__(self, target: Target, features: frozenset[str], places: Places) -> None:
        self.target = target
        self.features = features
        self.bottom = places.bottom / "bottom"
        self.top = places.top / "top"
        self.work = places.top / "top.work"
        self.mnt = places.mounts / "mnt"
        self._places = places
        self._mounted: list[Path] = []
        self._covered: list[Path] = []
        self._before: dict[str, Entry] | None = None
        self._calls: Calls | None = None
        #: The bottom compared with what it was, once closed; None if nothing was mounted.
        self.untouched: Observation | None = None
        for directory in (self.bottom, self.top, self.work, self.mnt):
            directory.mkdir()

    def needs_mount(self, why: str) -> None:
        """For checks that no engine can answer: Lacks unless the target makes mounts."""
        if "engine" in self.features:
            raise Lacks(f"a mount ({why})")

    def limit_top(self, size: int, *, inodes: int = 0) -> None:
        """Move the still empty top to a tmpfs that holds only ``size`` bytes, ``inodes`` files."""
        home = self._places.top / "small"
        home.mkdir()
        self.submount(home, size=str(size), nr_inodes=str(inodes))
        self.move_top(home)

    def move_top(self, home: Path) -> None:
        """Let top and work be new directories in ``home``."""
        self.top, self.work = home / "top", home / "top.work"
        self.top.mkdir()
        self.work.mkdir()

    def cover(self, directory: Path, *, read_only: bool) -> None:
        """Bind ``directory`` over itself, to make a mount of it (a read-only one)."""
        tree = syscalls.open_tree(syscalls.AT_FDCWD, directory, syscalls.OPEN_TREE_CLONE)
        if read_only:
            syscalls.mount_setattr(
                tree, "", syscalls.AT_EMPTY_PATH, attr_set=syscalls.MOUNT_ATTR_RDONLY
            )
        self.attach(tree, directory)

    def bind(self, directory: Path, where: Path) -> None:
        """Bind ``directory`` to another place, where it is mounted read-write."""
        tree = syscalls.open_tree(syscalls.AT_FDCWD, directory, syscalls.OPEN_TREE_CLONE)
        syscalls.mount_setattr(
            tree, "", syscalls.AT_EMPTY_PATH, attr_clr=syscalls.MOUNT_ATTR_RDONLY
        )
        self.attach(tree, where)

    def submount(self, directory: Path, **options: str) -> None:
        """Mount an empty tmpfs at ``directory``."""
        fs = syscalls.fsopen("tmpfs")
        try:
            for key, value in options.items():
                syscalls.fsconfig_string(fs, key, value)
            syscalls.fsconfig_create(fs)
            self.attach(syscalls.fsmount(fs), directory)
        finally:
            os.close(fs)

    def seal(self, directory: Path) -> None:
        """Make the mount at ``directory`` read-only."""
        syscalls.mount_setattr(syscalls.AT_FDCWD, directory, 0, attr_set=syscalls.MOUNT_ATTR_RDONLY)

    def uncover(self, where: Path) -> None:
        """Remove a mount that :meth:`attach` made, before the bench does."""
        syscalls.umount2(where)
        self._covered.remove(where)

    def attach(self, tree: int, where: Path) -> None:
        """Give a detached mount its place; it goes away with the bench."""
        try:
            syscalls.move_mount(
                tree, "", syscalls.AT_FDCWD, where, syscalls.MOVE_MOUNT_F_EMPTY_PATH
            )
        finally:
            os.close(tree)
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

    def mount_union(self, mnt: Path, *, bottom: Path, top: Path, work: Path) -> None:
        """Mount another union of the same target; it goes away with the bench."""
        self.mount_bottoms(mnt, (str(bottom),), top=top, work=work)

    def mount_bottoms(self, mnt: Path, bottoms: tuple[str, ...], *, top: Path, work: Path) -> None:
        """The same over several bottoms, uppermost first."""
        mnt.mkdir(exist_ok=True)
        self.target.mount(bottoms, str(top), str(work), str(mnt))
        self._mounted.append(mnt)
        if mnt == self.mnt:
            self._calls = self.target.calls(str(mnt))

    @property
    def union(self) -> Calls:
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
        return trouble

    def _detach(self, path: Path) -> None:
        syscalls.umount2(path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)

    def compare_bottom(self, before: dict[str, Entry] | None = None) -> Observation:
        """The bottom as it is now, compared with what it was before the first mount."""
        changes = differences(before or self._before or {}, fingerprint(str(self.bottom)))
        return Observation("bottom", "the bottom", "untouched", "; ".join(changes) or "untouched")

    def bottom_became_a_top(self) -> None:
        """Start the comparison anew: a mount was accepted that may write to the bottom."""
        self._before = fingerprint(str(self.bottom))

    # ------------------------------------------------------- files in the union

    def open(self, name: str, mode: str) -> io.FileIO:
        """An unbuffered file of the union; ``mode`` as for :func:`open`, of ``_FLAGS``."""
        return io.FileIO(self.union.open(name, _FLAGS[mode]), mode)

    def open_and_close(self, name: str, flags: int) -> None:
        os.close(self.union.open(name, flags))

    def read(self, name: str) -> bytes:
        return read(self.union, name)

    def write(self, name: str, content: bytes) -> None:
        """Make a file of the union, or replace its content."""
        with self.open(name, "wb") as file:
            file.write(content)

    def append(self, name: str, content: bytes) -> None:
        with self.open(name, "ab") as file:
            file.write(content)

    def names(self, directory: str) -> list[str]:
        """What listing a directory of the union gives, in its order."""
        return [os.fsdecode(entry.name) for entry in self.union.readdir(directory or ".")]

    # -------------------------------------------------------------------- looking

    def result(
        self, what: str, call: Callable[[], object], expected: str = "succeeds"
    ) -> Observation:
        """Do ``call``, which should succeed or fail with the errno named."""
        return Observation("result", what, expected, attempt(call))

    def reads(self, name: str, content: bytes) -> Observation:
        """What a fresh open of ``name`` in the union reads."""
        try:
            observed = shown(self.read(name))
        except OSError as error:
            observed = errno_name(error)
        return Observation("view", f"reading {name} in the union", shown(content), observed)

    def lists(self, name: str, entries: Iterable[str]) -> Observation:
        """The names that listing the directory ``name`` in the union gives, each once."""
        try:
            observed = shown_names(self.names(name))
        except OSError as error:
            observed = errno_name(error)
        expected = shown_names(entries)
        return Observation("view", f"listing {name} in the union", expected, observed)

    def absent(self, name: str) -> Observation:
        """``name`` can neither be looked up nor found in a listing of its directory."""
        found = attempt(lambda: self.union.lstat(name))
        parent, base = os.path.split(name)
        try:
            listed = base in self.names(parent)
        except (FileNotFoundError, NotADirectoryError):
            listed = False
        observed = "absent" if found in {"ENOENT", "ENOTDIR"} and not listed else "present"
        return Observation("view", f"{name} in the union", "absent", observed)

    def on_top(self, name: str, kind: str) -> Observation:
        """What the top layer itself holds at ``name`` (see :func:`observe.top_entry`)."""
        return Observation("marks", f"{name} on the top", kind, top_entry(str(self.top), name))

    def copied_up(self, name: str, content: bytes) -> Observation:
        """The top has its own regular file ``name`` with exactly ``content``."""
        observed = top_entry(str(self.top), name)
        if observed == "file":
            observed = f"file: {shown((self.top / name).read_bytes())}"
        return Observation("marks", f"{name} on the top", f"file: {shown(content)}", observed)

    def top_holds(self, *names: str) -> Observation:
        """The top has exactly these entries that are not plain directories: no copyup besides."""
        held = []
        for directory, subdirectories, files in os.walk(self.top):
            for name in subdirectories + files:
                relative = os.path.relpath(os.path.join(directory, name), self.top)
                if top_entry(str(self.top), relative) != "directory":
                    held.append(relative)
        return Observation(
            "marks",
            "entries on the top besides directories",
            " ".join(sorted(names)) or "none",
            " ".join(sorted(held)) or "none",
        )

    def files_with_data(self) -> str:
        """The regular files on the top that carry their own data, or ``none``."""
        held = []
        for directory, _, files in os.walk(self.top):
            for name in files:
                relative = os.path.relpath(os.path.join(directory, name), self.top)
                if top_entry(str(self.top), relative) == "file":
                    held.append(relative)
        return " ".join(sorted(held)) or "none"

    def same(self, aspect: str, subject: str, expected: object, observed: object) -> Observation:
        """Any two values, compared by how they print."""
        return Observation(aspect, subject, str(expected), str(observed))


def _mount_at(path: Path) -> int | None:
    """Which mount has its root at ``path``."""
    # Not os.path.ismount, which takes a bind mount of the same file system for a directory.
    status = syscalls.statx(syscalls.AT_FDCWD, path, syscalls.AT_SYMLINK_NOFOLLOW)
    return status.mnt_id if status.attributes & syscalls.STATX_ATTR_MOUNT_ROOT else None
