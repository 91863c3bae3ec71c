"""bcc with a tree of kernel headers of our own, and its messages kept off the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["SHIM", "quiet_bcc"]

#: As small as bcc accepts; the layout of kernel structures comes from BTF.
SHIM = Path(__file__).parent / "shim"


@contextmanager
def quiet_bcc() -> Iterator[Callable[[], str]]:
    """While bcc compiles and loads; yields what reads its messages.

    The compiler inside libbcc writes to descriptor 2 whatever Python does.
    """
    before = os.environ.get("BCC_KERNEL_SOURCE")
    os.environ["BCC_KERNEL_SOURCE"] = str(SHIM)
    sys.stderr.flush()
    saved = os.dup(2)
    catcher = os.memfd_create("bcc-messages")
    os.dup2(catcher, 2)
    try:
        yield lambda: os.pread(catcher, 1 << 20, 0).decode(errors="replace")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(catcher)
        if before is None:
            del os.environ["BCC_KERNEL_SOURCE"]
        else:
            os.environ["BCC_KERNEL_SOURCE"] = before
