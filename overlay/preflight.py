"""What is checked before an overlay is mounted, so that a refusal names its cause.

The checks must stay cheap: together with the mount they may cost at most 1.3 times
the raw system calls (``scripts/bench roots``).  So they ask by descriptor, never walk
a tree unless the top's history is unknown, and leave to the kernel what it checks
itself (aliases by bind mount, tops in use, tops made for other bottoms).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from overlay import syscalls
from overlay.errors import (
    EnvironmentLacks,
    FallthruError,
    OperationFailed,
    Refused,
    UnreadableTop,
    UsageError,
)
from overlay.layer import first_fallthru_stub
from overlay.profiles import Profile
from overlay.text import printable

__all__ = ["Directory", "OpenLayers", "in_user_namespace", "open_layers", "work_beside"]

#: The initial user namespace's inode (include/linux/proc_ns.h, PROC_USER_INIT_INO).
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD

_OPEN = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Directory:
    """An open directory: ``fd`` is O_PATH, ``path`` canonical, in surrogate escapes."""

    role: str
    fd: int
    path: str
    stat: os.stat_result


@dataclass(frozen=True, slots=True)
class OpenLayers:
    """The layers of one overlay, checked and open; bottoms uppermost first."""

    bottoms: tuple[Directory, ...]
    top: Directory
    work: Directory
    family: str


def in_user_namespace() -> bool:
    """Whether this process is root at most in a user namespace (marks are then ``user.``)."""
    return os.stat("/proc/self/ns/user").st_ino != _INITIAL_USER_NAMESPACE


def work_beside(top: str) -> str:
    """Where the work directory goes when none is named: ``NAME.work`` beside the top."""
    return top + ".work"


@contextmanager
def open_layers(
    bottoms: tuple[str, ...], top: str, work: str | None, profile: Profile, family: str
) -> Iterator[OpenLayers]:
    """Open and check the layers; the work directory is made where it is missing.

    Everything is closed at the end, and where the body fails, a work directory that
    was made here is removed again.
    """
    opened: list[int] = []
    made: str | None = None
    try:
        lower = tuple(_open("bottom", path, opened) for path in bottoms)
        upper = _open("top", top, opened)
        _check_overlap([*lower, upper])
        _check_top(upper, family)
        work_path = _default_work(upper) if work is None else os.path.realpath(work)
        _check_separate(upper.path, work_path)
        if _make_work(work_path):
            made = work_path
        below = _open("work directory", work_path, opened, nofollow=True)
        _check_overlap([*lower, below])
        _check_owner(upper, below)
        _check_stubs(upper, below, profile, family)
        yield OpenLayers(lower, upper, below, family)
    except BaseException:
        if made is not None:
            _remove_work(made)
        raise
    finally:
        for fd in opened:
            os.close(fd)


def _open(role: str, path: str, opened: list[int], *, nofollow: bool = False) -> Directory:
    try:
        fd = os.open(path, _OPEN | (os.O_NOFOLLOW if nofollow else 0))
    except OSError as error:
        raise _cannot_open(role, path, error) from None
    opened.append(fd)
    # The kernel's own name for what was opened: symlinks and dots are resolved.
    return Directory(role, fd, os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd))


def _cannot_open(role: str, path: str, error: OSError) -> FallthruError:
    number = error.errno or 0
    shown = printable(path)
    if number == errno.ENOENT:
        return UsageError(f"the {role} {shown} does not exist", hint=f"mkdir {shown}", errno=number)
    if number in (errno.ENOTDIR, errno.ELOOP):
        return UsageError(f"the {role} {shown} is not a directory", errno=number)
    if number in (errno.EACCES, errno.EPERM):
        return EnvironmentLacks(f"the {role} {shown} may not be opened", errno=number)
    return OperationFailed(f"the {role} {shown} cannot be opened", errno=number)


def _check_overlap(layers: list[Directory]) -> None:
    """No layer may be, hold or lie in another (L436: never a top and a bottom at once)."""
    *others, last = layers
    mine = last.path.rstrip("/") + "/"
    for other in others:
        theirs = other.path.rstrip("/") + "/"
        if os.path.samestat(other.stat, last.stat):
            how = "is the same directory as"
        elif other.stat.st_dev != last.stat.st_dev:
            continue  # a union covers what is mounted below its layers, so it is not in them
        elif mine.startswith(theirs):
            # The kernel lets this pass, but then the bottom changes with every write.
            how = "lies in"
        elif theirs.startswith(mine):
            how = "contains"
        else:
            continue
        raise UsageError(
            f"the {last.role} {printable(last.path)} {how} the {other.role} "
            f"{printable(other.path)}",
            hint="layers must be separate directory trees",
        )


def _check_top(top: Directory, family: str) -> None:
    if os.fstatvfs(top.fd).f_flag & os.ST_RDONLY:
        raise UsageError(
            f"the top {printable(top.path)} is on a read-only file system", errno=errno.EROFS
        )
    try:
        syscalls.getxattr(top.fd, f"{family}.overlay.opaque")
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise EnvironmentLacks(
                f"the file system of the top {printable(top.path)} cannot be a top: it has no "
                f"{family}.* extended attributes, which marks need",
                hint="put the top on ext4, xfs, btrfs or tmpfs",
                errno=errno.EOPNOTSUPP,
            ) from None


def _default_work(top: Directory) -> str:
    attributes = syscalls.statx(top.fd, "", syscalls.AT_EMPTY_PATH).attributes
    if attributes & syscalls.STATX_ATTR_MOUNT_ROOT:
        raise UsageError(
            f"the top {printable(top.path)} is the root of its file system, so no work "
            "directory can be made beside it",
            hint=f"use a directory in it: --top {printable(top.path.rstrip('/') + '/top')}",
        )
    return work_beside(top.path)


def _make_work(path: str) -> bool:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return False
    except OSError as error:
        raise UsageError(
            f"the work directory {printable(path)} cannot be made",
            hint="name one on the top's file system with --work",
            errno=error.errno or 0,
        ) from None
    return True


def _remove_work(path: str) -> None:
    """Take a work directory of our own back; what the kernel put in it meanwhile is empty."""
    for name in ("work/incompat", "work", "index", ""):
        try:
            os.rmdir(os.path.join(path, name))
        except OSError:
            continue  # not there, or in use after all: never force


def _check_separate(top: str, work: str) -> None:
    inside_top = (work + "/").startswith(top.rstrip("/") + "/")
    if inside_top or (top + "/").startswith(work.rstrip("/") + "/"):
        raise UsageError(
            f"the work directory {printable(work)} and the top {printable(top)} overlap",
            hint="layers must be separate directory trees",
        )


def _check_owner(top: Directory, work: Directory) -> None:
    # Whoever owns the work directory decides what ends up on the top.
    if work.stat.st_uid not in (os.geteuid(), top.stat.st_uid):
        raise Refused(
            f"the work directory {printable(work.path)} belongs to uid {work.stat.st_uid}",
            hint="remove it, or name another with --work",
        )


def _check_stubs(top: Directory, work: Directory, profile: Profile, family: str) -> None:
    """Refuse a top with file fallthrus to a profile under which their data can't be read.

    The kernel would mount it and fail every access to such a file.  Whether a top may
    hold stubs is remembered on its work directory; an unknown top is walked once.
    """
    attribute = f"{family}.fallthru.stubs"
    try:
        known = syscalls.getxattr(work.fd, attribute)
    except OSError:
        known = b""
    if profile.reads_stubs:
        if known != b"maybe":
            syscalls.setxattr(work.fd, attribute, b"maybe")
        return
    if known == b"no":
        return
    found = first_fallthru_stub(top.fd, family)
    if found is not None:
        raise UnreadableTop(
            f"the top {printable(top.path)} holds a fallthru, {printable(found)}, which the "
            f"{profile.name} profile cannot read",
            hint="mount it with --profile fallthru",
        )
    syscalls.setxattr(work.fd, attribute, b"no")
