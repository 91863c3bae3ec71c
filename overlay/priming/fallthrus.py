"""Making the fallthrus of whole directories, with few system calls an entry.

Directory copyup (document L528–L536) gives a directory of the top an entry for all that
only bottoms have.  This module lists what the bottoms show of a directory and makes
stubs for it.  :mod:`overlay.priming.crew` does so on all cores; where they go, and in which
order they become visible, is :mod:`overlay.priming.prime`'s business.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field, replace
from typing import Final

from overlay import marks, syscalls
from overlay.errors import Refused
from overlay.layer import directory_beneath
from overlay.markvalues import NO_XATTR, escape_attribute, visible_xattrs
from overlay.priming.bottomlist import FAMILY, Source, children, visible
from overlay.text import printable
from overlay.view import Place, View

__all__ = [
    "BUDGET",
    "Filled",
    "Filler",
    "Link",
    "Task",
    "dress_directory",
    "set_impure",
]

_METACOPY: Final = FAMILY.attribute("metacopy")
_REDIRECT: Final = FAMILY.attribute("redirect")
_OPAQUE: Final = FAMILY.attribute("opaque")
_IMPURE: Final = FAMILY.attribute("impure")

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME_MAX: Final = 255
#: Room left for a file's other attributes beside a redirect.
_RESERVED: Final = 512
#: A file system cannot hold one attribute or size; what else there is may do well.
_CANNOT_STORE: Final = frozenset({errno.EOPNOTSUPP, errno.EFBIG, errno.E2BIG, errno.ERANGE})
#: Entries after which a worker hands back what it has not begun.
BUDGET: Final = 1500
#: A directory with more entries is shared out.
_LARGE: Final = 4000


@dataclass(frozen=True, slots=True)
class Task:
    """A directory to fill with fallthrus.

    ``places`` are its bottom directories, uppermost first; ``path`` is where a redirect
    finds them, from the layers' roots; ``target`` is the directory that gets the entries,
    below the filler's root.  ``skip``: names that are taken.  ``in_place``: the target may
    be seen, so entries are made aside and moved in one by one, and it stays as it is.
    ``part`` is (number, of how many); ``finish`` means that only the end is left to do.
    """

    places: tuple[Place, ...]
    path: bytes
    target: bytes
    skip: frozenset[bytes] = frozenset()
    in_place: bool = False
    part: tuple[int, int] | None = None
    finish: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """One name of a bottom file with several.

    ``places`` are those of its directory, ``path`` is its own for a redirect, ``target``
    is where its stub would go.
    """

    file: tuple[int, int]
    nlink: int
    places: tuple[Place, ...]
    path: bytes
    target: bytes


@dataclass(slots=True)
class Filled:
    """What was made: directories completed, entries; hard links put off; directories to do.

    ``failed`` are tasks whose directory could not be completed, with the reason.
    """

    directories: int = 0
    entries: int = 0
    links: list[Link] = field(default_factory=list)
    failed: list[tuple[Task, str]] = field(default_factory=list)
    todo: list[Task] = field(default_factory=list)

    def add(self, other: Filled) -> None:
        self.directories += other.directories
        self.entries += other.entries
        self.links += other.links
        self.failed += other.failed


# -------------------------------------------------------------------------- filling


class Filler:
    """Makes entries below ``root`` (a descriptor) for what ``view`` shows.

    ``stage`` is where entries of directories in sight are made.  With ``opaque`` every
    directory that is completed gets the mark; ``recursive`` goes on into subdirectories,
    which else become fallthrus themselves; ``exact`` is for their inode numbers.  The
    default access control list of a directory and its set-group-id bit, which would rub
    off on what is made in it, are given last.
    """

    def __init__(
        self,
        view: View,
        root: int,
        stage: int,
        *,
        opaque: bool = True,
        recursive: bool = False,
        exact: bool = True,
    ) -> None:
        self.view = view
        self.root = root
        self.stage = stage
        self.opaque = opaque
        self.recursive = recursive
        self.exact = exact
        self.share = 1
        self._me = (os.geteuid(), os.getegid())
        self._umask = _umask()
        self._helper = False
        self._here = -1
        self._longest = _longest_mark(root)

    def in_helper(self) -> None:
        """From now on this process works for nobody else: it may go where it reads."""
        self._helper = True

    def work(self, tasks: list[Task]) -> Filled:
        """Fill directories until the budget is spent; what is left comes back in ``todo``."""
        done = Filled()
        stack, shared = tasks[::-1], []
        while stack and done.entries < BUDGET:
            filled = self.fill(stack.pop())
            done.add(filled)
            if filled.todo and filled.todo[0].part is not None:
                shared += filled.todo
            else:
                stack += filled.todo
        done.todo = shared + stack[::-1]
        return done

    def fill(self, task: Task) -> Filled:
        """One directory, or one part of it; ``todo`` are its subdirectories, or its parts."""
        result = Filled()
        if len(task.path) + _NAME_MAX + 1 > self._longest:
            result.failed.append((task, "its path is too long for a mark"))
            return result
        with directory_beneath(self.root, task.target) as target:
            try:
                if task.finish or self._fill(task, target, result):
                    self._finish(task, target, result)
            except OSError as error:
                if error.errno not in _CANNOT_STORE:
                    raise
                result.failed.append((task, f"the top cannot store it: {error.strerror}"))
        return result

    def _fill(self, task: Task, target: int, result: Filled) -> bool:
        """Make the entries; whether the directory is complete then."""
        if not self.opaque:
            _require_plain(task)
        with visible(self.view, task.places, task.part) as sources:
            if task.part is None and self.share > 1 and len(sources) > _LARGE:
                result.todo = [replace(task, part=(n, self.share)) for n in range(self.share)]
                return False
            self._make(task, target, sources, result)
        return task.part is None

    def _make(self, task: Task, target: int, sources: list[Source], result: Filled) -> None:
        before, below = task.path + b"/", task.target + b"/" if task.target else b""
        if self._helper and sources:
            self._here = sources[0][2]
            os.fchdir(self._here)
        directories = []
        stage = self.stage if task.in_place else None
        for source in sources:
            name, st, _ = source
            if name in task.skip:
                continue
            if stat.S_ISDIR(st.st_mode):
                if self.recursive:
                    directories.append(name)
                    os.mkdir(name, 0o700, dir_fd=target)
                    continue
            elif st.st_nlink > 1:
                result.links.append(
                    Link(
                        (st.st_dev, st.st_ino),
                        st.st_nlink,
                        task.places,
                        before + name,
                        below + name,
                    )
                )
                continue
            self.make(target, source, before + name, stage)
            result.entries += 1
        if directories:
            for name, places in zip(
                directories, children(self.view, task.places, directories), strict=True
            ):
                result.todo.append(Task(places, before + name, below + name))
            result.entries += len(directories)

    def make(self, target: int, source: Source, path: bytes, stage: int | None = None) -> None:
        """One fallthru: with ``stage`` it is made there and then moved, else made in place."""
        name, st, fd = source
        if not stat.S_ISREG(st.st_mode):
            goal = os.readlink(name, dir_fd=fd) if stat.S_ISLNK(st.st_mode) else None
            shown = visible_xattrs(fd, name, FAMILY)
            marks.write_fallthru(
                target, name, st, path, FAMILY, work_fd=stage, target=goal, xattrs=shown
            )
        elif stage is None:
            self._stub(target, name, source, path)
        else:
            aside = marks.temporary_name()
            self._stub(stage, aside, source, path)
            syscalls.renameat2(stage, aside, target, name, syscalls.RENAME_NOREPLACE)

    def _stub(self, dirfd: int, name: bytes, source: Source, path: bytes) -> None:
        """A regular file's stub: what :func:`marks.write_fallthru` makes, in half the calls."""
        old, st, source_fd = source
        mode = st.st_mode & 0o7777
        fd = os.open(name, _CREATE, mode & 0o777, dir_fd=dirfd)
        try:
            if (st.st_uid, st.st_gid) != self._me:
                os.fchown(fd, st.st_uid, st.st_gid)
            if mode & (self._umask | 0o7000):
                os.fchmod(fd, mode)
            if st.st_size:
                os.ftruncate(fd, st.st_size)
            os.setxattr(fd, _METACOPY, b"")
            os.setxattr(fd, _REDIRECT, path)
            present = _list_xattrs(source_fd, old, source_fd == self._here)
            if present:
                if not self.opaque and _METACOPY in present:
                    raise _not_plain(path)
                for attribute, value in visible_xattrs(source_fd, old, FAMILY).items():
                    os.setxattr(fd, escape_attribute(attribute, FAMILY), value)
            os.utime(fd, ns=(st.st_atime_ns, st.st_mtime_ns))
        finally:
            os.close(fd)

    def _finish(self, task: Task, target: int, result: Filled) -> None:
        result.directories += 1
        if task.in_place:
            return  # it has attributes of its own
        with self.view.layers[task.places[0].layer].directory(task.places[0].path) as fd:
            dress_directory(target, fd)
        if self.opaque:
            # The redirect, which the kernel passes over here, tells a directory that was
            # copied up from one that is just new, and says where its fallthrus lead.
            os.setxattr(target, _REDIRECT, task.path)
            if self.exact:
                set_impure(target)
            os.setxattr(target, _OPAQUE, b"y")


def set_impure(fd: int) -> None:
    """Let readdir give the inode numbers that stat does (document L557–L562).

    Overlayfs shows a stub with the number of the bottom's file, as after a copyup; only
    in a directory with this mark does its readdir look for them.
    """
    os.setxattr(fd, _IMPURE, b"y")


def _require_plain(task: Task) -> None:
    """Data-only layers are searched by path, so a file must lie where the union shows it."""
    for place in task.places:
        if place.path != task.path[1:]:
            raise _not_plain(task.path)


def _not_plain(path: bytes) -> Refused:
    return Refused(
        f"a bottom has its {printable(path)} elsewhere (a redirect or a fallthru)",
        hint="a bottom that was a top can't be shared like this; export or merge it first",
    )


def _longest_mark(fd: int) -> int:
    """How long a redirect may be: ext4 keeps all attributes of a file in one block."""
    block: int = os.fstatvfs(fd).f_bsize
    return min(block, 4096) - _RESERVED


def _list_xattrs(dirfd: int, name: bytes, here: bool) -> list[str]:
    # A bare name costs the kernel half of what a path through /proc does.
    path = b"./" + name if here else syscalls.fd_path(dirfd, name)
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in NO_XATTR:
            return []
        raise


def dress_directory(fd: int, source: int) -> None:
    """Give the directory ``fd`` the visible attributes of ``source``, times last."""
    st = os.fstat(source)
    os.fchown(fd, st.st_uid, st.st_gid)
    for attribute, value in visible_xattrs(source, None, FAMILY).items():
        os.setxattr(fd, escape_attribute(attribute, FAMILY), value)
    os.fchmod(fd, stat.S_IMODE(st.st_mode))
    os.utime(fd, ns=(st.st_atime_ns, st.st_mtime_ns))


def _umask() -> int:
    # Asking umask(2) means setting it, for all threads.
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    return 0o777
