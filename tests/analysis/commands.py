"""The command run in this process, as tests of its output do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["Done", "Fallthru"]


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


class Fallthru(Protocol):
    """Runs ``fallthru ARGUMENTS...``."""

    def __call__(self, *arguments: str | Path) -> Done: ...
