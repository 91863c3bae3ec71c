"""What ``fallthru try`` was asked for."""

from __future__ import annotations

import sys

from overlay.lighttyping import NamedTuple

__all__ = ["Asked", "Wishes"]


class Wishes(NamedTuple):
    """The options of ``fallthru try`` about the time after the command.

    ``only`` and ``without`` are patterns of what is committed.
    """

    commit: bool
    discard: bool
    keep: str | None
    yes: bool
    as_json: bool
    only: tuple[str, ...]
    without: tuple[str, ...]

    @property
    def decided(self) -> bool:
        """Whether there is nothing left to ask."""
        return self.discard or self.keep is not None or (self.commit and self.yes)

    @property
    def can_ask(self) -> bool:
        """Whether somebody is there to be asked, after reading what changed."""
        return not self.yes and sys.stdin.isatty() and sys.stderr.isatty()


class Asked(NamedTuple):
    """All that was asked for: ``words`` are the command, ``shared`` paths the real ones.

    The tops are in memory, or in the directory ``disk``; they may take ``size`` bytes.
    """

    words: tuple[str, ...]
    wishes: Wishes
    disk: str | None = None
    size: int | None = None
    shared: tuple[str, ...] = ()
