"""The engine and a kernel mount side by side: the same bottoms, a top each, one script.

A step is one system call by one user; afterwards both sides must have answered the same
and show the same tree.  At the end each reads the top which the other wrote.  What they
may differ in is listed in :data:`DIFFERENCES` and nowhere else.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from overlay import syscalls
from overlay.credentials import Credentials
from overlay.profiles import profile_named
from overlay.union import Union
from overlay.workdir import beside
from tests.overlay.trees import (
    Tree,
    add_links,
    attributes,
    cover,
    differing,
    engine_tree,
    ignoring,
    kernel_tree,
    populate,
)
from tests.rawoverlay import overlay
from tests.strategies import OPERATIONS, USERS, Chooser, Step

__all__ = ["DIFFERENCES", "Mismatch", "Session"]

#: What the two may differ in, each with its reason.
DIFFERENCES: Final = {
    "directory rename": "the document says EXDEV for every directory (L512); overlayfs renames "
    "those that are on the top alone",
    "absent access list": "removing one that is not there succeeds on every file system; overlayfs "
    "says ENODATA for what is not on the top",
    "time of a stub": "when overlayfs brings a fallthru's data up, the file's modification time "
    "becomes now, though nobody wrote to it",
    "link counts": "unlink() copies nothing up (L345), so the engine does not count the names "
    "that a file of the bottom loses before its copyup (L630); overlayfs copies it up",
    "flags of the root": "a mount forgets that its root is immutable when it is mounted again",
    "device node": "the engine opens none, as on a mount with nodev; the layers are hostile",
}

#: Paths that lead to the root, whatever was done before.
_ROOTS: Final = (".", "d/..")

Answer = Any

_GETFLAGS: Final = 0x80086601
_SETFLAGS: Final = 0x40086602
_PROTECTING: Final = 0x30
_LONG: Final = struct.Struct("l")


class _Mount:
    """The calls on a kernel mount, which is the current directory (and open as ``here``)."""

    def __init__(self, here: int) -> None:
        self.here = here

    def open(self, path: str, flags: int, mode: int) -> int:
        return os.open(path, flags, mode)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(path, size)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path, mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def symlink(self, to: str, path: str) -> None:
        os.symlink(to, path)

    def link(self, old: str, new: str, *, follow: bool) -> None:
        # Without a descriptor os.link() calls link(2), which never follows.
        os.link(old, new, src_dir_fd=self.here, dst_dir_fd=self.here, follow_symlinks=follow)

    def rename(self, old: str, new: str, flags: int) -> None:
        syscalls.renameat2(syscalls.AT_FDCWD, old, syscalls.AT_FDCWD, new, flags)

    def mknod(self, path: str, mode: int, device: int) -> None:
        os.mknod(path, mode, device)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(path, mode)

    def chown(self, path: str, uid: int, gid: int, *, follow: bool) -> None:
        os.chown(path, uid, gid, follow_symlinks=follow)

    def utime(self, path: str, ns: tuple[int, int] | None, *, follow: bool) -> None:
        if ns is None:
            os.utime(path, follow_symlinks=follow)
        else:
            os.utime(path, ns=ns, follow_symlinks=follow)

    def setxattr(self, path: str, name: str, value: bytes, flags: int, *, follow: bool) -> None:
        os.setxattr(path, name, value, flags, follow_symlinks=follow)

    def removexattr(self, path: str, name: str, *, follow: bool) -> None:
        os.removexattr(path, name, follow_symlinks=follow)

    def getxattr(self, path: str, name: str, *, follow: bool) -> bytes:
        return os.getxattr(path, name, follow_symlinks=follow)

    def listxattr(self, path: str, *, follow: bool) -> list[str]:
        return os.listxattr(os.fsencode(path), follow_symlinks=follow)

    def readdir(self, path: str) -> list[bytes]:
        return os.listdir(os.fsencode(path))

    def stat(self, path: str, *, follow: bool) -> os.stat_result:
        return os.stat(path, follow_symlinks=follow)

    def readlink(self, path: str) -> bytes:
        return os.fsencode(os.readlink(path))

    def access(self, path: str, mode: int) -> None:
        if not os.access(path, mode, effective_ids=True):
            os.stat(path)  # ENOENT and its like, else:
            raise PermissionError(errno.EACCES, "access")

    def get_flags(self, path: str) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return int(_LONG.unpack(fcntl.ioctl(fd, _GETFLAGS, _LONG.pack(0)))[0])
        finally:
            os.close(fd)

    def set_flags(self, path: str, flags: int) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            fcntl.ioctl(fd, _SETFLAGS, _LONG.pack(flags))
        finally:
            os.close(fd)


class _Engine(Union):
    """The engine with what only the script needs changed."""

    def readdir(self, path: Any) -> Any:
        return [entry.name for entry in super().readdir(path)]


class Mismatch(AssertionError):
    """The two sides do not agree."""


class Session:
    """One script's layers: two bottoms, a top for the engine, a top for the kernel.

    ``base`` is an empty directory; nothing of it is left at the end but its content.
    """

    def __init__(
        self, base: Path, choose: Chooser, *, directory_copyup: bool, links: bool = False
    ) -> None:
        self.base = base
        self.links = links
        self.steps = 0
        self.differences: Counter[str] = Counter()
        self._started = time.time_ns() - 10**8  # the kernel's clock may lag a tick
        names = ("upper-bottom", "bottom", "engine", "kernel", "mnt")
        self._upper, self._bottom, self._top, self._other, self._mnt = (base / n for n in names)
        for directory in (self._upper, self._bottom, self._top, self._other, self._mnt):
            directory.mkdir()
        for bottom in (self._bottom, self._upper):
            populate(bottom, choose)
            if links:
                add_links(bottom, choose)
        cover(self._upper, self._bottom, choose)
        for top in (self._top, self._other):
            os.chmod(top, 0o777)
        self.bottoms = (str(self._upper), str(self._bottom))
        self._cwd = os.open(".", os.O_PATH)
        self._umask = os.umask(0o022)
        self._kernel_has_stubs = False
        self._mounted = ExitStack()
        self._mount_kernel(self._other, "document")
        # A directory copied up as fallthrus is on the top alone, and overlayfs would move it.
        self.moves = not directory_copyup and choose((True, True, False))
        self._directory_copyup = directory_copyup
        self._matching = choose((True, False))
        self._open_engine()
        self.compare_trees()

    def _mount_kernel(self, top: Path, profile: str) -> None:
        work = Path(beside(str(top)))
        work.mkdir(exist_ok=True)
        pinned = {key: value for key, value, _ in profile_named(profile).pinned}
        bottoms = [self._upper, self._bottom]
        self._mounted.enter_context(overlay(self._mnt, bottoms, top, work, pinned))
        os.chdir(self._mnt)
        here = os.open(".", os.O_PATH)
        self._mounted.callback(os.close, here)
        self.mount = _Mount(here)

    def _open_engine(self) -> None:
        self.union = _Engine(
            self._top,
            self.bottoms,
            directory_copyup=self._directory_copyup,
            matching=self._matching,
            move_directories=self.moves,
            sync=False,
        )

    def _unmount(self) -> None:
        os.fchdir(self._cwd)
        self._mounted.close()

    def close(self) -> None:
        self.union.close()
        self._unmount()
        os.close(self._cwd)
        os.umask(self._umask)

    # --------------------------------------------------------------------- running

    def run(self, step: Step) -> None:
        """One step on both sides; Mismatch unless they agree."""
        self.steps += 1
        who = USERS[step.user]
        if step.operation == "chattr" and step.arguments[0] in _ROOTS:
            self.differences["flags of the root"] += 1
            return
        with self.union.acting_as(who):
            mine = _answer(self.union, step, self._started, who, engine=True)
        if step.operation == "rename" and mine == "EXDEV" and not self.moves:
            # The kernel might do it, and the trees would differ from now on.
            names = step.arguments[: 2 if step.arguments[2] & syscalls.RENAME_EXCHANGE else 1]
            if not any(stat.S_ISDIR(os.lstat(name).st_mode) for name in names):
                raise Mismatch(f"{step}: EXDEV for what is no directory")
            self.differences["directory rename"] += 1
            return
        theirs = _answer(self.mount, step, self._started, who, engine=False)
        if step.operation == "removeacl" and (mine, theirs) == (None, "ENODATA"):
            self.differences["absent access list"] += 1
        elif mine == "EACCES" and theirs in (stat.S_IFCHR, "EINVAL"):  # the latter for O_DIRECT
            self.differences["device node"] += 1
        elif step.operation == "stat" and mine[:4] == theirs[:4]:
            pass  # the rest of it is compared with the trees
        elif mine != theirs:
            raise Mismatch(f"{step}:\n  engine {mine}\n  kernel {theirs}")
        self.compare_trees(step)

    def compare_trees(self, step: Step | None = None) -> None:
        mine = engine_tree(self.bottoms, self._top, self._started)
        theirs = kernel_tree(self._started)
        self._compare(mine, theirs, f"after {step} the trees differ")

    def _compare(self, mine: Tree, theirs: Tree, what: str) -> None:
        if mine == theirs:
            return
        times, links = self._kernel_has_stubs, self.links
        mine, theirs = (ignoring(t, times=False, links=links) for t in (mine, theirs))
        if mine == theirs:
            self.differences["link counts"] += 1
            return
        mine, theirs = (ignoring(t, times=times, links=links) for t in (mine, theirs))
        if mine == theirs:
            self.differences["time of a stub"] += 1
            return
        raise Mismatch(f"{what}:\n{differing(mine, theirs)}")

    def swap(self) -> None:
        """Each driver reads the top which the other wrote, and goes on with it.

        The kernel does so with the profile that can read fallthrus; it would rename
        directories then, see DIFFERENCES.
        """
        shown = kernel_tree(self._started)
        self.union.close()
        self._unmount()
        self._top, self._other = self._other, self._top
        mine = engine_tree(self.bottoms, self._top, self._started)
        self._compare(mine, shown, "the kernel's top in the engine")
        self._mount_kernel(self._other, "fallthru")
        theirs = kernel_tree(self._started)
        self._compare(shown, theirs, "the engine's top in the kernel")
        self._kernel_has_stubs = True
        self.moves = False
        self._open_engine()


@contextmanager
def _as_user(who: Credentials) -> Iterator[None]:
    os.setgroups(list(who.groups))
    os.setegid(who.gid)
    os.seteuid(who.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups([])


def _answer(side: Any, step: Step, started: int, who: Credentials, *, engine: bool) -> Answer:
    """What a call says: its errno's name, or its result in a comparable form."""
    try:
        # The engine judges for the user; only what is done with a descriptor is as him.
        if engine:
            return _call(side, step, started, who)
        with _as_user(who):
            return _call(side, step, started, None)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def _call(side: Any, step: Step, started: int, who: Credentials | None) -> Answer:
    arguments, follows = list(step.arguments), OPERATIONS[step.operation][-1:] == ("follow",)
    keywords = {"follow": arguments.pop()} if follows else {}
    match step.operation:
        case "open":
            path, flags, mode, data = arguments
            # A fifo would wait for somebody to open its other end.
            return _use(side.open(path, flags | os.O_NONBLOCK, mode), flags, data, who)
        case "write":
            path, data = arguments
            return _use(side.open(path, os.O_WRONLY | os.O_NONBLOCK, 0), os.O_WRONLY, data, who)
        case "mknod":
            path, (kind, device), mode = arguments
            return side.mknod(path, kind | mode & 0o777, device)
        case "setxattr":
            path, (name, value), flags = arguments
            return side.setxattr(path, name, value, flags, **keywords)
        case "setacl":
            path, which, value = arguments
            return side.setxattr(path, which, value, 0, follow=True)
        case "removeacl":
            return side.removexattr(*arguments, follow=True)
    return _compare_as(step.operation, side, arguments, keywords, started)


def _compare_as(
    operation: str, side: Any, arguments: list[Any], keywords: dict[str, bool], started: int
) -> Answer:
    match operation:
        case "access":
            try:
                return side.access(*arguments)
            except PermissionError:
                return "denied"  # os.access() does not tell why
        case "chattr":
            path, flags = arguments  # the rest stays, as chattr(1) does it
            before = side.get_flags(path)
            side.set_flags(path, before & ~_PROTECTING | flags)
            return before, side.get_flags(path)
        case "listxattr":
            return sorted(side.listxattr(*arguments, **keywords))
        case "readdir":
            return sorted(side.readdir(*arguments))
        case "stat":
            return attributes(side.stat(*arguments, **keywords), started)
    return getattr(side, operation)(*arguments, **keywords)


def _use(fd: int, flags: int, data: bytes, who: Credentials | None) -> Answer:
    """Write to and read from a new descriptor, then close it."""
    try:
        if who is not None:
            with _as_user(who):
                return _transfer(fd, flags, data)
        return _transfer(fd, flags, data)
    finally:
        os.close(fd)


def _transfer(fd: int, flags: int, data: bytes) -> Answer:
    st = os.fstat(fd)
    if flags & os.O_PATH or not stat.S_ISREG(st.st_mode):
        return stat.S_IFMT(st.st_mode)
    if flags & os.O_DIRECT:
        return "direct"
    if flags & os.O_ACCMODE != os.O_RDONLY:
        os.write(fd, data)
    if flags & os.O_ACCMODE != os.O_WRONLY:
        return os.pread(fd, 1 << 20, 0)
    return None
