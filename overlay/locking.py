"""One run at a time: a lock that ends with the processes that hold it."""

from __future__ import annotations

import fcntl
import time
from typing import Final

__all__ = ["lock"]

#: A killed run's workers share its lock, and end a moment after it.
_PATIENCE: Final = 2.0
_PAUSE: Final = 0.01


def lock(fd: int) -> bool:
    """Lock an open file or directory for this run; whether nobody else has it."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(_PAUSE)
        else:
            return True
