"""One repair a kind of finding, each crash-safe and none that takes user data away.

Steps are ordered so that every state between is no worse than the one before: a repair
that is killed is found and finished by the next.  What is in the way and may be somebody's
is moved to ``lost+found`` in the work directory.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from overlay import marks, syscalls, workdir
from overlay.checking.check import Suspect
from overlay.checking.rules import Finding
from overlay.errors import FallthruError
from overlay.layer import VANISHED, Layer, scan

__all__ = ["LOST_AND_FOUND", "Surgeon"]

#: Where repairs put what they may not remove, in the work directory.
LOST_AND_FOUND: Final = b"lost+found"

_KEPT_NAME: Final = 240
_CAPABILITY: Final = "security.capability"


class _Changed(Exception):
    """What was found is not there any more."""


class Surgeon:
    """Repairs the findings in a top and its work directory, one at a time.

    What is not there any more counts as repaired: the check that follows tells.
    """

    def __init__(self, top: Layer, suspect: Suspect) -> None:
        self._top = top
        self._work_path = suspect.work_path
        self._family = marks.MarkFamily(suspect.family)

    def treat(self, finding: Finding) -> str | None:
        """Repair one finding; the reason if that failed, None if it is gone."""
        try:
            with self._layer(finding) as layer:
                self._repair(finding, layer)
        except _Changed:
            return None
        except OSError as error:
            if error.errno in (*VANISHED, errno.ENODATA):
                return None  # an earlier repair took it along: the next round tells
            return os.strerror(error.errno or 0)
        except FallthruError as error:
            return str(error)
        return None

    @contextmanager
    def _layer(self, finding: Finding) -> Iterator[Layer]:
        if finding.layer == "top":
            yield self._top
        else:
            with Layer.open(self._work_path) as work:
                yield work

    @contextmanager
    def _entry(self, layer: Layer, path: bytes) -> Iterator[tuple[int, bytes | None]]:
        """The directory and the name that a path means, on the layer's own file system."""
        if not path:
            yield layer.fd, None
            return
        with layer.parent(path) as (fd, name):
            if os.fstat(fd).st_dev != os.fstat(layer.fd).st_dev:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            yield fd, name

    def _repair(self, finding: Finding, layer: Layer) -> None:
        with self._entry(layer, finding.path) as (fd, name):
            if finding.code in _OF_ANYTHING:
                _OF_ANYTHING[finding.code](self, fd, name, finding)
            elif name is not None:
                _OF_ENTRIES[finding.code](self, fd, name, finding)

    def _remove_mark(self, fd: int, name: bytes | None, finding: Finding) -> None:
        if finding.code in ("mark-value", "x-needless"):
            value = syscalls.getxattr(fd, self._family.attribute("opaque"), name)
            if value == b"y" or (value == b"x") != (finding.code == "x-needless"):
                raise _Changed
        marks.clear_mark(fd, self._family, finding.mark, name)

    def _remove_attribute(self, fd: int, name: bytes | None, finding: Finding) -> None:
        syscalls.removexattr(fd, finding.mark, name)

    def _remember_stubs(self, fd: int, _name: bytes | None, _finding: Finding) -> None:
        workdir.remember(fd, self._family, b"maybe")

    def _set_impure(self, fd: int, name: bytes | None, _finding: Finding) -> None:
        syscalls.setxattr(fd, self._family.attribute("impure"), b"y", name)

    def _remove_tree(self, fd: int, name: bytes, _finding: Finding) -> None:
        _remove_tree(fd, name)

    def _mark_parent(self, fd: int, _name: bytes, _finding: Finding) -> None:
        marks.set_xattr_whiteouts(fd, self._family)

    def _empty_metacopy(self, fd: int, name: bytes, _finding: Finding) -> None:
        marks.set_metacopy(fd, self._family, name)

    def _remove_whiteout(self, fd: int, name: bytes, _finding: Finding) -> None:
        st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if marks.read_marks(fd, name, st, self._family).whiteout is None:
            raise _Changed
        os.unlink(name, dir_fd=fd)

    def _translate(self, fd: int, name: bytes, finding: Finding) -> None:
        """Give a mark this overlay's family: the new name first, so that it is never lost."""
        attribute = finding.mark
        mark = self._family.prefix + attribute.split(".overlay.", 1)[1]
        value = syscalls.getxattr(fd, attribute, name)
        try:
            syscalls.getxattr(fd, mark, name)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
            syscalls.setxattr(fd, mark, value, name)
        syscalls.removexattr(fd, attribute, name)

    def _drop_redirect(self, fd: int, name: bytes, finding: Finding) -> None:
        st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISDIR(st.st_mode):
            # Opaque first: an opaque directory's redirect is not followed, whereas without
            # both it would merge with whatever has its name below.
            marks.set_opaque(fd, self._family, name)
            self._sync(fd, name)
        elif finding.code == "redirect-duplicate":
            self._move_aside(fd, name, finding)
            return
        marks.clear_mark(fd, self._family, "redirect", name)

    @staticmethod
    def _sync(fd: int, name: bytes) -> None:
        directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _resize(self, fd: int, name: bytes, finding: Finding) -> None:
        """Give a stub, which has no data of its own, the size of its data."""
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(name, flags, dir_fd=fd)
        try:
            st = os.fstat(file)
            if marks.read_marks(fd, name, st, self._family).metacopy is None:
                raise _Changed
            try:
                capability = os.getxattr(file, _CAPABILITY)
            except OSError:
                capability = b""
            os.ftruncate(file, int(finding.mark))
            # Truncation is a write: it costs a file its capabilities and its times.
            if capability:
                os.setxattr(file, _CAPABILITY, capability)
            os.utime(file, ns=(st.st_atime_ns, st.st_mtime_ns))
        finally:
            os.close(file)

    def _move_aside(self, fd: int, name: bytes, _finding: Finding) -> None:
        """Move an entry to lost+found, under its own name or, if that is taken, a numbered one."""
        workdir.make(self._work_path)
        with Layer.open(self._work_path) as work:
            with suppress(FileExistsError):
                os.mkdir(LOST_AND_FOUND, 0o700, dir_fd=work.fd)
            with work.directory(LOST_AND_FOUND) as lost:
                number = 0
                kept = name
                while True:
                    try:
                        syscalls.renameat2(fd, name, lost, kept, syscalls.RENAME_NOREPLACE)
                    except FileExistsError:
                        number += 1
                        kept = name[:_KEPT_NAME] + b".%d" % number
                    else:
                        return


def _remove_tree(fd: int, name: bytes) -> None:
    """Remove an entry of the work directory, however deep: inner directories are moved up."""
    pending = [name]
    while pending:
        each = pending.pop()
        st = os.stat(each, dir_fd=fd, follow_symlinks=False)
        if not stat.S_ISDIR(st.st_mode):
            os.unlink(each, dir_fd=fd)
            continue
        inner = syscalls.open_beneath(fd, each, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for child, child_st in list(scan(inner)):
                if stat.S_ISDIR(child_st.st_mode):
                    moved = marks.temporary_name()
                    os.rename(child, moved, src_dir_fd=inner, dst_dir_fd=fd)
                    pending.append(moved)
                else:
                    os.unlink(child, dir_fd=inner)
        finally:
            os.close(inner)
        os.rmdir(each, dir_fd=fd)


#: What repairs each code: of an entry or of a layer's root itself, and of entries only.
_OF_ANYTHING: Final[dict[str, Callable[[Surgeon, int, bytes | None, Finding], None]]] = {
    "mark-misplaced": Surgeon._remove_mark,
    "mark-value": Surgeon._remove_mark,
    "opaque-needless": Surgeon._remove_mark,
    "x-needless": Surgeon._remove_mark,
    "redirect-stale": Surgeon._remove_mark,
    "root-origin": Surgeon._remove_attribute,
    "index-top": Surgeon._remove_attribute,
    "stubs-flag": Surgeon._remember_stubs,
    "impure-missing": Surgeon._set_impure,
}
_OF_ENTRIES: Final[dict[str, Callable[[Surgeon, int, bytes, Finding], None]]] = {
    "whiteout-nothing": Surgeon._remove_whiteout,
    "whiteout-opaque": Surgeon._remove_whiteout,
    "xattr-whiteout-outside": Surgeon._mark_parent,
    "wrong-family": Surgeon._translate,
    "redirect-invalid": Surgeon._drop_redirect,
    "redirect-leaves": Surgeon._drop_redirect,
    "redirect-gone": Surgeon._drop_redirect,
    "redirect-type": Surgeon._drop_redirect,
    "redirect-loop": Surgeon._drop_redirect,
    "redirect-duplicate": Surgeon._drop_redirect,
    "metacopy-invalid": Surgeon._empty_metacopy,
    "stub-gone": Surgeon._move_aside,
    "stub-type": Surgeon._move_aside,
    "stub-size": Surgeon._resize,
    "leftover": Surgeon._move_aside,
    "index-invalid": Surgeon._move_aside,
    "index-dangling": Surgeon._move_aside,
    "index-leftover": Surgeon._remove_tree,
    "index-orphan": Surgeon._remove_tree,
    "work-leftover": Surgeon._remove_tree,
    "volatile": Surgeon._remove_tree,
}
