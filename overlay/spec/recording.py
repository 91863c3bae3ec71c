"""System calls that are noted in the steps of their clause as they are made (steps.py)."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path as FilePath
from stat import S_IFREG, S_IMODE, S_ISBLK, S_ISFIFO
from typing import TypeVar

from overlay.spec import shell
from overlay.spec.calls import Calls, Credentials, DirEntry, Path
from overlay.spec.calls import read as read_whole
from overlay.spec.observe import errno_name
from overlay.spec.steps import Steps

__all__ = ["RecordedCalls"]

T = TypeVar("T")


class RecordedCalls:
    """The calls of ``calls``, whose root is the directory ``root``, each noted."""

    def __init__(self, calls: Calls, steps: Steps, root: FilePath) -> None:
        self._calls = calls
        self._steps = steps
        self._root = root

    def _at(self, path: Path) -> str:
        return self._steps.path(os.path.join(self._root, os.fsdecode(path)))

    def _plain(self, path: Path) -> str:
        return json.dumps(shlex.split(self._at(path))[0])

    def _do(self, command: str, call: Callable[[], T]) -> T:
        return self._steps.attempt(command, call)

    def _look(self, command: str, call: Callable[[], T], output: Callable[[T], str]) -> T:
        return self._show(command, call, lambda result: (command, output(result)))

    def _show(self, command: str, call: Callable[[], T], how: Callable[[T], tuple[str, str]]) -> T:
        """Note what ``how`` makes of the result, or ``command`` with the error."""
        try:
            result = call()
        except OSError as error:
            self._steps.do(command, errno_name(error))
            raise
        self._steps.look(*how(result))
        return result

    def stat(self, path: Path, *, follow: bool = True) -> os.stat_result:
        how = "-L " if follow else ""

        def told(status: os.stat_result) -> tuple[str, str]:
            form, values = shell.stat_words(status)
            return f"stat {how}-c '{form}' {self._at(path)}", values

        call = partial(self._calls.stat, path, follow=follow)
        return self._show(f"stat {how}{self._at(path)}", call, told)

    def lstat(self, path: Path) -> os.stat_result:
        return self.stat(path, follow=False)

    def access(self, path: Path, mode: int) -> None:
        letter = {os.R_OK: "r", os.W_OK: "w", os.X_OK: "x"}.get(mode, "e")
        self._do(f"test -{letter} {self._at(path)}", lambda: self._calls.access(path, mode))

    def readlink(self, path: Path) -> bytes:
        return self._look(
            f"readlink {self._at(path)}", lambda: self._calls.readlink(path), os.fsdecode
        )

    def readdir(self, path: Path) -> list[DirEntry]:
        command = f"ls -A {self._at(path)}"

        def told(entries: list[DirEntry]) -> tuple[str, str]:
            names = sorted(os.fsdecode(entry.name) for entry in entries)
            if len(names) > _MANY:
                return f"{command} | wc -l", str(len(names))
            return command, "\n".join(names)

        return self._show(command, lambda: self._calls.readdir(path), told)

    def statvfs(self) -> os.statvfs_result:
        return self._do(f"stat -f {self._at('.')} >statfs", self._calls.statvfs)

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        """As for a file that is closed again at once: others are Descriptors and files."""
        command = shell.opening(self._at(path), flags, mode)
        return self._do(command, lambda: self._calls.open(path, flags, mode))

    def open_held(self, path: Path, flags: int) -> tuple[int, int]:
        """A descriptor, and its number in the script; 0 if no shell can hold it."""
        sign = shell.redirection(flags)
        if sign is None:
            return self.open(path, flags), 0
        try:
            fd = self._calls.open(path, flags)
        except OSError as error:
            # Not exec, whose failing redirection ends the whole shell.
            self._steps.do(shell.opening(self._at(path), flags), errno_name(error))
            raise
        number = self._steps.hold()
        self._steps.do(f"exec {number}{sign}{self._at(path)}")
        return fd, number

    def read(self, path: Path) -> bytes:
        """The whole content, by a fresh open."""
        command = f"cat {self._at(path)}"

        def call() -> bytes:
            return read_whole(self._calls, path)

        return self._show(command, call, lambda content: shell.showing(command, content))

    def truncate(self, path: Path, size: int) -> None:
        self._do(
            shell.calling(f"os.truncate({self._plain(path)}, {size})"),
            lambda: self._calls.truncate(path, size),
        )

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        how = "" if mode == 0o777 else f"-m {mode:o} "
        self._do(f"mkdir {how}{self._at(path)}", lambda: self._calls.mkdir(path, mode))

    def mknod(self, path: Path, mode: int = S_IFREG | 0o600, device: int = 0) -> None:
        self._do(
            f"mknod -m {S_IMODE(mode):o} {self._at(path)} {_node(mode, device)}",
            lambda: self._calls.mknod(path, mode, device),
        )

    def symlink(self, to: Path, path: Path) -> None:
        self._do(
            f"ln -sT {shlex.quote(os.fsdecode(to))} {self._at(path)}",
            lambda: self._calls.symlink(to, path),
        )

    def link(self, old: Path, new: Path, *, follow: bool = False) -> None:
        self._do(
            f"link {self._at(old)} {self._at(new)}",
            lambda: self._calls.link(old, new, follow=follow),
        )

    def unlink(self, path: Path) -> None:
        self._do(f"unlink {self._at(path)}", lambda: self._calls.unlink(path))

    def rmdir(self, path: Path) -> None:
        self._do(f"rmdir {self._at(path)}", lambda: self._calls.rmdir(path))

    def rename(self, old: Path, new: Path, flags: int = 0) -> None:
        # Not mv, which copies after EXDEV.
        self._do(
            shell.calling(f"os.rename({self._plain(old)}, {self._plain(new)})"),
            lambda: self._calls.rename(old, new, flags),
        )

    def chmod(self, path: Path, mode: int, *, follow: bool = True) -> None:
        self._do(
            f"chmod {mode:o} {self._at(path)}",
            lambda: self._calls.chmod(path, mode, follow=follow),
        )

    def chown(self, path: Path, uid: int, gid: int, *, follow: bool = True) -> None:
        self._do(
            f"chown {'' if follow else '-h '}{uid}:{gid} {self._at(path)}",
            lambda: self._calls.chown(path, uid, gid, follow=follow),
        )

    def utime(self, path: Path, ns: tuple[int, int] | None = None, *, follow: bool = True) -> None:
        # Without -c, touch opens the file for writing.
        how = "" if follow else "-h "
        when = "" if ns is None else f"-d {shell.seconds(ns[1])} "
        self._do(
            f"touch -c {how}{when}{self._at(path)}",
            lambda: self._calls.utime(path, ns, follow=follow),
        )

    def getxattr(self, path: Path, attribute: str, *, follow: bool = True) -> bytes:
        how = "" if follow else "-h "
        return self._look(
            f"getfattr {how}-e hex -n {attribute} {self._at(path)}",
            lambda: self._calls.getxattr(path, attribute, follow=follow),
            lambda value: f"# file: {shlex.split(self._at(path))[0]}\n{attribute}=0x{value.hex()}",
        )

    def listxattr(self, path: Path, *, follow: bool = True) -> list[str]:
        how = "" if follow else "-h "
        return self._look(
            f"getfattr {how}-m - {self._at(path)}",
            lambda: self._calls.listxattr(path, follow=follow),
            lambda names: (
                "\n".join([f"# file: {shlex.split(self._at(path))[0]}", *sorted(names)])
                if names
                else ""
            ),
        )

    def setxattr(
        self, path: Path, attribute: str, value: bytes, flags: int = 0, *, follow: bool = True
    ) -> None:
        how = "" if follow else "-h "
        self._do(
            f"setfattr {how}-n {attribute} -v {shell.value(value)} {self._at(path)}",
            lambda: self._calls.setxattr(path, attribute, value, flags, follow=follow),
        )

    def removexattr(self, path: Path, attribute: str, *, follow: bool = True) -> None:
        how = "" if follow else "-h "
        self._do(
            f"setfattr {how}-x {attribute} {self._at(path)}",
            lambda: self._calls.removexattr(path, attribute, follow=follow),
        )

    def flags(self, path: Path) -> int:
        """The flags that lsattr shows."""
        fd = self._calls.open(path, os.O_RDONLY)
        try:
            answer = fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(8))
        finally:
            os.close(fd)
        return int(struct.unpack("=I", answer[:4])[0])

    def set_flags(self, path: Path, flags: int) -> None:
        """Set exactly these."""
        fd = self._calls.open(path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("=II", flags, 0))
        finally:
            os.close(fd)

    def nodump(self, path: Path) -> bool:
        """Whether the file has the no-dump flag (chattr's d)."""
        found = bool(self.flags(path) & _FS_NODUMP_FL)
        self._steps.look(f"lsattr -d {self._at(path)} | cut -c1-22 | tr -dc d", "d" * found)
        return found

    def set_nodump(self, path: Path) -> None:
        """What chattr +d does: the flags that the file has, and that one."""
        self._do(
            f"chattr +d {self._at(path)}",
            lambda: self.set_flags(path, self.flags(path) | _FS_NODUMP_FL),
        )

    @contextmanager
    def acting_as(self, who: Credentials) -> Iterator[None]:
        with self._calls.acting_as(who), self._steps.acting_as(who.uid, who.gid):
            yield


_MANY = 12  # names in a listing

# include/uapi/linux/fs.h, _IOR('f', 1, long) and _IOW('f', 2, long) on 64-bit architectures.
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_NODUMP_FL = 0x40


def _node(mode: int, device: int) -> str:
    if S_ISFIFO(mode):
        return "p"
    kind = "b" if S_ISBLK(mode) else "c"
    return f"{kind} {os.major(device)} {os.minor(device)}"
