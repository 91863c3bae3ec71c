"""Block and loop devices: ioctl(2)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from contextlib import contextmanager

from overlay.lighttyping import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from overlay.syscalls.libc import Path

__all__ = [
    "BLKROGET",
    "BLKROSET",
    "LOOP_CLR_FD",
    "LOOP_CONFIGURE",
    "LOOP_CTL_GET_FREE",
    "LOOP_MAJOR",
    "LO_FLAGS_AUTOCLEAR",
    "LO_FLAGS_READ_ONLY",
    "blkroget",
    "blkroset",
    "loop_attach",
    "loop_detach",
]

# Block and loop devices (include/uapi/linux/fs.h, loop.h).
BLKROSET: Final = 0x125D
BLKROGET: Final = 0x125E
LOOP_CLR_FD: Final = 0x4C01
LOOP_CONFIGURE: Final = 0x4C0A
LOOP_CTL_GET_FREE: Final = 0x4C82
LO_FLAGS_READ_ONLY: Final = 1
LO_FLAGS_AUTOCLEAR: Final = 4
LOOP_MAJOR: Final = 7


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
                if error.errno != errno.EBUSY:
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
