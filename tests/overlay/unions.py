"""What the tests of the engine ask of a union again and again."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from overlay.union import Union

__all__ = ["fails", "is_whiteout", "names", "read"]


def fails(number: int, call: Callable[[], object]) -> OSError:
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        call()
    return caught.value


def is_whiteout(path: Path) -> bool:
    st = path.lstat()
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0


def names(union: Union, path: str = "/") -> list[str]:
    return [os.fsdecode(entry.name) for entry in union.readdir(path)]


def read(union: Union, path: str) -> bytes:
    fd = union.open(path, os.O_RDONLY)
    with open(fd, "rb") as file:
        return file.read()
