"""Bottom files with several names stay one file (document L630): overlayfs's index.

A file of the bottom that has more names than one is copied up into ``index/`` in the work
directory, named by its file handle, and linked from there to where it is needed.  The
other names still lie on the bottom; a lookup that comes to one finds the copy by the
handle.  How many names the union shows is kept as a mark on the copy, as a difference to
the links that it really has (fs/overlayfs/copy_up.c, inode.c, util.c).

It needs file handles, the file system's UUID (FS_IOC_GETFSUUID: since 6.9) and trusted
marks; without them each name is copied up for itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Self

from overlay import syscalls
from overlay.layer import VANISHED, Layer, scan
from overlay.marks import is_whiteout_device
from overlay.markvalues import NO_XATTR, MarkFamily
from overlay.view import Node, OpenDirectory, Place, View

__all__ = ["IndexedView", "LinkIndex", "changed_stat", "file_of_handle", "has_names_below"]

_GETFSUUID: Final = 0x80111500
_BTRFS_FS_INFO: Final = 0x8400941F
#: struct ovl_fb: version, magic, length, flags, type, uuid; the handle follows.
_HEADER: Final = struct.Struct("BBBBB16s")
_VERSION, _MAGIC = 0, 0xFB
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY


class LinkIndex:
    """The index of one top, over bottoms that are numbered from 1 as in the view."""

    def __init__(self, fd: int, number: int, uuids: dict[int, bytes]) -> None:
        self.fd = fd
        self.number = number
        self._uuids = uuids

    @classmethod
    def open(
        cls, work_fd: int, bottoms: Sequence[Layer], number: int, family: MarkFamily
    ) -> Self | None:
        """The index in a work directory, as layer ``number``; None where there can be none."""
        found = cls.existing(work_fd, bottoms, number, family)
        if found is not None or family is not MarkFamily.TRUSTED:
            return found
        if not any(_uuid(layer.fd) for layer in bottoms):
            return None
        with suppress(FileExistsError):
            os.mkdir("index", 0o700, dir_fd=work_fd)
        return cls.existing(work_fd, bottoms, number, family)

    @classmethod
    def existing(
        cls, work_fd: int, bottoms: Sequence[Layer], number: int, family: MarkFamily
    ) -> Self | None:
        """:meth:`open`, but None where there is none yet."""
        uuids = {n: uuid for n, layer in enumerate(bottoms, 1) if (uuid := _uuid(layer.fd))}
        if family is not MarkFamily.TRUSTED or not uuids:
            return None
        try:
            fd = syscalls.open_beneath(work_fd, "index", _DIRECTORY)
        except FileNotFoundError:
            return None
        return cls(fd, number, uuids)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def handle(self, place: Place, fd: int, name: bytes) -> bytes | None:
        """How overlayfs writes down which file of a bottom an entry is; None if it cannot."""
        uuid = self._uuids.get(place.layer)
        if uuid is None:
            return None
        try:
            kind, handle = syscalls.name_to_handle_at(fd, name, 0)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EOVERFLOW, *VANISHED):
                return None
            raise
        length = _HEADER.size + len(handle)
        return _HEADER.pack(_VERSION, _MAGIC, length, 0, kind, uuid) + handle

    def find(self, handle: bytes) -> os.stat_result | None:
        """The copy of a bottom file that has one."""
        try:
            return os.stat(handle.hex(), dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None


def _uuid(fd: int) -> bytes | None:
    """The UUID of a file system as overlayfs sees it; None if it has none, or hides it."""
    # struct fsuuid2: a length and the UUID; btrfs only has its own call, for an fsid at 16.
    for call, size, at in ((_GETFSUUID, 17, 1), (_BTRFS_FS_INFO, 1024, 16)):
        answer = bytearray(size)
        try:
            fcntl.ioctl(fd, call, answer)
        except OSError:
            continue
        uuid = bytes(answer[at : at + 16])
        return uuid if any(uuid) else None
    return None


def file_of_handle(fd: int, name: str) -> int | None:
    """The inode number of the bottom's file that an entry of the index is a copy of.

    ``fd`` is on the file's file system.  None if it is gone, or of another file system.
    """
    try:
        encoded = bytes.fromhex(name)
        version, magic, size, _, kind, uuid = _HEADER.unpack_from(encoded)
        if (version, magic, size) != (_VERSION, _MAGIC, len(encoded)) or uuid != _uuid(fd):
            return None
        file = syscalls.open_by_handle_at(fd, kind, encoded[_HEADER.size :], os.O_PATH)
    except (OSError, ValueError, struct.error):
        return None
    try:
        return os.fstat(file).st_ino
    finally:
        os.close(file)


# --------------------------------------------------------------------- counting links


def links(fd: int, name: bytes, family: MarkFamily, real: int, lower: int | None) -> int | None:
    """How many names the union shows of a copy that really has ``real`` links.

    None without a mark that says so.  The mark is relative to the copy's links, or, in the
    middle of a change, to the ``lower`` file's (ovl_get_nlink()).
    """
    try:
        value = syscalls.getxattr(fd, family.attribute("nlink"), name)
    except OSError as error:
        if error.errno in NO_XATTR:
            return None
        raise
    try:
        difference = int(value[1:])
    except ValueError:
        return None
    base = {b"U": real, b"L": lower}.get(value[:1])
    return None if base is None else base + difference


def has_names_below(index_fd: int, family: MarkFamily) -> bool:
    """Whether the union shows a copy under names that only the bottoms have."""
    for name, st in scan(index_fd):
        if is_whiteout_device(st):
            continue
        shown = links(index_fd, name, family, st.st_nlink, None)
        # One of its own links is the index's.
        if shown is None or shown > st.st_nlink - 1:
            return True
    return False


def set_links(fd: int, name: bytes, family: MarkFamily, relative_to: str, by: int) -> None:
    """Write the mark: ``U`` by the copy's own links, ``L`` by the bottom file's."""
    syscalls.setxattr(fd, family.attribute("nlink"), b"%s%+d" % (relative_to.encode(), by), name)


# ------------------------------------------------------------------------ looking up


class IndexedView(View):
    """A view in which the names of a bottom file that was copied up lead to the copy.

    The index is one more layer, after all others.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        family: MarkFamily,
        data_layers: Sequence[Layer],
        index: LinkIndex,
    ) -> None:
        super().__init__(layers, family, [*data_layers, Layer(index.fd, "index")])
        self.index = index

    def open(self, node: Node | None) -> OpenDirectory:
        return _IndexedDirectory(self, () if node is None else node.places)


class _IndexedDirectory(OpenDirectory):
    def __init__(self, view: IndexedView, places: tuple[Place, ...]) -> None:
        super().__init__(view, places)
        self._indexed = view

    def search(self, name: bytes) -> tuple[Node | None, bytes | None]:
        node, onwards = super().search(name)
        return self._linked(node), onwards

    def _linked(self, node: Node | None) -> Node | None:
        if node is None or node.is_dir or node.st.st_nlink < 2:
            return node
        place = node.places[0]
        if place.layer > 0:
            return self._copied(node, place)
        if "nlink" in node.marks.others:
            with self._indexed.layers[0].parent(place.path) as (fd, last):
                count = links(fd, last, self._indexed.family, node.st.st_nlink, None)
            return _with_links(node, count)
        return node

    def _copied(self, node: Node, place: Place) -> Node:
        index = self._indexed.index
        with self._indexed.layers[place.layer].parent(place.path) as (fd, last):
            handle = index.handle(place, fd, last)
        st = None if handle is None else index.find(handle)
        if st is None or handle is None:
            return node
        name = handle.hex().encode()
        here = Place(index.number, name)
        found = self._indexed.entry(here, index.fd, name)
        if found is None or found[1].whiteout is not None:
            return node
        count = links(index.fd, name, self._indexed.family, st.st_nlink, node.st.st_nlink)
        data = here if found[1].metacopy is None else node.data
        return _with_links(Node(st, found[1], (here,), data), count)


def _with_links(node: Node, count: int | None) -> Node:
    return node if count is None else node._replace(st=changed_stat(node.st, st_nlink=count))


#: The order of os.stat_result's positional fields; the times there are whole seconds.
_POSITIONAL: Final = ("st_mode", "st_ino", "st_dev", "st_nlink", "st_uid", "st_gid", "st_size")
_TIMES: Final = ("st_atime", "st_mtime", "st_ctime")
_NAMED: Final = (*_TIMES, "st_atime_ns", "st_mtime_ns", "st_ctime_ns")
_MORE: Final = ("st_blksize", "st_blocks", "st_rdev")


def changed_stat(st: os.stat_result, **fields: int) -> os.stat_result:
    """A copy of ``st`` with other fields."""
    positional = [fields.get(name, getattr(st, name)) for name in _POSITIONAL]
    named = {name: fields.get(name, getattr(st, name)) for name in (*_NAMED, *_MORE)}
    seconds = [int(getattr(st, name)) for name in _TIMES]
    return os.stat_result((*positional, *seconds), named)
