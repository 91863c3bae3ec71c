"""Making a tree into a bottom that cannot change: an erofs image, or a btrfs snapshot.

The image is made by mkfs.erofs from a copy of the tree's mount that only it sees: read-only,
without access times, and without what is mounted below.  For the mount point of an overlay
that is the union as it is visible.  The same tree always gives the same bytes: with its own
times, the newest of them for the image itself, and a UUID that comes from its names and
attributes.  (It must not be a fixed one: overlayfs does without its index where two layers
have the same.)
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from overlay import btrfs, fingerprint, images, syscalls
from overlay.errors import EnvironmentLacks, NoPrivilege, OperationFailed, Refused, UsageError
from overlay.layer import Layer
from overlay.newtree import beside
from overlay.text import printable

__all__ = ["Frozen", "freeze", "snapshot"]

_ATIME: Final = 0x70  # MOUNT_ATTR__ATIME: the kernel wants the old setting cleared
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Frozen:
    """An image that was made: ``size`` in bytes, ``entries`` with the root of the tree."""

    path: str
    size: int
    entries: int
    uuid: str
    verified: bool


def freeze(
    directory: str,
    image: str,
    *,
    compression: str | None = None,
    verify: bool = True,
    replace: bool = False,
) -> Frozen:
    """Make ``image`` an erofs image of what is visible in ``directory``.

    It appears complete and on the disk, or not at all.  ``compression`` is a compressor of
    mkfs.erofs, as ``lz4hc``.  Unless told not to, the image is mounted and compared with
    the tree.  Raises UsageError, EnvironmentLacks, OperationFailed; Refused when the tree
    changed meanwhile, or for an image that exists, unless ``replace``.
    """
    image = os.path.abspath(image)
    maker = _maker()
    with _unseen(directory) as tree, Layer(_reopened(tree, directory), directory) as layer:
        _check_target(image, directory, replace=replace)
        if verify and os.geteuid() != 0:
            raise NoPrivilege(
                "the image cannot be mounted to verify it",
                hint="run as root, or make it with --no-verify",
            )
        outline = fingerprint.outline(layer)
        identity = uuid.UUID(bytes=outline.digest[:16], version=4)
        arguments = [maker, "--quiet", f"-U{identity}"]
        if compression is not None:
            arguments.append(f"-z{compression}")
        with _aside(image, replace=replace) as temporary:
            # Only later times than this are changed, and there is none.
            environment = {**os.environ, "SOURCE_DATE_EPOCH": str(outline.newest + 1)}
            _make(arguments, environment, temporary, tree, directory)
            if verify:
                _verify(layer, temporary)
            size = os.stat(temporary).st_size
    return Frozen(image, size, outline.entries, str(identity), verify)


def _maker() -> str:
    found = shutil.which("mkfs.erofs")
    if found is None:
        raise EnvironmentLacks(
            "mkfs.erofs is not installed", hint="apt-get install erofs-utils (dnf: the same)"
        )
    return found


@contextmanager
def _unseen(directory: str) -> Iterator[int]:
    """The tree in a mount that nobody else sees, or as it is for those who may not mount."""
    try:
        tree = syscalls.open_tree(syscalls.AT_FDCWD, directory, syscalls.OPEN_TREE_CLONE)
        syscalls.mount_setattr(
            tree,
            "",
            syscalls.AT_EMPTY_PATH,
            attr_set=syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOATIME,
            attr_clr=_ATIME,
        )
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL, errno.ENOSYS):
            raise _no_directory(directory, error) from None
        try:
            tree = os.open(directory, _OPEN)
        except OSError as reason:
            raise _no_directory(directory, reason) from None
    try:
        yield tree
    finally:
        os.close(tree)


def _no_directory(directory: str, error: OSError) -> UsageError:
    return UsageError(f"no directory at {printable(directory)}", errno=error.errno or 0)


def _reopened(tree: int, directory: str) -> int:
    try:
        return os.open(".", _OPEN, dir_fd=tree)
    except OSError as error:
        raise _no_directory(directory, error) from None


def _check_target(image: str, directory: str, *, replace: bool) -> None:
    shown = printable(image)
    if os.path.isdir(image):
        raise UsageError(f"{shown} is a directory", hint="name the image's file with -o")
    if os.path.lexists(image) and not replace:
        raise Refused(f"{shown} exists", hint="name another file, or replace it with --force")
    inside = os.path.realpath(directory).rstrip("/") + "/"
    if os.path.realpath(image).startswith(inside) and _same_mount(image, directory):
        raise UsageError(
            f"the image {shown} would be in the tree that it is made of",
            hint="name a file outside of it with -o",
        )


def _same_mount(image: str, directory: str) -> bool:
    try:
        above = syscalls.statx(syscalls.AT_FDCWD, os.path.dirname(image), 0)
    except OSError:
        return False
    return above.mnt_id == syscalls.statx(syscalls.AT_FDCWD, directory, 0).mnt_id


@contextmanager
def _aside(image: str, *, replace: bool) -> Iterator[str]:
    """A file to make in the image's place; it gets there, and on the disk, if the body succeeds."""
    with beside(image) as (parent, stage):
        temporary = os.path.join(os.readlink(f"/proc/self/fd/{stage}"), "image")
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            yield temporary
            os.fchmod(fd, 0o644)
            os.fsync(fd)
        finally:
            os.close(fd)
        if replace:
            os.rename(temporary, image)
        else:
            _rename_to_free(temporary, image)
        os.fsync(parent)


def _rename_to_free(temporary: str, image: str) -> None:
    here = syscalls.AT_FDCWD
    try:
        syscalls.renameat2(here, temporary, here, image, syscalls.RENAME_NOREPLACE)
    except OSError as error:
        raise OperationFailed(
            f"the image cannot be put at {printable(image)}", errno=error.errno or 0
        ) from None


def _make(
    arguments: list[str], environment: dict[str, str], image: str, tree: int, directory: str
) -> None:
    """Run mkfs.erofs, which wants a path, in a mount namespace where the tree has one.

    That is beside ``image``, where it goes with it, whatever ends this process.
    """
    place = os.path.join(os.path.dirname(image), "tree")
    os.mkdir(place)
    enter, path = _entry(tree, place, directory)
    done = subprocess.run(
        [*arguments, image, path],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=enter,
        pass_fds=(tree,),
        check=False,
    )
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace").strip().splitlines()
        raise OperationFailed(
            f"mkfs.erofs failed: {said[-1] if said else f'status {done.returncode}'}",
            hint="is there room for the image, and may the tree be read?",
        )


def _entry(tree: int, place: str, directory: str) -> tuple[Callable[[], None] | None, str]:
    if os.readlink(f"/proc/self/fd/{tree}") != "/" or os.geteuid() != 0:
        return None, directory  # not in a mount of its own
    return lambda: _attach_alone(tree, place), place


def _attach_alone(tree: int, place: str) -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
    syscalls.move_mount(tree, "", syscalls.AT_FDCWD, place, syscalls.MOVE_MOUNT_F_EMPTY_PATH)


def _verify(layer: Layer, image: str) -> None:
    with images.opened(image) as opened, Layer(_reopened(opened.fd, image), image) as made:
        found = fingerprint.first_difference(layer, made)
    if found is not None:
        path, what = found
        raise Refused(
            f"the image is not as the tree is: {printable(path) or '/'} {what}",
            hint="did something change the tree meanwhile? freeze it again when it rests",
        )


def snapshot(directory: str, path: str) -> None:
    """Make ``path`` a read-only btrfs snapshot of the subvolume ``directory``, in an instant."""
    try:
        source = os.open(directory, _OPEN)
    except OSError as error:
        raise _no_directory(directory, error) from None
    try:
        if syscalls.fstatfs_type(source) != btrfs.MAGIC:
            raise UsageError(
                f"{printable(directory)} is not on btrfs", hint="freeze it as an image: -o IMAGE"
            )
        _snapshot(source, directory, os.path.abspath(path))
    finally:
        os.close(source)


def _snapshot(source: int, directory: str, path: str) -> None:
    above, name = os.path.split(path)
    try:
        parent = os.open(above, _OPEN)
        try:
            btrfs.snapshot(source, parent, os.fsencode(name))
            os.fsync(parent)
        finally:
            os.close(parent)
    except OSError as error:
        number = error.errno or 0
        if number == errno.EEXIST:
            raise Refused(f"{printable(path)} exists", hint="name another place with -o") from None
        elsewhere = f"{printable(path)} is not on the file system of {printable(directory)}"
        reasons = {
            errno.EINVAL: f"{printable(directory)} is not the root of a subvolume",
            errno.EXDEV: elsewhere,
            errno.ENOTTY: elsewhere,  # not on any btrfs
            errno.ENOENT: f"no directory at {printable(above)}",
        }
        if number in reasons:
            raise UsageError(reasons[number], hint="btrfs subvolume list -o DIR") from None
        if number in (errno.EPERM, errno.EACCES):
            raise NoPrivilege("snapshots need root", hint="run as root", errno=number) from None
        raise OperationFailed(f"no snapshot at {printable(path)}", errno=number) from None
