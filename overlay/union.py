"""The document as running code: its operations over real directories, with no mount.

>>> with Union("/srv/top", ["/usr"]) as union:
...     union.unlink("/bin/vi")
...     fd = union.open("/share/motd", os.O_WRONLY | os.O_CREAT, 0o644)

A method does what the system call of its name does in a writable overlay, in the
document's order of effects, and fails with the errno that the call would have:
:class:`OSError` with the union's path.  ``docs/engine.md`` tells how, and where the
engine and a mount differ.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from stat import S_IFREG, S_ISLNK

from overlay import renaming
from overlay.attributes import Attributes
from overlay.closing import Closing
from overlay.credentials import EXECUTE, READ, WRITE, Credentials
from overlay.dircopyup import DirEntry, copy_directory_up, entries
from overlay.entries import Entries
from overlay.inodes import shown
from overlay.lookup import Walker, into
from overlay.marks import HostileMark, MarkFamily, Whiteout
from overlay.matching import top_directory
from overlay.opening import Opener
from overlay.stack import Directory
from overlay.stacking import open_stack

__all__ = ["Credentials", "DirEntry", "Union"]

Path = str | bytes | os.PathLike[str]


class Union(Closing):
    """A top over its bottoms (uppermost first); close it, or use it in ``with``.

    Paths start at the union's root, with or without a slash, and may be of any length.
    It is for one thread; the top serves one union at a time (L437), TopInUse otherwise.

    ``work`` is the work directory (default ``TOP.work``), ``index`` a shared index of the
    bottoms, which then only give their data; ``family`` that of the marks
    (default: what this process may use), ``whiteouts`` their form.  ``credentials`` are
    judged instead of the process's own, see :meth:`acting_as`.
    ``directory_copyup``: readdir() gives fallthrus (default: where mounts can read them,
    which those in user namespaces cannot).  ``matching``: directories get their matching
    one on the top as they are walked through (L280), else when one is needed.
    ``move_directories``: those that are on the top alone can be renamed, as in overlayfs;
    the document's answer is EXDEV (L512).  ``sync``: data are on disk before they are seen.
    """

    def __init__(
        self,
        top: Path,
        bottoms: Sequence[Path],
        work: Path | None = None,
        *,
        index: Path | None = None,
        family: MarkFamily | None = None,
        whiteouts: Whiteout = Whiteout.DEVICE,
        credentials: Credentials | None = None,
        directory_copyup: bool | None = None,
        matching: bool = True,
        move_directories: bool = False,
        sync: bool = True,
    ) -> None:
        """Open the layers; leftovers of a crash in the work directory are removed."""
        self._stack = open_stack(
            os.fsdecode(top),
            [os.fsdecode(bottom) for bottom in bottoms],
            None if work is None else os.fsdecode(work),
            None if index is None else os.fsdecode(index),
            family,
            whiteouts,
            sync,
        )
        readable = self._stack.family is MarkFamily.TRUSTED
        self._directory_copyup = readable if directory_copyup is None else directory_copyup
        self._move_directories = move_directories
        self._walker = Walker(self._stack, self._match if matching else None)
        self._act_as(Credentials.caller() if credentials is None else credentials)

    def _act_as(self, who: Credentials) -> None:
        self.credentials = who
        self._entries = Entries(self._stack, self._walker, who)
        self._opener = Opener(self._stack, self._walker, self._entries, who)
        self._attributes = Attributes(self._stack, self._walker, who)

    @contextmanager
    def acting_as(self, who: Credentials) -> Iterator[None]:
        """Let the operations in a with block be somebody else's."""
        before = self.credentials
        self._act_as(who)
        try:
            yield
        finally:
            self._act_as(before)

    def close(self) -> None:
        """Give the layers free; descriptors from :meth:`open` stay."""
        self._stack.close()

    # ------------------------------------------------------------------- reading

    def stat(self, path: Path, *, follow: bool = True) -> os.stat_result:
        """The attributes of what ``path`` leads to; see :mod:`overlay.inodes`."""
        with _about(path) as raw:
            node = self._walker.walk(raw, self.credentials, follow=follow).existing
            return shown(self._stack, node)

    def lstat(self, path: Path) -> os.stat_result:
        """:meth:`stat`, of a symlink itself."""
        return self.stat(path, follow=False)

    def access(self, path: Path, mode: int) -> None:
        """Nothing if ``mode`` (os.R_OK, W_OK, X_OK, F_OK) is granted, else EACCES."""
        with _about(path) as raw:
            node = self._walker.walk(raw, self.credentials).existing
            bits = ((os.R_OK, READ), (os.W_OK, WRITE), (os.X_OK, EXECUTE))
            want = sum(bit for asked, bit in bits if mode & asked)
            self._stack.require(self.credentials, node, want)

    def readlink(self, path: Path) -> bytes:
        """A symlink's target; EINVAL for anything else."""
        with _about(path) as raw:
            node = self._walker.walk(raw, self.credentials, follow=False).existing
            if not S_ISLNK(node.st.st_mode):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return self._walker.target_of(node)

    def readdir(self, path: Path) -> list[DirEntry]:
        """The entries of a directory, sorted, without the dots; directory copyup comes first.

        Nothing is lost if that cannot be written: the entries are then merged in memory.
        """
        with _about(path) as raw:
            target = self._walker.walk(raw, self.credentials)
            directory = into(target)
            self._stack.require(self.credentials, directory.node, READ)
            if self._directory_copyup:
                try:
                    changed = copy_directory_up(self._stack, directory)
                except OSError as error:
                    if error.errno not in _UNWRITABLE:
                        raise
                    changed = False
                if changed:
                    directory = into(self._walker.walk(raw, self.credentials))
            return entries(self._stack, directory)

    def statvfs(self) -> os.statvfs_result:
        """The top's file system: what can still be written."""
        return os.fstatvfs(self._stack.top.fd)

    # ------------------------------------------------------------------- opening

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        """A descriptor on the real file, on the top if it can alter it (L120, L332–L333).

        One on a bottom's file stays there when the file is copied up later (L350–L354).
        A directory's is for its attributes and for fsync; its entries are the layer's
        own: use :meth:`readdir`.  Device nodes are EACCES, as on a mount with nodev.
        """
        with _about(path) as raw:
            return self._opener.open(raw, flags, mode)

    def creat(self, path: Path, mode: int = 0o666) -> int:
        """creat(2)."""
        return self.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)

    def truncate(self, path: Path, size: int) -> None:
        """truncate(2): copies only the bytes that are kept (L120, L400–L401)."""
        with _about(path) as raw:
            self._opener.truncate(raw, size)

    # ------------------------------------------------------------------- entries

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        """A directory on the top, opaque where it takes a whiteout's place (L123, L125)."""
        with _about(path) as raw:
            self._entries.mkdir(raw, mode)

    def mknod(self, path: Path, mode: int = S_IFREG | 0o600, device: int = 0) -> None:
        """mknod(2); EPERM for a character device 0/0, which would be a whiteout."""
        with _about(path) as raw:
            self._entries.mknod(raw, mode, device)

    def symlink(self, to: Path, path: Path) -> None:
        """A symlink on the top (L128)."""
        with _about(path) as raw:
            self._entries.symlink(os.fsencode(to), raw)

    def link(self, old: Path, new: Path, *, follow: bool = False) -> None:
        """A second name for a file, which is copied up (L127)."""
        with _about(old, new) as raw:
            self._entries.link(raw, os.fsencode(new), follow=follow)

    def unlink(self, path: Path) -> None:
        """Remove a file; a whiteout stays where the bottoms have the name (L119)."""
        with _about(path) as raw:
            self._entries.unlink(raw)

    def rmdir(self, path: Path) -> None:
        """Remove a directory that shows no entries (L124)."""
        with _about(path) as raw:
            self._entries.rmdir(raw)

    def rename(self, old: Path, new: Path, flags: int = 0) -> None:
        """renameat2(2), with RENAME_NOREPLACE or RENAME_EXCHANGE; see :mod:`overlay.renaming`."""
        with _about(old, new) as raw:
            renaming.rename(
                self._stack,
                self._walker,
                self.credentials,
                raw,
                os.fsencode(new),
                flags,
                move_directories=self._move_directories,
            )

    # ---------------------------------------------------------------- attributes

    def chmod(self, path: Path, mode: int, *, follow: bool = True) -> None:
        """fchmodat(2)."""
        with _about(path) as raw:
            self._attributes.chmod(raw, mode, follow=follow)

    def chown(self, path: Path, uid: int, gid: int, *, follow: bool = True) -> None:
        """fchownat(2); -1 leaves one as it is, set-id bits go as ever."""
        with _about(path) as raw:
            self._attributes.chown(raw, uid, gid, follow=follow)

    def utime(self, path: Path, ns: tuple[int, int] | None = None, *, follow: bool = True) -> None:
        """utimensat(2): access and modification time in ns, or now."""
        with _about(path) as raw:
            self._attributes.utime(raw, ns, follow=follow)

    def get_flags(self, path: Path) -> int:
        """FS_IOC_GETFLAGS, as lsattr does it: FS_*_FL bits."""
        with _about(path) as raw:
            return self._attributes.get_flags(raw)

    def set_flags(self, path: Path, flags: int) -> None:
        """FS_IOC_SETFLAGS, as chattr does it; see :mod:`overlay.inodeflags`."""
        with _about(path) as raw:
            self._attributes.set_flags(raw, flags)

    def getxattr(self, path: Path, attribute: str, *, follow: bool = True) -> bytes:
        """getxattr(2); the layers' own marks are not there, nested ones are."""
        with _about(path) as raw:
            return self._attributes.getxattr(raw, attribute, follow=follow)

    def listxattr(self, path: Path, *, follow: bool = True) -> list[str]:
        """listxattr(2)."""
        with _about(path) as raw:
            return self._attributes.listxattr(raw, follow=follow)

    def setxattr(
        self, path: Path, attribute: str, value: bytes, flags: int = 0, *, follow: bool = True
    ) -> None:
        """setxattr(2), with XATTR_CREATE or XATTR_REPLACE; access lists come this way too."""
        with _about(path) as raw:
            self._attributes.setxattr(raw, attribute, value, flags, follow=follow)

    def removexattr(self, path: Path, attribute: str, *, follow: bool = True) -> None:
        """removexattr(2)."""
        with _about(path) as raw:
            self._attributes.removexattr(raw, attribute, follow=follow)

    # ------------------------------------------------------------------- helpers

    def _match(self, directory: Directory) -> None:
        """Give a directory that is walked through its matching one, if it can be written."""
        try:
            with top_directory(self._stack, directory):
                pass
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise


#: Why nothing can be written now: no reason for a call to fail that only reads (L629).
_UNWRITABLE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EPERM, errno.EACCES, errno.E2BIG}
)


@contextmanager
def _about(path: Path, other: Path | None = None) -> Iterator[bytes]:
    """``path`` as bytes, and errors about it as the union's paths, whatever file was meant."""
    try:
        yield os.fsencode(path)
    except HostileMark as hostile:
        # The kernel too finds such a layer broken, and fails the lookup.
        raise OSError(errno.EIO, hostile.message, os.fsdecode(path)) from hostile
    except OSError as error:
        number = error.errno or errno.EIO
        second = (None, os.fsdecode(other)) if other is not None else ()
        raise OSError(number, os.strerror(number), os.fsdecode(path), *second) from error
