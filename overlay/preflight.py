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

from overlay import images, workdir
from overlay.errors import (
    EnvironmentLacks,
    FallthruError,
    OperationFailed,
    TopInUse,
    UnreadableTop,
    UsageError,
)
from overlay.layer import first_fallthru_stub, top_shortcomings
from overlay.privilege import in_user_namespace
from overlay.profiles import Profile
from overlay.text import printable

__all__ = ["Directory", "OpenLayers", "open_layers"]

_OPEN = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Directory:
    """An open directory: ``fd`` is O_PATH, ``path`` canonical, in surrogate escapes.

    For a bottom that is an image, ``path`` is the image's, and ``fd`` the root of its mount.
    """

    role: str
    fd: int
    path: str
    stat: os.stat_result
    image: images.Image | None = None


@dataclass(frozen=True, slots=True)
class OpenLayers:
    """The layers of one overlay, checked and open; bottoms uppermost first.

    With ``index``, the layer of a shared index, the bottoms only give their data.
    """

    bottoms: tuple[Directory, ...]
    top: Directory
    work: Directory
    family: str
    index: Directory | None = None


@contextmanager
def open_layers(
    bottoms: tuple[str, ...],
    top: str,
    work: str | None,
    profile: Profile,
    index: str | None = None,
) -> Iterator[OpenLayers]:
    """Open and check the layers; the work directory is made where it is missing.

    Everything is closed at the end, and where the body fails, a work directory that
    was made here is removed again.
    """
    opened: list[int] = []
    made: str | None = None
    try:
        lower = tuple(_open_bottom(path, opened) for path in bottoms)
        upper = _open("top", top, opened)
        _check_overlap(lower, upper)
        system = _check_writable(upper)
        work_path = workdir.beside(upper.path) if work is None else os.path.realpath(work)
        _check_separate(upper.path, work_path)
        if workdir.make(work_path):
            made = work_path
        below = _open_canonical("work directory", work_path, opened)
        _check_overlap(lower, below)
        workdir.check(work_path, below.stat, upper.stat)
        family = _check_marks(upper, system, below, profile)
        merged = None if index is None else _open_bottom(index, opened)
        yield OpenLayers(lower, upper, below, family, merged)
    except BaseException as error:
        # Whoever won the top may be using the work directory that was made here.
        if made is not None and not (isinstance(error, TopInUse) and error.work in (None, made)):
            workdir.take_back(made)
        raise
    finally:
        for fd in opened:
            os.close(fd)


def _open(role: str, path: str, opened: list[int]) -> Directory:
    try:
        fd = os.open(path, _OPEN)
    except OSError as error:
        raise _cannot_open(role, path, error) from None
    opened.append(fd)
    # The kernel's own name for what was opened: symlinks and dots are resolved.
    return Directory(role, fd, os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd))


def _open_canonical(role: str, path: str, opened: list[int]) -> Directory:
    """Open a path known to be canonical but for its last name, which is not followed."""
    try:
        fd = os.open(path, _OPEN | os.O_NOFOLLOW)
    except OSError as error:
        raise _cannot_open(role, path, error) from None
    opened.append(fd)
    return Directory(role, fd, path, os.fstat(fd))


def _open_bottom(path: str, opened: list[int]) -> Directory:
    try:
        return _open("bottom", path, opened)
    except UsageError as error:
        if error.errno != errno.ENOTDIR or not images.is_image(path):
            raise
    image = images.open_image(path)
    opened.append(image.fd)
    return Directory("bottom", image.fd, image.file, os.fstat(image.fd), image)


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


def _check_overlap(others: tuple[Directory, ...], mine: Directory) -> None:
    """No layer may be, hold or lie in another (L435: never a top and a bottom at once)."""
    for other in others:
        if other.stat.st_dev != mine.stat.st_dev:
            continue  # a union covers what is mounted below its layers, so it is not in them
        if other.stat.st_ino == mine.stat.st_ino:
            how = "is the same directory as"
        elif _lies_in(mine.path, other.path):
            # The kernel lets this pass, but then the bottom changes with every write.
            how = "lies in"
        elif _lies_in(other.path, mine.path):
            how = "contains"
        else:
            continue
        raise UsageError(
            f"the {mine.role} {printable(mine.path)} {how} the {other.role} "
            f"{printable(other.path)}",
            hint="layers must be separate directory trees",
        )


def _lies_in(path: str, directory: str) -> bool:
    return path.startswith(directory if directory == "/" else directory + "/")


def _check_separate(top: str, work: str) -> None:
    if work == top or _lies_in(work, top) or _lies_in(top, work):
        raise UsageError(
            f"the work directory {printable(work)} and the top {printable(top)} overlap",
            hint="layers must be separate directory trees",
        )


def _check_writable(top: Directory) -> os.statvfs_result:
    system = os.fstatvfs(top.fd)
    if system.f_flag & os.ST_RDONLY:
        raise UsageError(
            f"the top {printable(top.path)} is on a read-only file system", errno=errno.EROFS
        )
    return system


#: File systems found able to be a top, by their identity and the marks' family.  The
#: device number alone would not do: the kernel gives those of unmounted ones out again.
_able: set[tuple[int, int, str]] = set()


def _check_file_system(
    top: Directory, system: os.statvfs_result, work: Directory, family: str
) -> None:
    known = (system.f_fsid, top.stat.st_dev, family)
    if known in _able:
        return
    # Asked in the work directory: a probe that makes something must not touch the top.
    missing = top_shortcomings(work.fd, family)
    if missing:
        raise EnvironmentLacks(
            f"the file system of the top {printable(top.path)} cannot be a top: it lacks "
            + ", ".join(missing),
            hint="put the top on ext4, xfs, btrfs or tmpfs",
        )
    _able.add(known)


def _check_marks(
    top: Directory, system: os.statvfs_result, work: Directory, profile: Profile
) -> str:
    """The marks' family; refuse a file system that can't have them, or stubs unread.

    The kernel would mount a top with file fallthrus under any profile, and then fail
    every access to such a file.  Whether a top may hold them is remembered on its work
    directory; an unknown top is walked once.
    """
    family = "trusted"
    known = workdir.recall(work.fd, family)
    # Only the initial user namespace is shown a trusted attribute, so one that is there
    # settles the question without a look at the namespace.
    if known is None and in_user_namespace():
        family = "user"
        known = workdir.recall(work.fd, family)
        if profile.reads_stubs:
            raise EnvironmentLacks(
                f"the {profile.name} profile cannot be used in a user namespace",
                hint="overlayfs refuses metacopy and redirects there: use --profile document",
            )
    _check_file_system(top, system, work, family)
    if profile.reads_stubs:
        if known != b"maybe":
            workdir.remember(work.fd, family, b"maybe")
    elif known != b"no":
        found = first_fallthru_stub(top.fd, family)
        if found is not None:
            raise UnreadableTop(
                f"the top {printable(top.path)} holds a fallthru, {printable(found)}, which the "
                f"{profile.name} profile cannot read",
                hint="mount it with --profile fallthru",
            )
        workdir.remember(work.fd, family, b"no")
    return family
