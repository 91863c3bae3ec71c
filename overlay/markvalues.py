"""What the extended attributes of marks are called and what they may say.

Two families of names, the values of metacopy and redirect with the kernel's rules for
them, and which attributes a union shows of those its layers store.  Everything read
here comes from a layer and is hostile until it was checked.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from overlay import syscalls
from overlay.errors import Refused
from overlay.text import printable

__all__ = [
    "MARKS",
    "NO_XATTR",
    "HostileMark",
    "MarkFamily",
    "Metacopy",
    "check_redirect",
    "escape_attribute",
    "is_private",
    "parse_metacopy",
    "unescape_attribute",
    "visible_xattrs",
]

#: Every attribute overlayfs keeps for itself (fs/overlayfs/overlayfs.h, enum ovl_xattr).
#: ``whiteouts`` was written by 6.7 only, before ``opaque=x`` took its place.
MARKS: Final = frozenset(
    [
        "opaque",
        "redirect",
        "origin",
        "impure",
        "nlink",
        "upper",
        "uuid",
        "metacopy",
        "protattr",
        "whiteout",
        "whiteouts",
    ]
)

_METACOPY_HEADER: Final = 4  # struct ovl_metacopy: version, len, flags, digest_algo
_METACOPY_MAX: Final = 4 + 64  # the header and FS_VERITY_MAX_DIGEST_SIZE
_NAME_MAX: Final = 255
#: Errors that mean "no such attribute"; EACCES is what user. gives on an unreadable file.
NO_XATTR: Final = frozenset({errno.ENODATA, errno.EOPNOTSUPP, errno.EACCES})


class HostileMark(Refused):
    """A mark whose value no overlay would have written, or that leads out of its layer."""


class MarkFamily(StrEnum):
    """The extended attributes' name space: ``trusted`` (root) or ``user`` (``userxattr``)."""

    TRUSTED = "trusted"
    USER = "user"

    @property
    def prefix(self) -> str:
        """``trusted.overlay.`` or ``user.overlay.``."""
        return f"{self.value}.overlay."

    def attribute(self, mark: str) -> str:
        """The full attribute name of one of :data:`MARKS`."""
        return self.prefix + mark


@dataclass(frozen=True, slots=True)
class Metacopy:
    """The value of a metacopy mark: the data lies further down, perhaps with its digest.

    ``algorithm`` is an FS_VERITY_HASH_ALG_* number, 0 for no digest.
    """

    algorithm: int = 0
    digest: bytes = b""
    flags: int = 0

    def encode(self) -> bytes:
        """The attribute's value: empty without a digest, as the kernel writes it."""
        if not self.algorithm and not self.flags:
            return b""
        header = bytes([0, _METACOPY_HEADER + len(self.digest), self.flags, self.algorithm])
        return header + self.digest


def parse_metacopy(value: bytes) -> Metacopy:
    """A metacopy attribute, by the rules of ovl_check_metacopy_xattr() (digest: since 6.6)."""
    if not value:
        return Metacopy()
    if not _METACOPY_HEADER <= len(value) <= _METACOPY_MAX:
        raise HostileMark(f"a metacopy mark of {len(value)} bytes")
    version, length, flags, algorithm = value[:_METACOPY_HEADER]
    if version != 0:
        raise HostileMark(f"a metacopy mark of unknown version {version}")
    if length != len(value):
        raise HostileMark(f"a metacopy mark of {len(value)} bytes that says {length}")
    return Metacopy(algorithm, value[_METACOPY_HEADER:], flags)


def check_redirect(value: bytes) -> bytes:
    """``value`` if the kernel would follow it: one name, or an absolute path.

    ovl_get_redirect_xattr() refuses empty components and slashes in a relative one; the
    lookup then refuses dots and names over 255 bytes.  There is no limit on reading; the
    kernel writes at most ``/sys/module/overlay/parameters/redirect_max`` (256) bytes.
    """
    names = value.removeprefix(b"/").split(b"/")
    if not value.startswith(b"/") and len(names) > 1:
        raise _hostile_redirect(value, "a relative redirect is one name")
    for name in names:
        if not name:
            raise _hostile_redirect(value, "an empty name in it")
        if name in (b".", b".."):
            raise _hostile_redirect(value, "it leads out of its place")
        if b"\0" in name or len(name) > _NAME_MAX:
            raise _hostile_redirect(value, "not a file name")
    return value


def _hostile_redirect(value: bytes, why: str) -> HostileMark:
    shown = printable(value[:80]) + ("…" if len(value) > 80 else "")
    return HostileMark(f"a redirect to “{shown}”: {why}")


# ------------------------------------------------------- attributes seen and unseen


def is_private(attribute: str, family: MarkFamily) -> bool:
    """Whether an overlay mount hides this attribute of its layers."""
    return attribute.startswith(family.prefix) and not attribute.startswith(
        family.prefix + "overlay."
    )


def escape_attribute(attribute: str, family: MarkFamily) -> str:
    """How a layer stores an attribute that is seen in the union as ``attribute``.

    An overlay inside an overlay has marks of its own, stored one level down as
    ``*.overlay.overlay.`` (kernel: overlayfs.rst, "Nesting overlayfs mounts"; 6.7).
    """
    if not attribute.startswith(family.prefix):
        return attribute
    return family.prefix + "overlay." + attribute.removeprefix(family.prefix)


def unescape_attribute(attribute: str, family: MarkFamily) -> str:
    """How the union shows an attribute that its layer stores as ``attribute``."""
    escaped = family.prefix + "overlay."
    if not attribute.startswith(escaped):
        return attribute
    return family.prefix + attribute.removeprefix(escaped)


def visible_xattrs(dirfd: int, name: bytes | None, family: MarkFamily) -> dict[str, bytes]:
    """The extended attributes that the union shows of an entry: no marks, nested ones unescaped."""
    found: dict[str, bytes] = {}
    try:
        names = syscalls.listxattr(dirfd, name)
    except OSError as error:
        if error.errno in NO_XATTR:
            return found
        raise
    for attribute in names:
        if is_private(attribute, family):
            continue
        try:
            value = syscalls.getxattr(dirfd, attribute, name)
        except OSError as error:
            if error.errno not in NO_XATTR:
                raise
        else:
            found[unescape_attribute(attribute, family)] = value
    return found
