"""What a check saw: expected against observed, in words that a person can compare."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

__all__ = [
    "ASPECTS",
    "Lacks",
    "Observation",
    "attempt",
    "errno_name",
    "shown",
    "shown_names",
    "top_entry",
]

#: What an observation is about.  ``bottom`` is added by the runner to every clause.
ASPECTS: Final = frozenset(
    {"mount", "result", "view", "marks", "attributes", "descriptor", "bottom"}
)

#: Where implementations keep their marks: overlayfs (root, user namespace), fuse-overlayfs.
_FAMILIES: Final = (
    "trusted.overlay.",
    "user.overlay.",
    "user.fuseoverlayfs.",
    "security.fuseoverlayfs.",
)


class Lacks(Exception):
    """A check cannot be made here: the text says what is missing.  Never a pass."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One comparison: of ``subject``, the document wants ``expected``, we saw ``observed``.

    Both sides are written by the same code, so the comparison holds exactly when the
    texts are equal.  ``aspect`` is one of :data:`ASPECTS`; departures name it.
    """

    aspect: str
    subject: str
    expected: str
    observed: str

    @property
    def ok(self) -> bool:
        return self.expected == self.observed


def shown(content: bytes) -> str:
    """File content as text: itself when short, else its length and digest."""
    if len(content) <= 32:
        return repr(content)[1:] if content else "empty"
    return f"{len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()[:12]}"


def shown_names(names: Iterable[str]) -> str:
    """The names in a directory as text, sorted; many by their number and digest."""
    text = " ".join(sorted(names))
    if len(text) <= 200:
        return text or "nothing"
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return f"{text.count(' ') + 1} names, sha256 {digest}"


def attempt(call: Callable[[], object]) -> str:
    """``succeeds``, or the name of the errno with which ``call`` failed."""
    try:
        call()
    except OSError as error:
        return errno_name(error)
    return "succeeds"


def errno_name(error: OSError) -> str:
    """The symbolic name of an error, such as ``EXDEV``."""
    return errno.errorcode.get(error.errno or 0, str(error))


def top_entry(top: str, name: str) -> str:
    """What the top layer itself holds at ``name``, by a raw look that follows nothing.

    One of ``nothing``, ``whiteout``, ``file``, ``attributes without data``, ``file
    fallthru``, ``directory``, ``opaque directory``, ``directory fallthru``, ``symlink``,
    ``fifo``, ``socket``, ``block device``, ``character device``.  All mark formats that a
    union file system is known to use are recognised: overlayfs's (character device 0/0,
    xattr whiteouts, opaque, metacopy, redirect), AUFS's and fuse-overlayfs's ``.wh.``
    files, unionfs-fuse's ``_HIDDEN~`` files.
    """
    path = os.path.join(top, name)
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return "whiteout" if _whiteout_beside(top, name) else "nothing"
    except NotADirectoryError:
        return "nothing"
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFCHR:
        return "whiteout" if status.st_rdev == 0 else "character device"
    if kind == stat.S_IFDIR:
        return _directory(path)
    if kind == stat.S_IFREG:
        return _regular(path)
    others = {
        stat.S_IFLNK: "symlink",
        stat.S_IFIFO: "fifo",
        stat.S_IFSOCK: "socket",
        stat.S_IFBLK: "block device",
    }
    return others[kind]


def _whiteout_beside(top: str, name: str) -> bool:
    parent, base = os.path.split(name)
    candidates = (
        os.path.join(top, parent, ".wh." + base),
        os.path.join(top, ".unionfs", name + "_HIDDEN~"),
        os.path.join(top, ".unionfs-fuse", name + "_HIDDEN~"),
    )
    return any(os.path.lexists(path) for path in candidates)


def _mark(path: str, mark: str) -> bytes | None:
    for family in _FAMILIES:
        try:
            return os.getxattr(path, family + mark, follow_symlinks=False)
        except OSError:
            continue
    return None


def _directory(path: str) -> str:
    if _mark(path, "opaque") == b"y" or os.path.lexists(os.path.join(path, ".wh..wh..opq")):
        return "opaque directory"
    redirect = _mark(path, "redirect")
    return "directory fallthru" if redirect is not None else "directory"


def _regular(path: str) -> str:
    if _mark(path, "whiteout") is not None:
        return "whiteout"
    if _mark(path, "metacopy") is None:
        return "file"
    redirect = _mark(path, "redirect")
    # An absolute redirect makes a stub mean a fixed entry of the bottom: a fallthru.
    return "file fallthru" if (redirect or b"").startswith(b"/") else "attributes without data"
