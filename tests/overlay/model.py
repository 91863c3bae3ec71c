"""The engine and a kernel mount side by side: the same bottoms, a top each, one script.

A step is one system call by one user; afterwards both sides must have answered the same
and show the same tree.  At the end each reads the top which the other wrote.  What they
may differ in is listed in :data:`DIFFERENCES` and nowhere else.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from overlay import acl, kernel, syscalls
from overlay.credentials import Capability, Credentials
from overlay.kernel import Overlay
from overlay.layer import Layer
from overlay.marks import MarkFamily, set_opaque, visible_xattrs, write_whiteout
from overlay.union import Union
from overlay.view import Node, View

__all__ = ["DIFFERENCES", "DOMAINS", "OPERATIONS", "Chooser", "Mismatch", "Session", "Step"]

#: What the two may differ in, each with its reason.
DIFFERENCES: Final = {
    "directory rename": "the document says EXDEV for every directory (L512); overlayfs renames "
    "those that are on the top alone",
    "absent access list": "removing one that is not there succeeds on every file system; overlayfs "
    "says ENODATA for what is not on the top",
}

Answer = Any
#: Chooses one of a sequence: random.choice, or a Hypothesis draw.
Chooser = Callable[[Any], Any]


# ------------------------------------------------------------------ what can be asked

ALICE, BOB = 1000, 1001
ALL: Final = frozenset(Capability)
USERS: Final = {
    "root": Credentials(0, 0, frozenset(), ALL),
    "alice": Credentials.user(ALICE, ALICE),
    "bob": Credentials.user(BOB, BOB, ALICE),
}


def _list(*named: tuple[acl.Tag, int, int]) -> bytes:
    base = ((acl.Tag.USER_OBJ, 7), (acl.Tag.GROUP_OBJ, 5), (acl.Tag.MASK, 7), (acl.Tag.OTHER, 0))
    entries = [acl.AclEntry(tag, perm) for tag, perm in base]
    entries += [acl.AclEntry(tag, perm, who) for tag, perm, who in named]
    return acl.encode(tuple(sorted(entries, key=lambda entry: (entry.tag, entry.who))))


LISTS: Final = (
    _list((acl.Tag.USER, 6, BOB)),
    _list((acl.Tag.USER, 0, ALICE), (acl.Tag.GROUP, 3, ALICE)),
    b"rubbish",
)

_DIRS: Final = ("d", "d/e", "m", "m/n", "s")
_NAMES: Final = ("a", "b", "c")
_ENTRIES: Final = (*_NAMES, *_DIRS, *(f"{d}/{n}" for d in _DIRS for n in _NAMES), "l", "d/l")
_ODD: Final = (
    *("d/", "a/", "c/", "l/", "d/.", "d/..", "m/../a", "d/./a", "l/a", "d/l/a", "a/x", "."),
    *("", "x" * 255, "y" * 256, "d/e/../../b", "loop", "loop/a"),
)
_MAKING: Final = (0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_CREAT | os.O_TRUNC)
_OPEN_FLAGS: Final = (
    *(
        access | making | other
        for access in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
        for making in _MAKING
        for other in (0, os.O_APPEND, os.O_NOFOLLOW, os.O_DIRECTORY, os.O_PATH, os.O_NOATIME)
    ),
    os.O_PATH | os.O_NOFOLLOW,
    os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW,
    os.O_RDONLY | os.O_DIRECT,
    os.O_WRONLY | os.O_DIRECT | os.O_CREAT,
    os.O_RDWR | os.O_SYNC,
    os.O_TMPFILE | os.O_RDWR,
    os.O_TMPFILE | os.O_RDONLY,
)

_ATTRIBUTES: Final = (
    *("user.x", "user.y", "trusted.x", "trusted.overlay.opaque", "trusted.overlay.overlay.y"),
    *("user.overlay.redirect", "odd", "user." + "n" * 251, "security.x", "security.capability"),
)

#: The values each kind of argument is drawn from.
DOMAINS: Final[dict[str, tuple[Any, ...]]] = {
    "path": _ENTRIES * 3 + _ODD,
    "target": ("a", "d", "d/a", "e", "nothing", "loop", "a/", "m/n", "", "z" * 4096),
    "flags": _OPEN_FLAGS,
    "mode": (0o644, 0o600, 0o666, 0o755, 0o700, 0o777, 0o070, 0o4755, 0o6775, 0o2770, 0o1777, 0),
    "size": (0, 1, 5, 4096, 70000, -1),
    "data": (b"", b"new", b"longer than the old"),
    "uid": (-1, 0, ALICE, BOB),
    "gid": (-1, 0, ALICE, BOB),
    "ns": (None, (10**18, 10**18 + 1), (5, 7 * 10**17 + 123456789)),
    "attribute": _ATTRIBUTES,
    "pair": (
        *((name, value) for name in _ATTRIBUTES[:-1] for value in (b"1", b"y")),
        *(("user.x", b""), ("security.capability", b"no struct vfs_cap_data")),
        *(("security.capability", struct.pack("<IIIII", 0x2000001, 1, 0, 0, 0)),) * 4,
    ),
    "xflags": (0, 0, os.XATTR_CREATE, os.XATTR_REPLACE),
    "list": LISTS,
    "which": (acl.ACCESS, acl.DEFAULT),
    "rename": (0, 0, 0, syscalls.RENAME_NOREPLACE, syscalls.RENAME_EXCHANGE, 3, 4, 8),
    "kind": (
        *((stat.S_IFIFO, 0), (stat.S_IFCHR, 0), (stat.S_IFCHR, 0x103), (stat.S_IFSOCK, 0)),
        *((stat.S_IFREG, 0), (0, 0), (stat.S_IFDIR, 0), (stat.S_IFLNK, 0)),
    ),
    "follow": (True, False),
    "access": (os.R_OK, os.W_OK, os.X_OK, os.R_OK | os.W_OK),
    "user": ("root", "root", "alice", "bob"),
}

#: Every operation, with the kinds of its arguments.
OPERATIONS: Final[dict[str, tuple[str, ...]]] = {
    "open": ("path", "flags", "mode", "data"),
    "write": ("path", "data"),
    "truncate": ("path", "size"),
    "mkdir": ("path", "mode"),
    "rmdir": ("path",),
    "unlink": ("path",),
    "symlink": ("target", "path"),
    "link": ("path", "path", "follow"),
    "rename": ("path", "path", "rename"),
    "mknod": ("path", "kind", "mode"),
    "chmod": ("path", "mode"),
    "chown": ("path", "uid", "gid", "follow"),
    "utime": ("path", "ns", "follow"),
    "setxattr": ("path", "pair", "xflags", "follow"),
    "removexattr": ("path", "attribute", "follow"),
    "getxattr": ("path", "attribute", "follow"),
    "listxattr": ("path", "follow"),
    "setacl": ("path", "which", "list"),
    "removeacl": ("path", "which"),
    "readdir": ("path",),
    "stat": ("path", "follow"),
    "readlink": ("path",),
    "access": ("path", "access"),
}

#: Drawn more often than the others.
FREQUENT: Final = ("open", "write", "rename", "unlink", "mkdir", "rmdir", "link", "readdir")


@dataclass(frozen=True, slots=True)
class Step:
    """One call of one user."""

    user: str
    operation: str
    arguments: tuple[Any, ...]

    @classmethod
    def draw(cls, choose: Chooser) -> Step:
        operation = choose((*OPERATIONS, *FREQUENT, *FREQUENT))
        arguments = tuple(choose(DOMAINS[kind]) for kind in OPERATIONS[operation])
        return cls(choose(DOMAINS["user"]), operation, arguments)


# ------------------------------------------------------------------------ two drivers


class _Mount:
    """The calls on a kernel mount, which is the current directory."""

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
        here = os.open(".", os.O_PATH)
        try:
            os.link(old, new, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=follow)
        finally:
            os.close(here)

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

    def __init__(self, base: Path, choose: Chooser, *, directory_copyup: bool) -> None:
        self.base = base
        self.steps = 0
        self.differences: Counter[str] = Counter()
        self._started = time.time_ns() - 10**8  # the kernel's clock may lag a tick
        names = ("upper-bottom", "bottom", "engine", "kernel", "mnt")
        self._upper, self._bottom, self._top, self._other, self._mnt = (base / n for n in names)
        for directory in (self._upper, self._bottom, self._top, self._other, self._mnt):
            directory.mkdir()
        populate(self._bottom, choose)
        populate(self._upper, choose)
        cover(self._upper, self._bottom, choose)
        for top in (self._top, self._other):
            os.chmod(top, 0o777)
        self.bottoms = (str(self._upper), str(self._bottom))
        self._cwd = os.open(".", os.O_PATH)
        self._umask = os.umask(0o022)
        self._is_mounted = False
        self._mount_kernel(self._other, "document")
        self.mount = _Mount()
        # A directory copied up as fallthrus is on the top alone, and overlayfs would move it.
        self.moves = not directory_copyup and choose((True, True, False))
        self.union = _Engine(
            self._top,
            self.bottoms,
            directory_copyup=directory_copyup,
            matching=choose((True, False)),
            move_directories=self.moves,
            sync=False,
        )
        self.compare_trees()

    def _mount_kernel(self, top: Path, profile: str) -> None:
        kernel.mount(Overlay(self.bottoms, str(top), profile=profile), str(self._mnt))
        self._is_mounted = True
        os.chdir(self._mnt)

    def _unmount(self) -> None:
        os.fchdir(self._cwd)
        if self._is_mounted:
            kernel.unmount(str(self._mnt))
            self._is_mounted = False

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
        elif mine != theirs:
            raise Mismatch(f"{step}:\n  engine {mine}\n  kernel {theirs}")
        self.compare_trees(step)

    def compare_trees(self, step: Step | None = None) -> None:
        mine = engine_tree(self.bottoms, self._top, self._started)
        theirs = kernel_tree(self._started)
        if mine != theirs:
            raise Mismatch(f"after {step} the trees differ:\n{_differing(mine, theirs)}")

    def swap(self) -> None:
        """Each driver reads the top which the other wrote."""
        shown = kernel_tree(self._started)
        self.union.close()
        self._unmount()
        mine = engine_tree(self.bottoms, self._other, self._started)
        if mine != shown:
            raise Mismatch(f"the kernel's top in the engine:\n{_differing(mine, shown)}")
        self._mount_kernel(self._top, "fallthru")
        theirs = kernel_tree(self._started)
        if theirs != shown:
            raise Mismatch(f"the engine's top in the kernel:\n{_differing(shown, theirs)}")


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
            fd = side.open(path, flags | os.O_NONBLOCK, mode)
            return _use(fd, flags, data, who)
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
        case "listxattr":
            return sorted(side.listxattr(*arguments, **keywords))
        case "readdir":
            return sorted(side.readdir(*arguments))
        case "stat":
            return attributes(side.stat(*arguments, **keywords), started)
    return getattr(side, step.operation)(*arguments, **keywords)


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


# -------------------------------------------------------------------- the trees


def attributes(st: os.stat_result, started: int) -> tuple[Any, ...]:
    """What must be equal; times that are not set by hand only as before or after the start."""
    is_dir = stat.S_ISDIR(st.st_mode)
    modified = st.st_mtime_ns if st.st_mtime_ns < started else "now"
    size, links = (0, 0) if is_dir else (st.st_size, st.st_nlink)
    device = st.st_rdev if stat.S_IFMT(st.st_mode) in (stat.S_IFCHR, stat.S_IFBLK) else 0
    return (oct(st.st_mode), st.st_uid, st.st_gid, size, links, device, modified)


Tree = dict[bytes, Any]


def kernel_tree(started: int) -> Tree:
    """Everything in the current directory, which is a mount's root."""
    tree: Tree = {}
    pending = [b"."]
    while pending:
        path = pending.pop()
        st = os.lstat(path)
        content: Any = None
        if stat.S_ISREG(st.st_mode):
            fd = os.open(path, os.O_RDONLY)
            content = os.read(fd, 1 << 20)
            os.close(fd)
        elif stat.S_ISLNK(st.st_mode):
            content = os.readlink(path)
        elif stat.S_ISDIR(st.st_mode):
            names = os.listdir(path)
            pending += [path + b"/" + name for name in names]
        names_here = os.listxattr(path, follow_symlinks=False)
        xattrs = {n: os.getxattr(path, n, follow_symlinks=False) for n in names_here}
        tree[path] = (attributes(st, started), content, xattrs)
    return tree


def engine_tree(bottoms: tuple[str, ...], top: Path, started: int) -> Tree:
    """What the layers show, looked at without the engine: nothing is copied up."""
    layers = [Layer.open(path) for path in (str(top), *bottoms)]
    try:
        view = View(layers, MarkFamily.TRUSTED)
        tree: Tree = {}
        pending: list[tuple[bytes, Node]] = [(b".", view.root())]
        while pending:
            path, node = pending.pop()
            tree[path] = _seen(view, node, started)
            if node.is_dir:
                with view.open(node) as directory:
                    for name in directory.names():
                        child = directory.lookup(name)
                        if child is not None:
                            pending.append((path + b"/" + name, child))
        return tree
    finally:
        for layer in layers:
            layer.close()


def _seen(view: View, node: Node, started: int) -> tuple[Any, ...]:
    place = node.places[0]
    layer = view.layers[place.layer]
    content: Any = None
    with layer.parent(place.path) as (fd, name):
        xattrs = visible_xattrs(fd, name or None, view.family)
        if stat.S_ISLNK(node.st.st_mode):
            content = os.readlink(name, dir_fd=fd)
    if stat.S_ISREG(node.st.st_mode):
        assert node.data is not None
        fd = view.open_data(node.data)
        content = os.read(fd, 1 << 20)
        os.close(fd)
    return attributes(node.st, started), content, xattrs


def _differing(mine: Tree, theirs: Tree) -> str:
    lines = []
    for path in sorted(mine.keys() | theirs.keys()):
        if mine.get(path) != theirs.get(path):
            lines.append(f"  {path!r}:\n    engine {mine.get(path)}\n    kernel {theirs.get(path)}")
    return "\n".join(lines)


# ------------------------------------------------------------------ bottoms to begin with

_OLD: Final = 1_500_000_000 * 10**9 + 987_654_321


def populate(root: Path, choose: Chooser) -> None:
    """A small tree with every type of file, owners, modes, lists and attributes."""
    os.chmod(root, 0o777)
    for number, directory in enumerate(_DIRS):
        if (root / directory).parent.is_dir() and choose((True, True, True, False)):
            (root / directory).mkdir()
            for name in _NAMES:
                _add(root / directory / name, choose)
            os.chown(root / directory, choose((0, ALICE)), choose((0, ALICE)))
            os.chmod(root / directory, choose((0o755, 0o777, 0o1777, 0o2775, 0o700, 0o770)))
            if choose((False, False, False, True)):
                os.setxattr(root / directory, acl.DEFAULT, choose(LISTS[:2]))
            os.utime(root / directory, ns=(_OLD, _OLD + number))
    for name in _NAMES:
        _add(root / name, choose)
    os.symlink(choose(("d", "a", "m/n", "nothing")), root / "l")
    os.symlink("loop", root / "loop")
    os.utime(root / "l", ns=(_OLD, _OLD), follow_symlinks=False)
    os.utime(root / "loop", ns=(_OLD, _OLD), follow_symlinks=False)
    for directory in _DIRS[::-1]:
        if (root / directory).is_dir():
            os.utime(root / directory, ns=(_OLD, _OLD + 1))
    os.utime(root, ns=(_OLD, _OLD))


def _add(path: Path, choose: Chooser) -> None:
    kind = choose(("file", "file", "file", "file", "none", "link", "fifo", "dir"))
    if kind == "none":
        return
    if kind == "link":
        os.symlink(choose(("a", "b", "e/a", "nothing")), path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "dir":
        path.mkdir()
    else:
        path.write_bytes(choose((b"", b"old", b"old content" * 1000)))
    os.chown(path, choose((0, ALICE)), choose((0, ALICE, BOB)), follow_symlinks=False)
    if kind != "link":
        os.chmod(path, choose((0o644, 0o600, 0o666, 0o4755, 0o2755, 0o2644, 0o000, 0o777)))
    if kind == "file" and choose((False, False, True)):
        os.setxattr(path, choose(("user.x", "trusted.x", "trusted.overlay.overlay.opaque")), b"y")
        os.setxattr(path, acl.ACCESS, choose(LISTS[:2]))
    os.utime(path, ns=(_OLD, _OLD + 5), follow_symlinks=False)


def cover(root: Path, lower: Path, choose: Chooser) -> None:
    """Let the upper bottom hide things of the lower one, as a top of an earlier union does.

    A whiteout that hides nothing no driver makes; the kernel's readdir would show it.
    """
    family = MarkFamily.TRUSTED
    merged = {"."}
    for directory in (".", *_DIRS):
        if not (root / directory).is_dir() or not (lower / directory).is_dir():
            continue
        if os.path.dirname(directory) not in merged and "/" in directory:
            continue
        st = os.stat(root / directory)
        fd = os.open(root / directory, os.O_RDONLY)
        try:
            if directory != "." and choose((False, False, True)):
                set_opaque(fd, family)
                continue
            merged.add(directory)
            for name in _NAMES:
                taken = os.path.lexists(root / directory / name)
                hides = os.path.lexists(lower / directory / name)
                if hides and not taken and choose((False, True)):
                    write_whiteout(fd, name.encode(), family)
            os.utime(fd, ns=(st.st_atime_ns, st.st_mtime_ns))
        finally:
            os.close(fd)
