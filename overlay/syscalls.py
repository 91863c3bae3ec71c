"""The system calls Python does not offer, and the only module that uses ctypes for them.

Each wrapper carries the call's own name and raises :class:`OSError` with the
kernel's errno and, where there is one, the file name.  Paths may be ``str``
(surrogate escapes included), ``bytes`` or path-like.  Descriptors returned are
close-on-exec and belong to the caller.

Numbers from 424 on are the same on every architecture Linux has had since they
were added (``include/uapi/asm-generic/unistd.h``); older calls go through libc.
"""

from __future__ import annotations

import ctypes
import errno as _errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

Path = str | bytes | os.PathLike[str]

# Directory descriptors and *at() flags (include/uapi/linux/fcntl.h).
AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_SYMLINK_FOLLOW: Final = 0x400
AT_NO_AUTOMOUNT: Final = 0x800
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000

# The new mount API (include/uapi/linux/mount.h).
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x04
MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
FSOPEN_CLOEXEC: Final = 1
FSMOUNT_CLOEXEC: Final = 1
FSCONFIG_SET_FLAG: Final = 0
FSCONFIG_SET_STRING: Final = 1
FSCONFIG_SET_FD: Final = 5
FSCONFIG_CMD_CREATE: Final = 6
FSCONFIG_CMD_RECONFIGURE: Final = 7
MOUNT_ATTR_RDONLY: Final = 0x01
MOUNT_ATTR_NOSUID: Final = 0x02
MOUNT_ATTR_NODEV: Final = 0x04
MOUNT_ATTR_NOEXEC: Final = 0x08
MOUNT_ATTR_NOATIME: Final = 0x10
MOUNT_ATTR_NODIRATIME: Final = 0x80

# mount(2), umount2(2).
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MNT_FORCE: Final = 1
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

# Namespaces (include/uapi/linux/sched.h).
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

# openat2(2) (include/uapi/linux/openat2.h).
RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

# renameat2(2), ioctl_ficlone(2) (include/uapi/linux/fs.h).
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4
FICLONE: Final = 0x40049409

# statx(2) (include/uapi/linux/stat.h).
STATX_BASIC_STATS: Final = 0x7FF
STATX_BTIME: Final = 0x800
STATX_MNT_ID: Final = 0x1000
STATX_ATTR_IMMUTABLE: Final = 0x10
STATX_ATTR_APPEND: Final = 0x20
STATX_ATTR_MOUNT_ROOT: Final = 0x2000

# Block and loop devices (include/uapi/linux/fs.h, loop.h).
BLKROSET: Final = 0x125D
BLKROGET: Final = 0x125E
LOOP_CLR_FD: Final = 0x4C01
LOOP_CONFIGURE: Final = 0x4C0A
LOOP_CTL_GET_FREE: Final = 0x4C82
LO_FLAGS_READ_ONLY: Final = 1
LO_FLAGS_AUTOCLEAR: Final = 4
LOOP_MAJOR: Final = 7

_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429
_NR_FSOPEN = 430
_NR_FSCONFIG = 431
_NR_FSMOUNT = 432
_NR_OPENAT2 = 437
_NR_MOUNT_SETATTR = 442

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def _check(result: int, path: Path | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), None if path is None else os.fsdecode(path))
    return result


def _call(number: int, *args: Any, path: Path | None = None) -> int:
    return _check(_syscall(ctypes.c_long(number), *args), path)


def _int(value: int) -> ctypes.c_long:
    # Variadic arguments need a full register's width, on which the kernel truncates.
    return ctypes.c_long(value)


# ---------------------------------------------------------------- the mount API


def fsopen(fstype: str, flags: int = FSOPEN_CLOEXEC) -> int:
    """A configuration context for a new file system of ``fstype``; ENODEV if unknown."""
    return _call(_NR_FSOPEN, fstype.encode(), _int(flags), path=fstype)


def fsconfig_string(fs_fd: int, key: str, value: Path) -> None:
    """Set one string option; the kernel's own message is put in the error."""
    _fsconfig(fs_fd, FSCONFIG_SET_STRING, key, os.fsencode(value), 0)


def fsconfig_flag(fs_fd: int, key: str) -> None:
    """Set one option that takes no value."""
    _fsconfig(fs_fd, FSCONFIG_SET_FLAG, key, None, 0)


def fsconfig_fd(fs_fd: int, key: str, fd: int) -> None:
    """Hand a directory over by descriptor (overlay layers: since 6.13)."""
    _fsconfig(fs_fd, FSCONFIG_SET_FD, key, None, fd)


def fsconfig_create(fs_fd: int) -> None:
    """Make the super block that the options so far describe."""
    _fsconfig(fs_fd, FSCONFIG_CMD_CREATE, None, None, 0)


def fsconfig_reconfigure(fs_fd: int) -> None:
    """Apply the options so far to a mounted file system (a descriptor of fspick)."""
    _fsconfig(fs_fd, FSCONFIG_CMD_RECONFIGURE, None, None, 0)


def _fsconfig(fs_fd: int, command: int, key: str | None, value: bytes | None, aux: int) -> None:
    result = _syscall(
        ctypes.c_long(_NR_FSCONFIG),
        _int(fs_fd),
        _int(command),
        None if key is None else key.encode(),
        value,
        _int(aux),
    )
    if result < 0:
        number = ctypes.get_errno()
        text = "; ".join([os.strerror(number), *read_fs_log(fs_fd)])
        raise OSError(number, text, key)


def read_fs_log(fs_fd: int) -> list[str]:
    """The messages the kernel left on a file system context, oldest first, without level.

    Each read returns one message, ``e overlay: ...`` for an error; ENODATA ends them
    (Documentation/filesystems/mount_api.rst).
    """
    messages: list[str] = []
    while True:
        try:
            message = os.read(fs_fd, 8192)
        except OSError:
            return messages
        if not message:
            return messages
        text = message.decode(errors="replace").rstrip("\n")
        messages.append(text[2:] if text[1:2] == " " else text)


def fsmount(fs_fd: int, attrs: int = 0, flags: int = FSMOUNT_CLOEXEC) -> int:
    """A detached mount of a created file system, as an O_PATH descriptor."""
    return _call(_NR_FSMOUNT, _int(fs_fd), _int(flags), _int(attrs))


def open_tree(dirfd: int, path: Path, flags: int) -> int:
    """An O_PATH descriptor on ``path``, or with OPEN_TREE_CLONE on a detached copy of its mount."""
    return _call(
        _NR_OPEN_TREE, _int(dirfd), os.fsencode(path), _int(flags | OPEN_TREE_CLOEXEC), path=path
    )


def move_mount(from_dirfd: int, from_path: Path, to_dirfd: int, to_path: Path, flags: int) -> None:
    """Attach a detached mount, or move an attached one."""
    _call(
        _NR_MOVE_MOUNT,
        _int(from_dirfd),
        os.fsencode(from_path),
        _int(to_dirfd),
        os.fsencode(to_path),
        _int(flags),
        path=to_path,
    )


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount_setattr(
    dirfd: int,
    path: Path,
    flags: int,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
) -> None:
    """Change a mount's attributes (since 5.12); AT_RECURSIVE for the whole tree."""
    attr = _MountAttr(attr_set, attr_clr, propagation, 0)
    _call(
        _NR_MOUNT_SETATTR,
        _int(dirfd),
        os.fsencode(path),
        _int(flags),
        ctypes.byref(attr),
        _int(ctypes.sizeof(attr)),
        path=path,
    )


def mount(
    source: Path | None, target: Path, fstype: str | None, flags: int, data: bytes | None
) -> None:
    """mount(2), for propagation changes and kernels whose overlay predates the new API (< 6.5)."""
    _check(
        _libc.mount(
            None if source is None else os.fsencode(source),
            os.fsencode(target),
            None if fstype is None else fstype.encode(),
            ctypes.c_ulong(flags),
            data,
        ),
        target,
    )


def umount2(target: Path, flags: int = UMOUNT_NOFOLLOW) -> None:
    """Remove the topmost mount at ``target``; EBUSY while it is in use."""
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), target)


def pivot_root(new_root: Path, put_old: Path) -> None:
    """Make ``new_root`` the root mount and put the old one at ``put_old`` (document L272)."""
    _check(_libc.pivot_root(os.fsencode(new_root), os.fsencode(put_old)), new_root)


# ------------------------------------------------------------------ namespaces


def unshare(flags: int) -> None:
    """Leave the given namespaces for new ones."""
    _check(_libc.unshare(ctypes.c_int(flags)))


def setns(fd: int, nstype: int) -> None:
    """Enter the namespace that ``fd`` refers to."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(nstype)))


# --------------------------------------------------------------------- processes

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_CHILD_SUBREAPER: Final = 36


def prctl(option: int, value: int) -> None:
    """One of prctl(2)'s calls that take a single number."""
    _check(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3))


# ------------------------------------------------------------------------- files


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def openat2(dirfd: int, path: Path, flags: int, mode: int = 0, *, resolve: int = 0) -> int:
    """open(2) with rules for every component (since 5.6): ELOOP or EXDEV where one is broken."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    return _call(
        _NR_OPENAT2,
        _int(dirfd),
        os.fsencode(path),
        ctypes.byref(how),
        _int(ctypes.sizeof(how)),
        path=path,
    )


def open_beneath(dirfd: int, path: Path, flags: int, mode: int = 0) -> int:
    """Open ``path`` below ``dirfd``: no symlink is followed and the tree is never left.

    This is how every file of a layer is opened, because layers are hostile.
    """
    resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    return openat2(dirfd, path, flags | os.O_NOFOLLOW, mode, resolve=resolve)


def renameat2(
    old_dirfd: int, old_name: Path, new_dirfd: int, new_name: Path, flags: int = 0
) -> None:
    """rename(2) by directory and name, with RENAME_* flags; EINVAL if a file system lacks one."""
    _check(
        _libc.renameat2(
            ctypes.c_int(old_dirfd),
            os.fsencode(old_name),
            ctypes.c_int(new_dirfd),
            os.fsencode(new_name),
            ctypes.c_uint(flags),
        ),
        old_name,
    )


class _StatxTimestamp(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_int64), ("tv_nsec", ctypes.c_uint32), ("pad", ctypes.c_int32))


class _Statx(ctypes.Structure):
    _fields_ = (
        ("stx_mask", ctypes.c_uint32),
        ("stx_blksize", ctypes.c_uint32),
        ("stx_attributes", ctypes.c_uint64),
        ("stx_nlink", ctypes.c_uint32),
        ("stx_uid", ctypes.c_uint32),
        ("stx_gid", ctypes.c_uint32),
        ("stx_mode", ctypes.c_uint16),
        ("pad0", ctypes.c_uint16),
        ("stx_ino", ctypes.c_uint64),
        ("stx_size", ctypes.c_uint64),
        ("stx_blocks", ctypes.c_uint64),
        ("stx_attributes_mask", ctypes.c_uint64),
        ("stx_atime", _StatxTimestamp),
        ("stx_btime", _StatxTimestamp),
        ("stx_ctime", _StatxTimestamp),
        ("stx_mtime", _StatxTimestamp),
        ("stx_rdev_major", ctypes.c_uint32),
        ("stx_rdev_minor", ctypes.c_uint32),
        ("stx_dev_major", ctypes.c_uint32),
        ("stx_dev_minor", ctypes.c_uint32),
        ("stx_mnt_id", ctypes.c_uint64),
        ("spare", ctypes.c_uint64 * 13),
    )


@dataclass(frozen=True, slots=True)
class Statx:
    """The part of statx(2) that os.stat lacks.

    ``mnt_id`` is the mount's number as in mountinfo (0 before 5.8), ``btime_ns`` the
    birth time or None, ``attributes`` the STATX_ATTR_* bits the file system knows.
    """

    mnt_id: int
    attributes: int
    btime_ns: int | None
    dev: tuple[int, int]
    ino: int


def statx(dirfd: int, path: Path, flags: int = AT_SYMLINK_NOFOLLOW) -> Statx:
    """What only statx(2) tells of a file; AT_EMPTY_PATH with "" for the descriptor itself."""
    buffer = _Statx()
    mask = STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID
    _check(
        _libc.statx(
            ctypes.c_int(dirfd),
            os.fsencode(path),
            ctypes.c_int(flags),
            ctypes.c_uint(mask),
            ctypes.byref(buffer),
        ),
        path,
    )
    born = buffer.stx_btime
    return Statx(
        mnt_id=buffer.stx_mnt_id if buffer.stx_mask & STATX_MNT_ID else 0,
        attributes=buffer.stx_attributes & buffer.stx_attributes_mask,
        btime_ns=born.tv_sec * 10**9 + born.tv_nsec if buffer.stx_mask & STATX_BTIME else None,
        dev=(buffer.stx_dev_major, buffer.stx_dev_minor),
        ino=buffer.stx_ino,
    )


class _Statfs(ctypes.Structure):
    # struct statfs of the 64-bit architectures (x86-64, arm64, riscv64, ppc64, …).
    _fields_ = (
        ("f_type", ctypes.c_long),
        ("f_bsize", ctypes.c_long),
        ("f_blocks", ctypes.c_ulong),
        ("f_bfree", ctypes.c_ulong),
        ("f_bavail", ctypes.c_ulong),
        ("f_files", ctypes.c_ulong),
        ("f_ffree", ctypes.c_ulong),
        ("f_fsid", ctypes.c_int * 2),
        ("f_namelen", ctypes.c_long),
        ("f_frsize", ctypes.c_long),
        ("f_flags", ctypes.c_long),
        ("f_spare", ctypes.c_long * 4),
    )


def fstatfs_type(fd: int) -> int:
    """The file system's magic number (statfs(2) f_type), which os.statvfs leaves out."""
    buffer = _Statfs()
    _check(_libc.fstatfs(ctypes.c_int(fd), ctypes.byref(buffer)))
    return int(buffer.f_type)


def statfs_type(path: Path) -> int:
    """:func:`fstatfs_type` of what ``path`` leads to."""
    buffer = _Statfs()
    _check(_libc.statfs(os.fsencode(path), ctypes.byref(buffer)), path)
    return int(buffer.f_type)


_MAX_HANDLE = 128  # MAX_HANDLE_SZ (include/linux/exportfs.h)


class _FileHandle(ctypes.Structure):
    _fields_ = (
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_ubyte * _MAX_HANDLE),
    )


def name_to_handle_at(dirfd: int, path: Path = "", flags: int = AT_EMPTY_PATH) -> tuple[int, bytes]:
    """A file's handle as (type, bytes), which stays when it is renamed; EOPNOTSUPP without."""
    handle = _FileHandle(handle_bytes=_MAX_HANDLE)
    mount_id = ctypes.c_int()
    _check(
        _libc.name_to_handle_at(
            ctypes.c_int(dirfd),
            os.fsencode(path),
            ctypes.byref(handle),
            ctypes.byref(mount_id),
            ctypes.c_int(flags),
        ),
        path,
    )
    return handle.handle_type, bytes(handle.f_handle[: handle.handle_bytes])


def open_by_handle_at(mount_fd: int, kind: int, handle: bytes, flags: int) -> int:
    """Open the file of a handle; ESTALE when it is gone.  ``mount_fd`` is on its file system."""
    file = _FileHandle(handle_bytes=len(handle), handle_type=kind)
    ctypes.memmove(file.f_handle, handle, len(handle))
    return _check(
        _libc.open_by_handle_at(
            ctypes.c_int(mount_fd), ctypes.byref(file), ctypes.c_int(flags | os.O_CLOEXEC)
        )
    )


# --------------------------------------------------------------------- fanotify

# include/uapi/linux/fanotify.h
FAN_CLOEXEC: Final = 0x1
FAN_NONBLOCK: Final = 0x2
FAN_REPORT_DFID_NAME: Final = 0xC00
FAN_MARK_ADD: Final = 0x1
FAN_MARK_FILESYSTEM: Final = 0x100
FAN_MODIFY: Final = 0x2
FAN_ATTRIB: Final = 0x4
FAN_MOVED_FROM: Final = 0x40
FAN_MOVED_TO: Final = 0x80
FAN_CREATE: Final = 0x100
FAN_DELETE: Final = 0x200
FAN_Q_OVERFLOW: Final = 0x4000
FAN_ONDIR: Final = 0x40000000


def fanotify_init(flags: int, event_flags: int = os.O_RDONLY) -> int:
    """A group that receives events about files (reported by directory and name: since 5.9)."""
    return _check(_libc.fanotify_init(ctypes.c_uint(flags), ctypes.c_uint(event_flags)))


def fanotify_mark(group: int, flags: int, mask: int, dirfd: int, path: Path) -> None:
    """Ask for events about a file, or with FAN_MARK_FILESYSTEM its whole file system."""
    _check(
        _libc.fanotify_mark(
            ctypes.c_int(group),
            ctypes.c_uint(flags),
            ctypes.c_uint64(mask),
            ctypes.c_int(dirfd),
            os.fsencode(path),
        ),
        path,
    )


# ------------------------------------------------------------------ xattrs


def fd_path(fd: int, name: bytes | None = None) -> bytes:
    """A path that means exactly what ``fd`` is open on, or the entry ``name`` in it.

    The xattr calls refuse O_PATH descriptors (EBADF) and have no *at() form before
    6.13; through the magic link they take both, and cannot be led elsewhere: the
    last component is never followed by the ``l`` calls below.
    """
    base = b"/proc/self/fd/%d" % fd
    return base if name is None else base + b"/" + name


def getxattr(fd: int, attribute: str, name: bytes | None = None) -> bytes:
    """One extended attribute of ``fd``, or of its entry ``name``; ENODATA if it has none."""
    return os.getxattr(fd_path(fd, name), attribute, follow_symlinks=name is None)


def setxattr(fd: int, attribute: str, value: bytes, name: bytes | None = None) -> None:
    """Set one extended attribute of ``fd``, or of its entry ``name``."""
    os.setxattr(fd_path(fd, name), attribute, value, follow_symlinks=name is None)


def removexattr(fd: int, attribute: str, name: bytes | None = None) -> None:
    """Remove one extended attribute; ENODATA if there is none."""
    os.removexattr(fd_path(fd, name), attribute, follow_symlinks=name is None)


def listxattr(fd: int, name: bytes | None = None) -> list[str]:
    """The names of all extended attributes the caller may see."""
    return os.listxattr(fd_path(fd, name), follow_symlinks=name is None)


# --------------------------------------------------------- block and loop devices


def blkroset(device_fd: int, read_only: bool) -> None:
    """Make the kernel refuse every read-write mount of a block device (``blockdev --setro``)."""
    fcntl.ioctl(device_fd, BLKROSET, struct.pack("i", read_only))


def blkroget(device_fd: int) -> bool:
    """Whether the block device is read-only for everybody."""
    answer = fcntl.ioctl(device_fd, BLKROGET, struct.pack("i", 0))
    return bool(struct.unpack("i", answer)[0])


class _LoopInfo64(ctypes.Structure):
    _fields_ = (
        ("lo_device", ctypes.c_uint64),
        ("lo_inode", ctypes.c_uint64),
        ("lo_rdevice", ctypes.c_uint64),
        ("lo_offset", ctypes.c_uint64),
        ("lo_sizelimit", ctypes.c_uint64),
        ("lo_number", ctypes.c_uint32),
        ("lo_encrypt_type", ctypes.c_uint32),
        ("lo_encrypt_key_size", ctypes.c_uint32),
        ("lo_flags", ctypes.c_uint32),
        ("lo_file_name", ctypes.c_char * 64),
        ("lo_crypt_name", ctypes.c_char * 64),
        ("lo_encrypt_key", ctypes.c_char * 32),
        ("lo_init", ctypes.c_uint64 * 2),
    )


class _LoopConfig(ctypes.Structure):
    _fields_ = (
        ("fd", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("info", _LoopInfo64),
        ("reserved", ctypes.c_uint64 * 8),
    )


def loop_attach(image_fd: int, *, read_only: bool) -> tuple[int, str]:
    """Attach an image to a free loop device: (descriptor, ``/dev/loopN``).

    The device detaches by itself when its last user goes, this descriptor included
    (LO_FLAGS_AUTOCLEAR), so a killed caller leaves nothing behind.
    """
    config = _LoopConfig(fd=image_fd)
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR | (LO_FLAGS_READ_ONLY if read_only else 0)
    mode = os.O_RDONLY if read_only else os.O_RDWR
    with _open("/dev/loop-control", os.O_RDWR) as control:
        while True:
            number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
            name = f"/dev/loop{number}"
            if not os.path.exists(name):
                # Without devtmpfs or udev nobody makes the node for a device just added.
                os.mknod(name, 0o600 | 0o060000, os.makedev(LOOP_MAJOR, number))
            device = _open_free_loop(name, mode)
            try:
                fcntl.ioctl(device, LOOP_CONFIGURE, bytes(config))
            except OSError as error:
                os.close(device)
                # Somebody else took the free device between the two calls: take the next.
                if error.errno != _errno.EBUSY:
                    raise
            else:
                return device, name


def _open_free_loop(name: str, mode: int) -> int:
    # BLKROSET outlives the image it was set for; a free device has nothing to protect.
    with _open(name, os.O_RDONLY) as device:
        if mode == os.O_RDWR and blkroget(device):
            blkroset(device, False)
    return os.open(name, mode | os.O_CLOEXEC)


def loop_detach(device_fd: int) -> None:
    """Detach a loop device's image now, or as soon as its last user goes."""
    fcntl.ioctl(device_fd, LOOP_CLR_FD)


@contextmanager
def _open(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
