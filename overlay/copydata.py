"""The bytes of one file copied to another, in the cheapest way that the file systems know."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

from overlay import syscalls

__all__ = ["copy_data"]

_CHUNK: Final = 1 << 20
#: What the ways of copying say where they cannot be used; the next one is tried then.
_CANNOT: Final = frozenset(
    {errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.EBADF}
)


def copy_data(source: int, copy: int, size: int) -> None:
    """Copy the first ``size`` bytes, holes as holes, in the cheapest way there is.

    Sharing the blocks first, then within the kernel, then by reading and writing.  What
    the source is too short for is left out.
    """
    try:
        fcntl.ioctl(copy, syscalls.FICLONE, source)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    else:
        return
    offset = 0
    while offset < size:
        try:
            start = os.lseek(source, offset, os.SEEK_DATA)
            end = min(os.lseek(source, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            if error.errno != errno.EINVAL:
                raise
            start, end = offset, size  # a file system that does not tell holes
        if not _copy_extent(source, copy, start, end):
            return
        offset = end


def _copy_extent(source: int, copy: int, start: int, end: int) -> bool:
    """Copy one extent; False where the source ended before it."""
    in_kernel = True
    while start < end:
        count = min(end - start, _CHUNK)
        if in_kernel:
            try:
                done = os.copy_file_range(source, copy, count, start, start)
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
                done = 0
            # Some file systems answer 0 where they mean that they can't: look again.
            in_kernel = done > 0
        else:
            data = os.pread(source, count, start)
            done = os.pwrite(copy, data, start) if data else 0
            if not done:
                return False
        start += done
    return True
