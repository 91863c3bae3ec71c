"""POSIX access control lists as the kernel stores and judges them.

The format is that of the ``system.posix_acl_*`` attributes (include/uapi/linux/
posix_acl_xattr.h), the rules those of fs/posix_acl.c.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

__all__ = ["ACCESS", "DEFAULT", "AclEntry", "Tag", "encode", "inherit", "parse", "permits"]

#: The attributes' names: of a file's own list, and of the one that a directory hands on.
ACCESS: Final = "system.posix_acl_access"
DEFAULT: Final = "system.posix_acl_default"

_VERSION: Final = 2
_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_NO_ID: Final = 0xFFFFFFFF


class Tag(IntEnum):
    """Whom an entry is about (include/uapi/linux/posix_acl.h)."""

    USER_OBJ = 0x01
    USER = 0x02
    GROUP_OBJ = 0x04
    GROUP = 0x08
    MASK = 0x10
    OTHER = 0x20


@dataclass(frozen=True, slots=True)
class AclEntry:
    """One entry: ``perm`` are rwx bits (0–7), ``who`` the uid or gid of USER and GROUP."""

    tag: Tag
    perm: int
    who: int = _NO_ID


def parse(value: bytes) -> tuple[AclEntry, ...]:
    """The entries of an attribute; EINVAL or EOPNOTSUPP if it is none."""
    body = len(value) - _HEADER.size
    if body >= 0 and _HEADER.unpack_from(value)[0] != _VERSION:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    if body < 0 or body % _ENTRY.size:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    try:
        return tuple(
            AclEntry(Tag(tag), perm, who)
            for tag, perm, who in _ENTRY.iter_unpack(value[_HEADER.size :])
        )
    except ValueError:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None


def encode(entries: tuple[AclEntry, ...]) -> bytes:
    """The attribute's value."""
    packed = (_ENTRY.pack(entry.tag, entry.perm, entry.who) for entry in entries)
    return _HEADER.pack(_VERSION) + b"".join(packed)


def permits(
    entries: tuple[AclEntry, ...], owner: int, group: int, uid: int, gids: frozenset[int], want: int
) -> bool:
    """Whether ``uid`` with ``gids`` gets the rwx bits ``want`` (posix_acl_permission())."""
    mask = next((entry.perm for entry in entries if entry.tag is Tag.MASK), 7)
    in_a_group = False
    for entry in entries:
        if entry.tag is Tag.USER_OBJ and uid == owner:
            return entry.perm & want == want
        if entry.tag is Tag.USER and uid == entry.who:
            return entry.perm & mask & want == want
        if entry.tag in (Tag.GROUP_OBJ, Tag.GROUP):
            if (group if entry.tag is Tag.GROUP_OBJ else entry.who) in gids:
                in_a_group = True
                if entry.perm & want == want:
                    return mask & want == want
        elif entry.tag is Tag.OTHER:
            return not in_a_group and entry.perm & want == want
    return False


def inherit(default: tuple[AclEntry, ...], mode: int) -> tuple[tuple[AclEntry, ...] | None, int]:
    """The access list and mode of something made with ``mode`` where ``default`` is handed on.

    The list is None where the mode says it all (posix_acl_create_masq()).
    """
    has_mask = any(entry.tag is Tag.MASK for entry in default)
    shifts = {Tag.USER_OBJ: 6, Tag.OTHER: 0, Tag.MASK if has_mask else Tag.GROUP_OBJ: 3}
    entries = []
    for entry in default:
        shift = shifts.get(entry.tag)
        if shift is None:
            entries.append(entry)
            continue
        perm = entry.perm & (mode >> shift)
        mode &= ~(7 << shift) | perm << shift
        entries.append(replace(entry, perm=perm))
    return (tuple(entries) if len(default) > 3 else None), mode
