"""A FUSE server that shows an empty directory and never answers who lists it.

Run as a program: ``python hangingfuse.py MNT FIFO``.  The request has been read by then, so
that not even SIGKILL ends the caller.  FIFO (or -) is told the process that does not answer.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import sys

GETATTR, INIT, READDIR, READDIRPLUS = 3, 26, 28, 44

_IN = struct.Struct("<IIQ")  # length, operation, number of the request
_OUT = struct.Struct("<IiQ")
#: Attributes of inode 1: a directory, mode 0755.
_ROOT = struct.pack("<QII6Q10I", 1, 0, 0, *(1, 0, 0, 0, 0, 0, 0, 0, 0), 0o40755, 2, *[0] * 5)
_READY = struct.pack("<4I2HII2H8I", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, *[0] * 8)


def main(mnt: str, fifo: str) -> None:
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"hanging", os.fsencode(mnt), b"fuse", 0, options.encode()):
        sys.exit(os.strerror(ctypes.get_errno()))
    while True:
        try:
            request = os.read(fuse, 1 << 20)
        except OSError:
            return  # unmounted
        _, operation, number = _IN.unpack_from(request)
        if operation in (READDIR, READDIRPLUS):
            if fifo != "-":
                with open(fifo, "w") as file:  # /proc shows the number outside the namespace
                    file.write(os.readlink("/proc/self"))
            signal.pause()
        answer = {GETATTR: _ROOT, INIT: _READY}.get(operation)
        body = answer or b""
        failure = 0 if answer else -errno.ENOSYS
        try:
            os.write(fuse, _OUT.pack(_OUT.size + len(body), failure, number) + body)
        except OSError:
            continue  # nobody waits for this one (FORGET)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
