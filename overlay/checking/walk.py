"""Looking for damage in one directory of a top after the other.

Speed comes from asking little.  A directory entry's type tells most of what there is to
know: only a character device needs a stat, to tell whether it is a whiteout; all else
that can be wrong is an extended attribute, and one listxattr, of a single name, says that
an entry has none.  The bottoms are asked only about what has a mark.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from overlay import syscalls
from overlay.checking.below import Below, DirectoryBelow, Spot, Target
from overlay.checking.harvest import Claim, Harvest, Visit
from overlay.checking.rules import finding
from overlay.layer import VANISHED, Layer
from overlay.marks import MARKS, TEMPORARY_PREFIX, HostileMark, MarkFamily
from overlay.markvalues import NO_XATTR, check_redirect, parse_metacopy
from overlay.text import printable

__all__ = ["Walker"]

_TEMPORARY: Final = os.fsdecode(TEMPORARY_PREFIX)
#: Marks that the kernel reads on a directory, and on a regular file.
_ON_DIRECTORY: Final = MARKS - {"metacopy", "whiteout"}
_ON_FILE: Final = MARKS - {"opaque", "impure", "whiteouts"}
#: Marks that change what the union shows, with the kind of thing they do it on.
_ACTING: Final = {"opaque": stat.S_IFDIR, "redirect": stat.S_IFDIR, "metacopy": stat.S_IFREG}


class _Readable:
    """Makes a finding of what cannot be read; what somebody removed meanwhile is nothing.

    A class, because a generator for every whiteout would take a tenth of all time.
    """

    __slots__ = ("_path", "_walker")

    def __init__(self, walker: Walker, path: bytes) -> None:
        self._walker = walker
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object
    ) -> bool:
        if isinstance(error, HostileMark):
            self._walker.report("bottom-hostile", self._path, error.message)
            return True
        if isinstance(error, OSError):
            if error.errno not in VANISHED:
                reason = os.strerror(error.errno or 0)
                self._walker.report("unreadable", self._path, reason)
            return True
        return False


class Walker:
    """Looks into directories of ``top`` over ``below``.

    ``in_place`` changes the working directory to each, which makes every name one
    component to look up: for processes of our own.  Without, paths through /proc do.
    """

    def __init__(self, top: Layer, below: Below, *, notes: bool, in_place: bool = False) -> None:
        self.top = top
        self.below = below
        self.in_place = in_place
        self.notes = notes
        self.family = below.family
        other = MarkFamily.USER if self.family is MarkFamily.TRUSTED else MarkFamily.TRUSTED
        self.other = other
        self.origin_only = [self.family.attribute("origin")]
        self.harvest = Harvest()

    def root(self) -> Visit:
        """The root of the top, its own marks judged: an overlay's root is always merged."""
        marks = self.marks_of(os.listxattr(self.top.fd))
        for mark in sorted(marks & {"opaque", "redirect", "metacopy", "whiteout"}):
            self.report("mark-misplaced", b"", f"{mark} on the root of a layer", mark=mark)
        return Visit(b"", self.below.root(), False, False, True)

    def walk(self, pending: list[Visit], budget: int) -> tuple[Harvest, list[Visit]]:
        """Visit directories, last first, until ``budget`` entries were seen; what is left over."""
        while pending and self.harvest.entries < budget:
            pending += self._visit(pending.pop())
        done, self.harvest = self.harvest, Harvest()
        return done, pending

    def report(self, code: str, path: bytes, detail: str = "", *, mark: str = "") -> None:
        self.harvest.findings.append(finding(code, path, detail, mark=mark))

    def _visit(self, visit: Visit) -> list[Visit]:
        found: list[Visit] = []
        with self.readable(visit.path):
            fd = self.top.open_dir(visit.path)
            try:
                with self.below.open(visit.spots) as below:
                    found = _Directory(self, visit, fd, below).read()
            finally:
                os.close(fd)
        return found

    def readable(self, path: bytes) -> _Readable:
        """A block that makes a finding of what cannot be read."""
        return _Readable(self, path)

    def marks_of(self, attributes: list[str]) -> set[str]:
        prefix = self.family.prefix
        return {each.removeprefix(prefix) for each in attributes if each.startswith(prefix)} & MARKS


class _Directory:
    """One directory being read."""

    def __init__(self, walker: Walker, visit: Visit, fd: int, below: DirectoryBelow) -> None:
        self._walker = walker
        self._visit = visit
        self._fd = fd
        self._below = below
        self._before = visit.path + b"/" if visit.path else b""
        self._has_origin = False
        self._has_xattr_whiteouts = False

    def read(self) -> list[Visit]:
        """Judge every entry; the directories among them are yet to be visited."""
        walker = self._walker
        base = ""
        if walker.in_place:
            os.fchdir(self._fd)
        else:
            base = os.fsdecode(syscalls.fd_path(self._fd)) + "/"
        directories: list[Visit] = []
        origin_only, listxattr = walker.origin_only, os.listxattr
        count = 0
        with os.scandir(self._fd) as found:
            for entry in found:
                count += 1
                name = entry.name
                if name.startswith(_TEMPORARY):
                    walker.report("leftover", self._before + os.fsencode(name))
                is_file = entry.is_file(follow_symlinks=False)
                if not is_file and self._is_whiteout(entry):
                    self._whiteout(os.fsencode(name))
                    continue
                try:
                    attributes = listxattr(base + name, follow_symlinks=False)
                except OSError as error:
                    self._unlisted(os.fsencode(name), error)
                    attributes = []
                if attributes:
                    if is_file and attributes == origin_only:
                        self._has_origin = True
                        continue
                    self._marked(entry, attributes, directories)
                elif not is_file and entry.is_dir(follow_symlinks=False):
                    self._plain_directory(os.fsencode(name), directories)
        walker.harvest.entries += count
        if walker.notes:
            self._note()
        return directories

    def _unlisted(self, name: bytes, error: OSError) -> None:
        if error.errno not in NO_XATTR and error.errno not in VANISHED:
            reason = os.strerror(error.errno or 0)
            self._walker.report("unreadable", self._before + name, reason)

    def _note(self) -> None:
        visit = self._visit
        if self._has_origin and not visit.impure and not visit.spots:
            self._walker.report("impure-missing", visit.path)
        if visit.xattr_whiteouts and not self._has_xattr_whiteouts:
            self._walker.report("x-needless", visit.path, mark="opaque")

    # ------------------------------------------------------------------ whiteouts

    @staticmethod
    def _is_whiteout(entry: os.DirEntry[str]) -> bool:
        if entry.is_dir(follow_symlinks=False) or entry.is_symlink():
            return False
        try:
            st = entry.stat(follow_symlinks=False)
        except OSError:
            return False  # gone; if it is not, listing its attributes says why
        return st.st_rdev == 0 and stat.S_ISCHR(st.st_mode)

    def _whiteout(self, name: bytes) -> bool:
        """Judge a whiteout; False if there was nothing to say."""
        path = self._before + name
        if self._visit.opaque:
            self._walker.report("whiteout-opaque", path)
            return True
        with self._walker.readable(path):
            if self._below.find(name) is None:
                self._walker.report("whiteout-nothing", path)
                return True
        return False

    # ---------------------------------------------------------------------- marks

    def _marked(
        self, entry: os.DirEntry[str], attributes: list[str], directories: list[Visit]
    ) -> None:
        """An entry with extended attributes, if only access control lists."""
        walker = self._walker
        name = os.fsencode(entry.name)
        marks = walker.marks_of(attributes)
        is_dir = entry.is_dir(follow_symlinks=False)
        is_file = entry.is_file(follow_symlinks=False)
        self._has_origin = self._has_origin or "origin" in marks
        others = [each for each in attributes if each.startswith(walker.other.prefix)]
        if others and self._visit.spots:
            self._wrong_family(name, is_dir, is_file, others)
        with walker.readable(self._before + name):
            if is_dir:
                self._misplaced(name, marks - _ON_DIRECTORY, "directory")
                self._directory(name, marks, directories)
            elif is_file:
                self._misplaced(name, marks - _ON_FILE, "regular file")
                self._file(name, marks, entry)
            else:
                acting = marks & {"opaque", "redirect", "metacopy", "whiteout", "impure"}
                self._misplaced(name, acting, "neither file nor directory")

    def _misplaced(self, name: bytes, marks: set[str] | frozenset[str], what: str) -> None:
        for mark in sorted(marks):
            self._walker.report("mark-misplaced", self._before + name, f"{mark}: {what}", mark=mark)

    def _wrong_family(self, name: bytes, is_dir: bool, is_file: bool, others: list[str]) -> None:
        """Marks of the other family, where they would act: elsewhere they may be those of
        an overlay inside this one."""
        kind = stat.S_IFDIR if is_dir else stat.S_IFREG if is_file else 0
        for attribute in sorted(others):
            mark = attribute.removeprefix(self._walker.other.prefix)
            if _ACTING.get(mark) == kind or (mark == "whiteout" and is_file):
                self._walker.report("wrong-family", self._before + name, attribute, mark=attribute)

    def _value(self, name: bytes, mark: str) -> bytes:
        return syscalls.getxattr(self._fd, self._walker.family.attribute(mark), name)

    def _plain_directory(self, name: bytes, directories: list[Visit]) -> None:
        directories.append(Visit(self._before + name, self._merged(name), False, False, False))

    def _merged(self, name: bytes) -> tuple[Spot, ...]:
        """What a directory without a redirect merges with."""
        target = None
        with self._walker.readable(self._before + name):
            target = self._below.find(name)
        return target.spots if target is not None and target.is_dir else ()

    def _directory(self, name: bytes, marks: set[str], directories: list[Visit]) -> None:
        path = self._before + name
        spots: tuple[Spot, ...] = ()
        value = self._value(name, "opaque") if "opaque" in marks else b""
        if value not in (b"y", b"x") and "opaque" in marks:
            self._walker.report("mark-value", path, f"“{printable(value[:20])}”", mark="opaque")
        opaque = value == b"y"
        if not opaque:
            spots = self._redirected(name) if "redirect" in marks else self._merged(name)
        elif self._walker.notes and not self._visit.spots:
            self._walker.report("opaque-needless", path, mark="opaque")
        directories.append(Visit(path, spots, opaque, value == b"x", "impure" in marks))

    def _redirected(self, name: bytes) -> tuple[Spot, ...]:
        """What a directory with a redirect merges with."""
        path = self._before + name
        self._walker.harvest.stubs = True
        redirect = self._redirect(name)
        if redirect is None:
            return ()
        with self._walker.readable(path):
            target = self._follow(redirect)
            if target is None:
                self._walker.report("redirect-gone", path, printable(redirect))
            elif not target.is_dir:
                self._walker.report("redirect-type", path, printable(redirect))
            else:
                self._claim(name, target)
                return target.spots
        return ()

    def _redirect(self, name: bytes) -> bytes | None:
        """The redirect of an entry if it can be followed."""
        value = self._value(name, "redirect")
        try:
            return check_redirect(value)
        except HostileMark as hostile:
            dots = {b".", b".."} & set(value.split(b"/"))
            code = "redirect-leaves" if dots else "redirect-invalid"
            self._walker.report(code, self._before + name, hostile.message)
            return None

    def _follow(self, redirect: bytes, *, data: bool = False) -> Target | None:
        if redirect.startswith(b"/"):
            return self._walker.below.at(redirect, data=data)
        return self._below.find(redirect, data=data)

    def _claim(self, name: bytes, target: Target) -> None:
        """Remember that this reads from another place: nobody else may."""
        path = self._before + name
        spot = target.spots[0]
        if spot.path != path:
            st = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            self._walker.harvest.claims.append(Claim(spot, path, target.is_dir, st.st_ino))

    def _file(self, name: bytes, marks: set[str], entry: os.DirEntry[str]) -> None:
        path = self._before + name
        if "whiteout" in marks:
            if entry.stat(follow_symlinks=False).st_size:
                self._misplaced(name, {"whiteout"}, "a file with data")
            else:
                self._has_xattr_whiteouts = True
                if not self._whiteout(name) and not self._visit.xattr_whiteouts:
                    self._walker.report("xattr-whiteout-outside", path)
                return
        if "metacopy" in marks:
            self._stub(name, "redirect" in marks, entry)
        elif "redirect" in marks and self._walker.notes:
            self._walker.report("redirect-stale", path, mark="redirect")

    def _stub(self, name: bytes, redirected: bool, entry: os.DirEntry[str]) -> None:
        """A file whose data lies below (document L100–L103)."""
        path = self._before + name
        report = self._walker.report
        self._walker.harvest.stubs = True
        try:
            parse_metacopy(self._value(name, "metacopy"))
        except HostileMark as hostile:
            report("metacopy-invalid", path, hostile.message)
        redirect = self._redirect(name) if redirected else name
        if redirect is None:
            return
        target = self._follow(redirect, data=True)
        size = entry.stat(follow_symlinks=False).st_size
        if target is None or (target.is_file and target.size is None):
            report("stub-gone", path, printable(redirect))
        elif not target.is_file:
            report("stub-type", path, printable(redirect))
        else:
            if target.size != size:
                detail = f"{size} bytes, the data has {target.size}"
                report("stub-size", path, detail, mark=str(target.size))
            if redirected:
                self._claim(name, target)
