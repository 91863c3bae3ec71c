"""A top on jffs2, which lives on flash: here on memory that says it is (mtdram)."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from overlay.newmount import new_mount
from overlay.spec.bench import Bench
from overlay.spec.observe import Lacks

__all__ = ["put_top"]

#: Never another: that may be the flash which the machine boots from.
_NAME: Final = '"mtdram test device"'


def put_top(bench: Bench) -> None:
    """Move the still empty top onto a fresh jffs2; Lacks where there is no such flash."""
    device = _device()
    fd = os.open(f"/dev/{device}", os.O_RDWR | os.O_CLOEXEC)
    bench.at_close(lambda: os.close(fd))
    # One for all: other targets may be judged at the same time.
    fcntl.flock(fd, fcntl.LOCK_EX)
    home = bench.top.parent / "home"
    bench.make(home)
    try:
        _erase(fd)
        tree = new_mount("jffs2", device)
    except OSError as error:
        raise Lacks(f"flash for jffs2 that it can be mounted from ({error.strerror})") from None
    bench.attach(tree, home)
    bench.steps.do(f"modprobe mtdram && flash_erase -q /dev/{device} 0 0")
    bench.steps.do(f"mount -t jffs2 {device} {bench.steps.path(home)}")
    bench.move_top(home)


def _device() -> str:
    """The name of the device of memory."""
    modprobe = shutil.which("modprobe")
    if modprobe is not None:
        subprocess.run([modprobe, "-q", "mtdram"], check=False)
    try:
        lines = Path("/proc/mtd").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, rest = line.partition(":")
        if rest.endswith(_NAME):
            return name
    raise Lacks("flash for jffs2 (the module mtdram)")


def _erase(fd: int) -> None:
    """All bits set, as erased flash has them, to the end of the device."""
    erased = b"\xff" * (1 << 16)
    try:
        while os.write(fd, erased):
            pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
