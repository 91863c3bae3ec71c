"""Which file system an image holds, told by its magic number and never by its name."""

from __future__ import annotations

import os
from typing import Final

from overlay.errors import UsageError
from overlay.text import printable

__all__ = ["FORMATS", "format_of"]

#: File system: where its magic number is, and what it is.  The superblock of ext2, ext3
#: and ext4 is the same, and so is the driver that reads them.
FORMATS: Final[dict[str, tuple[int, bytes]]] = {
    "squashfs": (0, b"hsqs"),
    "xfs": (0, b"XFSB"),
    "cramfs": (0, b"\x45\x3d\xcd\x28"),
    "romfs": (0, b"-rom1fs-"),
    "erofs": (1024, b"\xe2\xe1\xf5\xe0"),
    "ext4": (1024 + 56, b"\x53\xef"),
    "iso9660": (32768 + 1, b"CD001"),
    "btrfs": (65536 + 64, b"_BHRfS_M"),
}

#: What people try instead, and what to do with it.
_OTHERS: Final[tuple[tuple[int, bytes, str, str], ...]] = (
    (0, b"\x1f\x8b", "compressed with gzip", "decompress it first: gunzip -k"),
    (0, b"\xfd7zXZ", "compressed with xz", "decompress it first: unxz -k"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", "decompress it first: unzstd"),
    (0, b"QFI\xfb", "a qcow2 disk", "make it raw first: qemu-img convert -O raw"),
    (0, b"LUKS\xba\xbe", "encrypted with LUKS", "open it with cryptsetup, and name the device"),
    (257, b"ustar", "a tar archive", "unpack it, and `fallthru freeze` the directory"),
    (512, b"EFI PART", "a disk with partitions", "losetup -rP, then name the partition's device"),
    (510, b"\x55\xaa", "a disk with partitions", "losetup -rP, then name the partition's device"),
)


def format_of(fd: int, path: str) -> str:
    """The file system on the open image or device ``fd``; UsageError, with what it is instead."""
    for fstype, (offset, magic) in FORMATS.items():
        if os.pread(fd, len(magic), offset) == magic:
            return fstype
    for offset, magic, what, remedy in _OTHERS:
        if os.pread(fd, len(magic), offset) == magic:
            raise UsageError(f"the bottom {printable(path)} is {what}", hint=remedy)
    raise UsageError(
        f"the bottom {printable(path)} is not a directory, nor an image of a known format",
        hint=f"known: {', '.join(FORMATS)}; `fallthru freeze DIR` makes one",
    )
