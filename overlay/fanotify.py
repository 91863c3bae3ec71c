"""Every change of a tree, with who made it: fanotify on the whole file system, by names.

Events tell a directory by handle, and a name in it (Documentation: fanotify(7),
FAN_REPORT_DFID_NAME).  The mark is on the file system, so that no way to it is missed,
neither another mount nor another name; events from elsewhere on it are left out.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from overlay import syscalls

__all__ = ["Event", "Watch"]

_ACTS: Final = {
    syscalls.FAN_CREATE: "created",
    syscalls.FAN_DELETE: "deleted",
    syscalls.FAN_MOVED_FROM: "moved away",
    syscalls.FAN_MOVED_TO: "moved here",
    syscalls.FAN_MODIFY: "written to",
    syscalls.FAN_ATTRIB: "changed in its attributes",
}
_METADATA: Final = struct.Struct("=IBBHQii")
_INFO: Final = struct.Struct("=BxH8xIi")  # type, length, fsid, then the handle's size and type
_DFID_NAME: Final = 2
_BUFFER: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Event:
    """What process ``pid`` did to ``path``, relative to the watched directory (b"" for all of it).

    ``act`` is a participle: "created", "written to".
    """

    path: bytes
    act: str
    pid: int


class Watch:
    """The changes of one directory tree; ``fd`` becomes readable when there are some."""

    def __init__(self, directory: int) -> None:
        """Watch the tree of the readable ``directory``, which stays the caller's.

        OSError: EPERM without privilege, EOPNOTSUPP or EXDEV where the file system has no
        handles or no number of its own (fanotify_mark(2)).
        """
        self._directory = directory
        self._root = os.readlink(b"/proc/self/fd/%d" % directory)
        self.fd = syscalls.fanotify_init(
            syscalls.FAN_CLOEXEC | syscalls.FAN_NONBLOCK | syscalls.FAN_REPORT_DFID_NAME
        )
        mask = syscalls.FAN_ONDIR
        for act in _ACTS:
            mask |= act
        try:
            flags = syscalls.FAN_MARK_ADD | syscalls.FAN_MARK_FILESYSTEM
            syscalls.fanotify_mark(self.fd, flags, mask, directory, ".")
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """End the watch."""
        os.close(self.fd)

    def events(self) -> Iterator[Event]:
        """What happened since the last time, without waiting."""
        while True:
            try:
                buffer = os.read(self.fd, _BUFFER)
            except BlockingIOError:
                return
            yield from self._parsed(buffer)

    def _parsed(self, buffer: bytes) -> Iterator[Event]:
        at = 0
        while at < len(buffer):
            length, _, _, head, mask, _, pid = _METADATA.unpack_from(buffer, at)
            if mask & syscalls.FAN_Q_OVERFLOW:
                yield Event(b"", "changed too often to tell how", 0)
            else:
                path = self._path(buffer[at + head : at + length])
                if path is not None:
                    acts = [act for bit, act in _ACTS.items() if mask & bit]
                    yield Event(path, " and ".join(acts), pid)
            at += length

    def _path(self, info: bytes) -> bytes | None:
        """The path below the directory; None for what happened elsewhere on the file system."""
        while info:
            kind, length, size, handle_type = _INFO.unpack_from(info)
            if kind == _DFID_NAME:
                end = _INFO.size + size
                name = info[end:length].split(b"\0", 1)[0]
                return self._below(handle_type, info[_INFO.size : end], name)
            info = info[length:]
        return None

    def _below(self, handle_type: int, handle: bytes, name: bytes) -> bytes | None:
        try:
            fd = syscalls.open_by_handle_at(
                self._directory, handle_type, handle, os.O_PATH | os.O_DIRECTORY
            )
        except OSError:
            return None  # the directory is gone as well: its own event tells
        try:
            # The handle is opened in the mount of the watched directory.
            above = os.readlink(b"/proc/self/fd/%d" % fd)
        finally:
            os.close(fd)
        path = above if name in (b"", b".") else above.rstrip(b"/") + b"/" + name
        if path == self._root:
            return b""
        inside = self._root.rstrip(b"/") + b"/"
        return path[len(inside) :] if path.startswith(inside) else None
