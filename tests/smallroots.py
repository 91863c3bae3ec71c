"""A root small enough to make in a test: a shell, a few programs, and their libraries."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

__all__ = ["small_root"]

_PROGRAMS = ("sh", "cat", "id", "ls", "touch", "sleep", "mkdir", "rm")


def small_root(at: Path, *more: str) -> Path:
    """Make a root at ``at`` in which ``more`` programs run, too; returns it."""
    for directory in ("bin", "etc", "tmp"):
        (at / directory).mkdir(parents=True, exist_ok=True)
    (at / "etc" / "passwd").write_text(
        "root:x:0:0::/root:/bin/sh\nuser:x:4242:4242::/tmp:/bin/sh\n"
    )
    (at / "etc" / "group").write_text("root:x:0:\nuser:x:4242:\nextra:x:77:user\n")
    for name in (*_PROGRAMS, *more):
        program = shutil.which(name)
        assert program is not None, name
        shutil.copy(program, at / "bin" / name)
        told = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+) \(0x", told):
            target = at / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
    return at
