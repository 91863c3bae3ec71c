"""A layer on NFS: a server and its client in a network of their own, by the kernel alone.

The worker enters a fresh network namespace, so whatever the machine serves is not touched:
the server's threads, its sockets and its caches belong to the namespace (fs/nfsd/netns.h).
What exportfs and mountd would answer the kernel is written into its caches beforehand
(Documentation/filesystems/nfs/rpc-cache.rst).  Nothing is opened over NFS, for a server
makes that wait until its grace period of ten seconds is over.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from pathlib import Path
from typing import Final

from overlay import syscalls
from overlay.spec.bench import Bench
from overlay.spec.observe import Lacks

__all__ = ["mount"]

_SIOCSIFFLAGS: Final = 0x8914  # include/uapi/linux/sockios.h
_IFF_UP: Final = 1
#: include/uapi/linux/nfsd/export.h: INSECURE_PORT, NOSUBTREECHECK, FSID.
_EXPORT_FLAGS: Final = 0x2 | 0x400 | 0x2000
_NOBODY: Final = 65534


def mount(bench: Bench, served: Path, where: Path) -> None:
    """Serve the directory ``served`` and mount it at ``where``; Lacks where that can't be."""
    for kind in ("nfsd", "nfs4"):
        _needs(kind)
    syscalls.unshare(syscalls.CLONE_NEWNET)
    _bring_up_loopback()
    control = bench.mnt.parent / "nfsd"
    control.mkdir()
    fs = syscalls.fsopen("nfsd")
    try:
        syscalls.fsconfig_create(fs)
        bench.attach(syscalls.fsmount(fs), control)
    finally:
        os.close(fs)
    # By descriptor: it outlives the mount, and the threads keep their network alive.
    threads = os.open(control / "threads", os.O_WRONLY | os.O_CLOEXEC)
    bench.at_close(lambda: os.close(threads))
    bench.at_close(lambda: os.write(threads, b"0\n"))
    _start(control, served)
    os.write(threads, b"1\n")
    fs = syscalls.fsopen("nfs4")
    try:
        options = {"source": "127.0.0.1:/", "addr": "127.0.0.1", "clientaddr": "127.0.0.1"}
        for key, value in (options | {"vers": "4.2", "proto": "tcp", "sec": "sys"}).items():
            syscalls.fsconfig_string(fs, key, value)
        syscalls.fsconfig_create(fs)
        bench.attach(syscalls.fsmount(fs), where)
    finally:
        os.close(fs)
    said = bench.steps.path(where)
    export = f'127.0.0.1:"$PWD"/{bench.steps.path(served)}'
    bench.steps.do(f"exportfs -o rw,no_root_squash,insecure,fsid=0 {export}")
    bench.steps.do(f"mount -t nfs4 127.0.0.1:/ {said}")


def _needs(kind: str) -> None:
    try:
        os.close(syscalls.fsopen(kind))
    except OSError as error:
        raise Lacks(f"{kind} in this kernel ({error.strerror})") from None


def _bring_up_loopback() -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def _start(control: Path, served: Path) -> None:
    for version in ("-2", "-3", "+4", "+4.2"):
        _write(control / "versions", f"{version}\n")
    _write(control / "portlist", "tcp 2049\n")
    late = int(time.time()) + 86400
    caches = Path("/proc/self/net/rpc")
    _write(caches / "auth.unix.ip/channel", f"nfsd 127.0.0.1 {late} here\n")
    anybody = f"{_EXPORT_FLAGS} {_NOBODY} {_NOBODY}"
    _write(caches / "nfsd.export/channel", f"here {served} {late} {anybody} 0\n")
    # A handle of type 1 names an export by its number, here 0: the root of version 4.
    _write(caches / "nfsd.fh/channel", f"here 1 \\x00000000 {late} {served}\n")


def _write(path: Path, text: str) -> None:
    # Unbuffered and without O_CREAT: each write is a command.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
