"""Listing a directory of a top, with two calls for each entry that has no mark.

Nearly everything on a top is a file that was copied up, a new one, a whiteout, or a
directory that is merged, and has no marks but the kernel's own notes.  Whatever has more is
left to the general lookup in :mod:`overlay.view`, which asks several times as much.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Final

from overlay import syscalls
from overlay.layer import VANISHED
from overlay.marks import Marks
from overlay.markvalues import MarkFamily

__all__ = ["PLAIN", "PlainEntries", "PlainEntry"]

PLAIN: Final = Marks(bare=True)
_MARKED: Final = (stat.S_IFREG, stat.S_IFDIR)


#: An entry of a top whose marks, if any, change nothing that is shown: its name, lstat and
#: marks.  A tuple and no more, for there is one for each entry.
PlainEntry = tuple[bytes, os.stat_result, Marks]


class PlainEntries:
    """Reads directories of tops with marks of one family.

    ``in_place``: the working directory may be changed, which makes every name one
    component to look up.
    """

    def __init__(self, family: MarkFamily) -> None:
        self.in_place = False
        origin, impure = family.attribute("origin"), family.attribute("impure")
        self._opaque = family.attribute("opaque")
        # A directory's own notes, like that of a copyup, change nothing that is shown.
        self._marks: dict[tuple[str, ...], Marks] = {
            (origin,): Marks(others=frozenset({"origin"}), bare=True),
            (impure,): Marks(others=frozenset({"impure"}), bare=True),
        }
        for pair in ((origin, impure), (impure, origin)):
            self._marks[pair] = Marks(others=frozenset({"origin", "impure"}), bare=True)

    def enter(self, fd: int) -> bytes:
        """What to put before a name in the open directory to reach it."""
        if self.in_place:
            os.fchdir(fd)
            return b""
        return syscalls.fd_path(fd) + b"/"

    def read(self, base: bytes, names: Iterable[bytes], left: set[bytes]) -> list[PlainEntry]:
        """Those of ``names`` that are plain, in their order; ``left`` gets the others.

        ``base`` is what :meth:`enter` said.  What vanished is in neither.
        """
        known, lstat, listxattr = self._marks, os.lstat, os.listxattr
        plain: list[PlainEntry] = []
        for name in names:
            path = base + name
            try:
                st = lstat(path)
                marks: Marks | None = PLAIN
                if st.st_mode & 0o170000 in _MARKED and (
                    attributes := listxattr(path, follow_symlinks=False)
                ):
                    marks = known.get(tuple(attributes)) or self._if_opaque(path, attributes)
            except OSError as error:
                # The general lookup tells what is wrong with it, or that it is gone.
                if error.errno not in VANISHED:
                    left.add(name)
                continue
            if marks is None:
                left.add(name)
            else:
                plain.append((name, st, marks))
        return plain

    def _if_opaque(self, path: bytes, attributes: list[str]) -> Marks | None:
        """The marks of a directory with nothing but that it is opaque, and notes."""
        opaque = self._opaque
        if opaque not in attributes:
            return None
        notes = tuple(attribute for attribute in attributes if attribute != opaque)
        known = self._marks.get(notes) if notes else PLAIN
        # With another value it holds whiteouts in their other form.
        if known is None or os.getxattr(path, opaque, follow_symlinks=False) != b"y":
            return None
        return Marks(opaque=True, others=known.others, bare=True)
