"""What a crash, another top or other bottoms leave in a work directory and on a top's root.

The kernel keeps there: ``work``, for what is half made; ``index``, a hard link to every
copied-up file of a bottom inode that has several names, named by that inode's handle; and
``work/incompat``, for what an older kernel must not mount.  Handles are also how it knows
the layers again: the top's root has the handle of the uppermost bottom's root, the index
that of the top's (fs/overlayfs/super.c, ovl_get_indexdir).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from overlay import syscalls, workdir
from overlay.checking.rules import Finding, finding
from overlay.layer import VANISHED, Layer, scan
from overlay.marks import TEMPORARY_PREFIX, MarkFamily, is_whiteout_device
from overlay.markvalues import NO_XATTR

__all__ = ["Handle", "check_root_origin", "check_work", "handle_of", "parse_handle"]

_MAGIC: Final = 0xFB
_HEADER: Final = 21  # struct ovl_fb: version, magic, len, flags, type, uuid[16]
_FLAG_BIG_ENDIAN: Final = 1
_FLAG_ANY_ENDIAN: Final = 2
#: _IOR(0x15, 0, struct fsuuid2) (include/uapi/linux/fs.h; since 6.9).
_FS_IOC_GETFSUUID: Final = 0x80111500
_HEX: Final = re.compile(rb"(?:[0-9a-fA-F]{2})+")


@dataclass(frozen=True, slots=True)
class Handle:
    """A file handle as overlayfs stores it.  ``uuid`` is the file system's, b"" if not told."""

    type: int
    fid: bytes
    uuid: bytes = b""

    def differs(self, other: Handle) -> bool:
        """Whether these are surely two files."""
        if self.uuid and other.uuid and self.uuid != other.uuid:
            return True
        return (self.type, self.fid) != (other.type, other.fid)


def parse_handle(value: bytes) -> Handle | None:
    """An origin, or an index entry's name; None for what says nothing on this machine."""
    if len(value) < _HEADER or value[1] != _MAGIC or value[2] > len(value):
        return None
    if value[0] > 0 or value[3] & ~7:
        return None  # written by a later kernel
    if not value[3] & _FLAG_ANY_ENDIAN and value[3] & _FLAG_BIG_ENDIAN:
        return None
    uuid = value[5:_HEADER]
    return Handle(value[4], value[_HEADER : value[2]], uuid if any(uuid) else b"")


def handle_of(fd: int) -> Handle | None:
    """The handle that overlayfs would store for what ``fd`` is open on; None if it can't."""
    try:
        kind, fid = syscalls.name_to_handle_at(fd)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EOVERFLOW):
            return None
        raise
    return Handle(kind, fid, _filesystem_uuid(fd))


def _filesystem_uuid(fd: int) -> bytes:
    try:
        answer = fcntl.ioctl(fd, _FS_IOC_GETFSUUID, bytes(17))
    except OSError:
        return b""
    return answer[1:17] if answer[0] == 16 else b""


def _stored(fd: int, attribute: str, name: bytes | None = None) -> bytes | None:
    try:
        return syscalls.getxattr(fd, attribute, name)
    except OSError as error:
        if error.errno in NO_XATTR:
            return None
        raise


def check_root_origin(top: Layer, uppermost: Layer, family: MarkFamily) -> list[Finding]:
    """Whether the top says that it was made for another bottom than this one."""
    value = _stored(top.fd, family.attribute("origin"))
    if value is None:
        return []
    noted, now = parse_handle(value), handle_of(uppermost.fd)
    if noted is None or now is None or not noted.differs(now):
        return []
    return [finding("root-origin", b"", mark=family.attribute("origin"))]


def check_work(work: Layer, top: Layer, family: MarkFamily, *, stubs: bool) -> list[Finding]:
    """Everything wrong in a work directory that no mounted overlay uses.

    ``stubs``: whether the top has fallthrus that not every profile reads.
    """
    found: list[Finding] = []
    if stubs and workdir.recall(work.fd, family) == b"no":
        found.append(finding("stubs-flag", b"", layer="work"))
    for entry in work.entries(b""):
        if entry.path.startswith(TEMPORARY_PREFIX):
            found.append(finding("work-leftover", entry.path, layer="work"))
    for entry in work.entries(b"work"):
        if entry.path != b"work/incompat" and not _is_spare_whiteout(entry.name, entry.st):
            found.append(finding("work-leftover", entry.path, layer="work"))
    found += [
        finding("volatile", entry.path, layer="work")
        for entry in work.entries(b"work/incompat")
        if entry.path == b"work/incompat/volatile"
    ]
    try:
        with work.directory(b"index") as fd:
            found += _check_index(fd, top, family)
    except OSError as error:
        if error.errno not in VANISHED:
            raise
    return sorted(found, key=lambda each: each.path)


def _is_spare_whiteout(name: bytes, st: os.stat_result) -> bool:
    """Whether this is the whiteout that the kernel links to wherever it needs one (since 5.8).

    It stays behind at unmount ("ovl: whiteout inode sharing"); the next mount removes it.
    """
    return name.startswith(b"#") and is_whiteout_device(st)


def _check_index(fd: int, top: Layer, family: MarkFamily) -> Iterator[Finding]:
    now = handle_of(top.fd)
    # Before 4.18 the top's handle was kept as the origin.
    for mark in ("upper", "origin"):
        value = _stored(fd, family.attribute(mark))
        noted = None if value is None else parse_handle(value)
        if noted is not None and now is not None and noted.differs(now):
            yield finding("index-top", b"index", layer="work", mark=family.attribute(mark))
    for name, st in scan(fd):
        code = _judge_index_entry(fd, name, st, family)
        if code:
            yield finding(code, b"index/" + name, layer="work")


def _judge_index_entry(fd: int, name: bytes, st: os.stat_result, family: MarkFamily) -> str:
    """What is wrong with an index entry, by the rules of ovl_verify_index()."""
    if name.startswith(b"#"):
        return "" if _is_spare_whiteout(name, st) else "index-leftover"
    if len(name) < 2 * _HEADER or not _HEX.fullmatch(name):
        return "index-invalid"
    encoded = bytes.fromhex(name.decode())
    if encoded[1] != _MAGIC or encoded[2] > len(encoded):
        return "index-invalid"
    if is_whiteout_device(st) or stat.S_ISDIR(st.st_mode):
        return ""  # for exported overlays; the kernel looks into these itself
    if _stored(fd, family.attribute("origin"), name) != encoded:
        return "index-dangling"
    if st.st_nlink == 1 and _union_links(fd, name, family) == 0:
        return "index-orphan"
    return ""


def _union_links(fd: int, name: bytes, family: MarkFamily) -> int | None:
    """How many names an indexed file without a name on the top has in the union.

    The mark counts from the index entry's own links (``U``) or, where bottom names are
    left, from the bottom's (``L``): those the kernel sees to at the next mount.
    """
    value = _stored(fd, family.attribute("nlink"), name)
    if value is None or not re.fullmatch(rb"U[+-]\d{1,9}", value):
        return None
    return 1 + int(value[1:])
