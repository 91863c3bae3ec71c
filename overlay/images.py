"""File system images and block devices as bottoms: attached by themselves, gone by themselves.

An image gets a read-only loop device that detaches with its last user, and a mount that
nobody else sees.  The overlay takes the layer from that mount and keeps its own reference,
so nothing is left to undo when it goes, by umount(8) or with a killed process.

A mount without a place has no path either: the kernel would show such a bottom as ``/``.
So the layer is named by a symlink that exists only while the kernel looks it up,
``/run/fallthru/images/DEVICE``.  The name stays in mountinfo and tells the device, and
the device tells the image (``/sys/block/DEVICE/loop/backing_file``) while the overlay lives.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from overlay import runstate, syscalls
from overlay.errors import (
    EnvironmentLacks,
    FallthruError,
    NoPrivilege,
    OperationFailed,
    Refused,
    UsageError,
)
from overlay.imageformats import format_of
from overlay.newmount import new_mount
from overlay.text import printable

__all__ = [
    "Image",
    "attached_as",
    "device_node",
    "is_image",
    "named",
    "open_image",
    "opened",
    "reopen",
]

_NAMES: Final = f"{runstate.DIRECTORY}/images"
_LOOP_GET_STATUS64: Final = 0x4C05  # include/uapi/linux/loop.h
_LOOP_INFO64_SIZE: Final = 232


@dataclass(frozen=True, slots=True)
class Image:
    """A file system attached as a bottom: ``file`` is the image or block device it is on.

    ``device`` is the block device's name in /dev.  ``fd`` is O_PATH on the root of its
    detached mount, or -1 where only its name was looked up; it belongs to the caller.
    """

    file: str
    device: str
    fstype: str
    fd: int = -1

    @property
    def recorded(self) -> str:
        """What mountinfo shows for this bottom."""
        return f"{_NAMES}/{self.device.replace('/', '!')}"


def is_image(path: str) -> bool:
    """Whether ``path`` is a regular file or a block device, which an image can be."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def open_image(path: str) -> Image:
    """Attach and mount the image or block device ``path``, read-only and unseen.

    UsageError for an unknown format, EnvironmentLacks where the kernel lacks the file
    system, privilege or loop devices, Refused for a device in use read-write.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise EnvironmentLacks(
            f"the bottom {printable(path)} may not be read", errno=error.errno or 0
        ) from None
    try:
        shown = os.readlink(f"/proc/self/fd/{fd}")
        fstype = format_of(fd, path)
        if stat.S_ISBLK(os.fstat(fd).st_mode):
            rdev = os.fstat(fd).st_rdev
            device = device_node((os.major(rdev), os.minor(rdev))).removeprefix("/dev/")
            return Image(shown, device, fstype, _mount(fstype, shown, path))
        device_fd, device = _attached(fd, path)
        try:
            tree = _mount(fstype, f"/dev/{device}", path)
        finally:
            os.close(device_fd)  # the mount holds the device from here on
        return Image(shown, device, fstype, tree)
    finally:
        os.close(fd)


@contextmanager
def opened(path: str) -> Iterator[Image]:
    """:func:`open_image` for the length of a with block."""
    image = open_image(path)
    try:
        yield image
    finally:
        os.close(image.fd)


def _attached(image_fd: int, path: str) -> tuple[int, str]:
    """A read-only loop device on the image: one that is there, so the page cache is shared."""
    mine = os.fstat(image_fd)
    for number, backing in _loops():
        if os.path.basename(backing) != os.path.basename(os.path.realpath(path)):
            continue
        found = _join(number, mine)
        if found is not None:
            return found, f"loop{number}"
    try:
        device, name = syscalls.loop_attach(image_fd, read_only=True)
    except OSError as error:
        raise _no_loop(path, error) from None
    return device, os.path.basename(name)


def _loops() -> Iterator[tuple[int, str]]:
    for name in os.listdir("/sys/block"):
        if name.startswith("loop") and name[4:].isdigit():
            backing = _backing_file(name)
            if backing is not None:
                yield int(name[4:]), backing


def _backing_file(device: str) -> str | None:
    try:
        with open(f"/sys/block/{device}/loop/backing_file", "rb") as file:
            return os.fsdecode(file.read().removesuffix(b"\n"))
    except OSError:
        return None


def _join(number: int, image: os.stat_result) -> int | None:
    """The open loop device if it has the whole image, read-only, and detaches by itself."""
    try:
        device = os.open(f"/dev/loop{number}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # Open, it cannot detach any more; only now what it is on is settled.
        info = fcntl.ioctl(device, _LOOP_GET_STATUS64, bytes(_LOOP_INFO64_SIZE))
        dev, inode, _, offset, limit = struct.unpack_from("=5Q", info)
        flags = struct.unpack_from("=I", info, 52)[0]
        wanted = syscalls.LO_FLAGS_READ_ONLY | syscalls.LO_FLAGS_AUTOCLEAR
        same = (os.major(image.st_dev), os.minor(image.st_dev), image.st_ino) == (
            (dev & 0xFFF00) >> 8,  # new_encode_dev() of include/linux/kdev_t.h
            (dev & 0xFF) | ((dev >> 12) & 0xFFF00),
            inode,
        )
        if same and offset == limit == 0 and flags & wanted == wanted:
            return device
    except OSError:
        pass  # it detached just before
    os.close(device)
    return None


def _no_loop(path: str, error: OSError) -> FallthruError:
    number = error.errno or 0
    shown = printable(path)
    if number in (errno.EPERM, errno.EACCES):
        return NoPrivilege(
            f"the image {shown} cannot be attached", hint="loop devices need root", errno=number
        )
    if number in (errno.ENOENT, errno.ENXIO, errno.ENODEV) and not os.path.exists(
        "/dev/loop-control"
    ):
        return EnvironmentLacks(
            f"the image {shown} cannot be attached: this machine has no loop devices",
            hint="modprobe loop, or unpack the image to a directory",
            errno=number,
        )
    if number in (errno.ENOSPC, errno.ENOMEM, errno.ENXIO, errno.EEXIST):
        return EnvironmentLacks(
            f"the image {shown} cannot be attached: no loop device is free",
            hint="losetup -l shows who has them; losetup -d frees one",
            errno=number,
        )
    return OperationFailed(f"the image {shown} cannot be attached", errno=number)


def _mount(fstype: str, device: str, path: str) -> int:
    # A copy of an image that is mounted too has its UUID, which xfs wants unique.
    flags = ("ro", "nouuid") if fstype == "xfs" else ("ro",)
    try:
        options = [(flag, "") for flag in flags]
        return new_mount(fstype, device, options, syscalls.MOUNT_ATTR_RDONLY)
    except OSError as error:
        raise _no_mount(fstype, printable(path), error) from None


def _no_mount(fstype: str, shown: str, error: OSError) -> FallthruError:
    number = error.errno or 0
    if number == errno.ENODEV:
        return EnvironmentLacks(
            f"{shown} is an image of {fstype}, which this kernel lacks",
            hint=f"modprobe {fstype}; `fallthru doctor` tells what works here",
            errno=number,
        )
    if number == errno.EPERM:
        return NoPrivilege(f"the image {shown} cannot be mounted", hint="run as root", errno=number)
    if number == errno.EBUSY:
        return Refused(
            f"{shown} is mounted read-write, so it cannot be a bottom",
            hint="remount it read-only, or `fallthru freeze` a tree of it",
            errno=number,
        )
    if number == errno.EROFS:
        return Refused(
            f"the {fstype} on {shown} was not unmounted in order: its journal must be replayed",
            hint="mount it read-write once, or run its fsck",
            errno=number,
        )
    return OperationFailed(
        f"the {fstype} on {shown} cannot be mounted: {error.strerror}",
        hint="the image may be damaged or cut off; the kernel's log may say more: dmesg",
        errno=number,
    )


@contextmanager
def named(images: Sequence[Image]) -> Iterator[None]:
    """Give ``images`` the names they are recorded by, for the kernel to look up meanwhile."""
    with ExitStack() as stack:
        # Others may be naming the same device.
        if stack.enter_context(runstate.locked("images")) is None:
            raise NoPrivilege(
                f"the image {printable(images[0].file)} needs a name in {runstate.DIRECTORY}",
                hint="run as root",
            )
        for image in images:
            _forget(image)  # left by a process killed in just this place
            fd = stack.enter_context(_lookable(image))
            os.symlink(f"/proc/self/fd/{fd}", image.recorded)
            stack.callback(_forget, image)
        yield


def _forget(image: Image) -> None:
    with suppress(FileNotFoundError):
        os.unlink(image.recorded)


@contextmanager
def _lookable(image: Image) -> Iterator[int]:
    """The mount of ``image``, or while the kernel needs a place for it, that mount with one.

    Overlayfs copies the mount of each layer, which before 6.15 ("fs: allow detached mounts
    in clone_private_mount()") only worked for mounts of the caller's namespace.
    """
    if _takes_detached_mounts():
        yield image.fd
        return
    place = f"{image.recorded}.place"
    with suppress(FileExistsError):
        os.mkdir(place, 0o700)
    syscalls.move_mount(image.fd, "", syscalls.AT_FDCWD, place, syscalls.MOVE_MOUNT_F_EMPTY_PATH)
    try:
        yield image.fd
    finally:
        syscalls.umount2(place, syscalls.UMOUNT_NOFOLLOW | syscalls.MNT_DETACH)
        os.rmdir(place)


@functools.cache
def _takes_detached_mounts() -> bool:
    """Found out by an overlay without a top over two detached mounts."""
    lower = [new_mount("tmpfs"), new_mount("tmpfs")]
    fs = syscalls.fsopen("overlay")
    try:
        paths = ":".join(f"/proc/self/fd/{fd}" for fd in lower)
        syscalls.fsconfig_string(fs, "lowerdir", paths)
        syscalls.fsconfig_create(fs)
    except OSError:
        return False
    finally:
        for fd in (fs, *lower):
            os.close(fd)
    return True


def attached_as(path: str) -> Image | None:
    """What the bottom that mountinfo shows as ``path`` is on; None if it is no image's name.

    ``fstype`` is empty where the device cannot be read any more.
    """
    names, _, name = path.rpartition("/")
    if names != _NAMES:
        return None
    device = name.replace("!", "/")
    file = _backing_file(name) or f"/dev/{device}"
    try:
        with open(f"/dev/{device}", "rb", buffering=0) as opened:
            return Image(file, device, format_of(opened.fileno(), file))
    except (OSError, UsageError):
        return Image(file, device, "")


def reopen(path: str) -> int | None:
    """A readable directory on the image ``path``, or on the bottom mountinfo shows so.

    None when it is neither, or of no known format.  The descriptor belongs to the caller
    and holds the mount.
    """
    known = attached_as(path)
    if known is not None:
        tree = _mount(known.fstype, f"/dev/{known.device}", known.file)
    elif is_image(path) and _has_known_format(path):
        tree = open_image(path).fd
    else:
        return None
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree)
    finally:
        os.close(tree)


def _has_known_format(path: str) -> bool:
    try:
        with open(path, "rb", buffering=0) as file:
            format_of(file.fileno(), path)
    except (OSError, UsageError):
        return False
    return True


def device_node(device: tuple[int, int]) -> str:
    """The node in /dev of a block device; FileNotFoundError where the kernel has none such."""
    link = os.readlink(f"/sys/dev/block/{device[0]}:{device[1]}")
    # The kernel's name, in which a slash of /dev is an exclamation mark.
    return "/dev/" + os.path.basename(link).replace("!", "/")
