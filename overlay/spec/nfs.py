"""A directory on NFS in a guest: served and mounted by its own kernel, without programs.

What exportfs and mountd would answer the server is written into its caches beforehand
(Documentation/filesystems/nfs/rpc-cache.rst).  This is for a machine that serves nobody else:
in a network namespace of its own a server cannot learn which clients it had, and since 6.1
its time of grace, ten seconds at the least in which nobody may open anything, cannot be ended
then (fs/nfsd/nfs4recover.c; EBUSY).  So there is one server for a whole run, begun first.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from overlay import syscalls
from overlay.newmount import new_mount, put_at

__all__ = ["is_about_nfs", "served"]

_FOREVER: Final = 2**31 - 1
#: Any port, all below it, with a number: include/uapi/linux/nfsd/export.h.
_FLAGS: Final = 0x2 | 0x400 | 0x2000
_HERE: Final = "127.0.0.1"


def is_about_nfs(clause: str) -> bool:
    """Whether the clause of this id is judged with what is served here."""
    return clause.startswith("nfs.")


@contextmanager
def served() -> Iterator[Path | None]:
    """An empty directory on NFS; None where the kernel has no server or no client."""
    with ExitStack() as undo:
        try:
            home = _serve(undo)
        except OSError:
            home = None
        yield home


def _serve(undo: ExitStack) -> Path:
    place = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="fallthru-nfs-")))
    control, export, home = (place / name for name in ("control", "export", "home"))
    for directory in (control, export, home):
        directory.mkdir()
    _attach(new_mount("nfsd"), control, undo)
    caches = Path("/proc/net/rpc")
    _write(caches / "auth.unix.ip/channel", f"nfsd {_HERE} {_FOREVER} here\n")
    _write(caches / "nfsd.export/channel", f"here {export} {_FOREVER} {_FLAGS} -2 -2 0\n")
    # A handle of type 1 names an export by its number, here 0: the root of version 4.
    _write(caches / "nfsd.fh/channel", f"here 1 \\x00000000 {_FOREVER} {export}\n")
    # The older versions want to be registered with rpcbind.
    _write(control / "versions", "-3 +4 +4.1 +4.2\n")
    _write(control / "nfsv4gracetime", "10\n")
    # Older kernels listen there by themselves; 7.x has no server without.
    _write(control / "portlist", "tcp 2049\n")
    undo.callback(_write, control / "threads", "0\n")
    _write(control / "threads", "2\n")
    options = {"addr": _HERE, "clientaddr": _HERE, "vers": "4.2", "proto": "tcp", "sec": "sys"}
    _attach(new_mount("nfs4", f"{_HERE}:/", options.items()), home, undo)
    return home


def _attach(tree: int, where: Path, undo: ExitStack) -> None:
    put_at(tree, where)
    undo.callback(syscalls.umount2, where, syscalls.MNT_DETACH)


def _write(path: Path, text: str) -> None:
    # Unbuffered and without O_CREAT: each write is a command.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
