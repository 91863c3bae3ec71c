"""A layer's tar, read as items.  The archive is hostile.

Python's tarfile parses the headers, as a stream; what it makes of them is judged here:
names that lead out, marks smuggled in as attributes, devices, headers that would fill the
memory.  Nothing is written by this module.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO, Final

from overlay.archives.item import (
    OPAQUE_NAME,
    WHITEOUT_PREFIX,
    HostileLayer,
    Item,
    Limits,
    check_path,
)
from overlay.errors import OperationFailed
from overlay.text import printable

__all__ = ["tar_items"]

_XATTR: Final = "SCHILY.xattr."
#: A header that holds more than a long name and 64 KiB of attributes is no header.
_MAX_HEADER: Final = 1 << 20
_LONG: Final = frozenset(
    {
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    }
)
_KINDS: Final = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.AREGTYPE: stat.S_IFREG,
    tarfile.CONTTYPE: stat.S_IFREG,
    tarfile.GNUTYPE_SPARSE: stat.S_IFREG,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}


class _Header(tarfile.TarInfo):
    """A header that is not read into memory if it claims to be huge."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _LONG and not 0 <= self.size <= _MAX_HEADER:
            raise HostileLayer(f"a header of {self.size} bytes in the archive")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]


def tar_items(stream: BinaryIO, *, limits: Limits, devices: bool = False) -> Iterator[Item]:
    """The items of an uncompressed tar; a file's content has to be read before the next item.

    ``devices``: device nodes are taken, which else are HostileLayer, like anything that
    leads out.  OperationFailed for what is no tar.
    """
    try:
        with tarfile.open(
            fileobj=stream,
            mode="r|",
            bufsize=1 << 18,
            tarinfo=_Header,
            encoding="utf-8",
            errors="surrogateescape",
        ) as archive:
            while (member := archive.next()) is not None:
                # It keeps every header else.
                archive.members.clear()  # type: ignore[attr-defined]
                item = _item(archive, member, limits)
                if item is not None:
                    if stat.S_IFMT(item.mode) in (stat.S_IFCHR, stat.S_IFBLK) and not devices:
                        raise HostileLayer(
                            f"a device node in the archive: {printable(item.path)}",
                            hint="--devices takes them",
                        )
                    yield item
    except (tarfile.TarError, EOFError, OverflowError, ValueError) as error:
        raise OperationFailed(f"the archive cannot be read: {error}") from error


def _item(archive: tarfile.TarFile, member: tarfile.TarInfo, limits: Limits) -> Item | None:
    path = check_path(os.fsencode(member.name), limits)
    above, slash, name = path.rpartition(b"/")
    if name == OPAQUE_NAME:
        return Item(above, mode=stat.S_IFDIR, opaque=True)
    if name.startswith(WHITEOUT_PREFIX * 2):
        return None  # AUFS's own files
    if name.startswith(WHITEOUT_PREFIX):
        hidden = name.removeprefix(WHITEOUT_PREFIX)
        if hidden in (b"", b".", b".."):
            raise HostileLayer(f"a whiteout of nothing in the archive: {printable(path)}")
        return Item(above + slash + hidden, whiteout=True)
    if member.type == tarfile.LNKTYPE:
        return Item(path, link=check_path(os.fsencode(member.linkname), limits))
    kind = _KINDS.get(member.type)
    if kind is None:
        raise HostileLayer(f"{printable(path)} is of a type that no layer has: {member.type!r}")
    if not path and kind != stat.S_IFDIR:
        raise HostileLayer("the archive's root is no directory")
    item = Item(
        path,
        mode=kind | member.mode & 0o7777,
        uid=_id(member.uid),
        gid=_id(member.gid),
        mtime_ns=_nanoseconds(member),
        size=member.size if kind == stat.S_IFREG else 0,
        xattrs=_xattrs(member),
    )
    if kind == stat.S_IFLNK:
        item.target = os.fsencode(member.linkname)
        if not item.target or len(item.target) > 4095 or b"\0" in item.target:
            raise HostileLayer(f"{printable(path)} is a symlink to nothing that can be")
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        item.rdev = os.makedev(member.devmajor, member.devminor)
    elif kind == stat.S_IFREG:
        item.content = _content(archive, member)
    return item


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo):  # type: ignore[no-untyped-def]
    def opened() -> AbstractContextManager[BinaryIO]:
        file = archive.extractfile(member)
        assert file is not None
        return nullcontext(file)  # type: ignore[arg-type]

    return opened


def _id(number: int) -> int:
    if not 0 <= number < (1 << 32) - 1:
        raise HostileLayer(f"an owner {number} in the archive")
    return number


def _nanoseconds(member: tarfile.TarInfo) -> int:
    """The modification time, exactly: tarfile has it as a float."""
    text = member.pax_headers.get("mtime")
    if text is None:
        return int(member.mtime) * 10**9
    whole, _, fraction = text.partition(".")
    digits = (fraction + "000000000")[:9]
    try:
        nanoseconds = abs(int(whole)) * 10**9 + int(digits)
    except ValueError:
        raise HostileLayer(f"a time in the archive that is none: {text[:40]!r}") from None
    if nanoseconds >= 1 << 63:
        raise HostileLayer(f"a time in the archive that is none: {text[:40]!r}")
    return -nanoseconds if whole.startswith("-") else nanoseconds


def _xattrs(member: tarfile.TarInfo) -> dict[str, bytes]:
    return {
        key.removeprefix(_XATTR): value.encode("utf-8", "surrogateescape")
        for key, value in member.pax_headers.items()
        if key.startswith(_XATTR)
    }
