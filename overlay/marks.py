"""Whiteout, opaque and fallthru on disk: every mark of a layer, read and written.

A mark is reached by directory descriptor and name, never by a path, and nothing is
followed.  The format is overlayfs's, so that a kernel mount reads what is written
here and the other way round (``docs/marks.md``).  Marks have one of two families of
extended attributes: ``trusted.overlay.`` for root, ``user.overlay.`` for mounts made
in a user namespace.  Terms: document L84–L108.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from overlay import syscalls
from overlay.errors import Refused
from overlay.markvalues import (
    MARKS,
    NO_XATTR,
    HostileMark,
    MarkFamily,
    Metacopy,
    check_redirect,
    escape_attribute,
    is_private,
    parse_metacopy,
    unescape_attribute,
    visible_xattrs,
)

__all__ = [
    "MARKS",
    "NO_MARKS",
    "TEMPORARY_PREFIX",
    "HostileMark",
    "MarkFamily",
    "Marks",
    "Metacopy",
    "Whiteout",
    "check_redirect",
    "clear_mark",
    "escape_attribute",
    "is_fallthru",
    "is_private",
    "is_whiteout_device",
    "parse_metacopy",
    "place",
    "read_marks",
    "set_metacopy",
    "set_opaque",
    "set_redirect",
    "set_xattr_whiteouts",
    "temporary_name",
    "unescape_attribute",
    "visible_xattrs",
    "write_fallthru",
    "write_whiteout",
]

#: What is made aside is called so until it is put in place; a leftover of a crash.
TEMPORARY_PREFIX: Final = b".fallthru-"

_serial = itertools.count()


class Whiteout(Enum):
    """How a whiteout is stored: as character device 0/0, or as an empty file with an xattr."""

    DEVICE = "device"
    XATTR = "xattr"


@dataclass(frozen=True, slots=True)
class Marks:
    """All marks on one object of a layer.

    ``opaque`` hides what lies below; ``xattr_whiteouts`` says that a directory may hold
    xattr whiteouts (``opaque=x``) and hides nothing.  ``redirect`` is where the lookup
    goes on below: one name beside this object, or a path from the layers' roots.
    ``others`` names attributes that are recognised and left alone.  ``bare`` says
    that the look for marks met no other attribute; None if nobody looked.
    """

    whiteout: Whiteout | None = None
    opaque: bool = False
    xattr_whiteouts: bool = False
    metacopy: Metacopy | None = None
    redirect: bytes | None = None
    others: frozenset[str] = frozenset()
    bare: bool | None = field(default=None, compare=False)


NO_MARKS: Final = Marks()
_BARE: Final = Marks(bare=True)
_DEVICE_WHITEOUT: Final = Marks(whiteout=Whiteout.DEVICE)


# ----------------------------------------------------------------------- reading


def is_whiteout_device(st: os.stat_result) -> bool:
    """Whether an entry is a whiteout in its device form."""
    return st.st_rdev == 0 and stat.S_ISCHR(st.st_mode)


def read_marks(dirfd: int, name: bytes | None, st: os.stat_result, family: MarkFamily) -> Marks:
    """The marks of entry ``name`` of ``dirfd`` (None: of the directory itself).

    ``st`` is the entry's lstat.  Raises HostileMark for values that cannot be meant,
    as the kernel fails the lookup then.
    """
    if is_whiteout_device(st):
        return _DEVICE_WHITEOUT
    is_dir, is_file = stat.S_ISDIR(st.st_mode), stat.S_ISREG(st.st_mode)
    if not is_dir and not is_file:
        return NO_MARKS
    prefix = family.prefix
    try:
        listed = syscalls.listxattr(dirfd, name)
    except OSError as error:
        if error.errno in NO_XATTR:
            return NO_MARKS
        raise
    if not listed:
        return _BARE
    present = [attribute for attribute in listed if attribute.startswith(prefix)]
    if not present:
        return NO_MARKS
    marks = {attribute.removeprefix(prefix) for attribute in present} & MARKS
    opaque = _value(dirfd, name, family, "opaque") if is_dir and "opaque" in marks else b""
    metacopy = redirect = None
    if is_file and "metacopy" in marks:
        value = _value(dirfd, name, family, "metacopy")
        metacopy = None if value is None else parse_metacopy(value)
    # The kernel believes a file's redirect only beside a metacopy: what a full copyup
    # leaves behind means nothing.
    if "redirect" in marks and (is_dir or metacopy is not None):
        value = _value(dirfd, name, family, "redirect")
        redirect = None if value is None else check_redirect(value)
    hides = is_file and st.st_size == 0 and "whiteout" in marks
    return Marks(
        whiteout=Whiteout.XATTR if hides else None,
        opaque=opaque == b"y",
        xattr_whiteouts=opaque == b"x",
        metacopy=metacopy,
        redirect=redirect,
        others=frozenset(marks - {"opaque", "metacopy", "redirect", "whiteout"}),
        bare=all(is_private(attribute, family) for attribute in listed),
    )


def _value(dirfd: int, name: bytes | None, family: MarkFamily, mark: str) -> bytes | None:
    try:
        return syscalls.getxattr(dirfd, family.attribute(mark), name)
    except OSError as error:
        # Removed since it was listed, or a user. attribute of an unreadable file.
        if error.errno in NO_XATTR:
            return None
        raise


def is_fallthru(
    marks: Marks,
    st: os.stat_result,
    *,
    parent_opaque: bool,
    bottom: os.stat_result | None = None,
) -> bool:
    """Whether an entry lets its name fall through to the bottom (document L100–L103).

    What has no data (symlink, device, fifo, socket) carries no mark: it is a fallthru
    where an opaque directory has the same thing as the ``bottom``, whose lstat decides.
    """
    if marks.whiteout is not None:
        return False
    absolute = marks.redirect is not None and marks.redirect.startswith(b"/")
    if stat.S_ISREG(st.st_mode):
        return marks.metacopy is not None and absolute
    if stat.S_ISDIR(st.st_mode):
        return parent_opaque and absolute and not marks.opaque
    if bottom is None or not parent_opaque:
        return False
    same_type = stat.S_IFMT(st.st_mode) == stat.S_IFMT(bottom.st_mode)
    return same_type and st.st_rdev == bottom.st_rdev and st.st_size == bottom.st_size


# ----------------------------------------------------------------------- writing


def set_opaque(dirfd: int, family: MarkFamily, name: bytes | None = None) -> None:
    """Mark a directory opaque (document L95–L98)."""
    syscalls.setxattr(dirfd, family.attribute("opaque"), b"y", name)


def set_xattr_whiteouts(dirfd: int, family: MarkFamily, name: bytes | None = None) -> None:
    """Mark a directory as one that may hold xattr whiteouts (``opaque=x``, since 6.8).

    An opaque directory is refused: it needs no whiteouts, and would stop being opaque.
    """
    if _value(dirfd, name, family, "opaque") == b"y":
        raise Refused("an opaque directory cannot hold xattr whiteouts")
    syscalls.setxattr(dirfd, family.attribute("opaque"), b"x", name)


def set_redirect(dirfd: int, family: MarkFamily, to: bytes, name: bytes | None = None) -> None:
    """Make the lookup below go on at ``to``: one name, or a path from the layers' roots."""
    syscalls.setxattr(dirfd, family.attribute("redirect"), check_redirect(to), name)


def set_metacopy(
    dirfd: int, family: MarkFamily, name: bytes | None = None, *, value: Metacopy | None = None
) -> None:
    """Mark a regular file as one whose data lies further down."""
    encoded = b"" if value is None else value.encode()
    syscalls.setxattr(dirfd, family.attribute("metacopy"), encoded, name)


def clear_mark(dirfd: int, family: MarkFamily, mark: str, name: bytes | None = None) -> None:
    """Remove one of :data:`MARKS`; nothing happens where it is not."""
    try:
        syscalls.removexattr(dirfd, family.attribute(mark), name)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise


def temporary_name() -> bytes:
    """A name for something made aside: unique in this process, recognised after a crash."""
    return TEMPORARY_PREFIX + b"%d-%d" % (os.getpid(), next(_serial))


def place(work_fd: int, temporary: bytes, dirfd: int, name: bytes, *, replace: bool) -> bool:
    """Put what was made aside in its place by one rename, so that it is seen whole or not at all.

    Without ``replace`` an existing entry is EEXIST.  With it, a file in the way is
    overwritten; a directory is exchanged and is then in the work directory as
    ``temporary``: True says so, and the caller has to remove it.
    """
    if not replace:
        syscalls.renameat2(work_fd, temporary, dirfd, name, syscalls.RENAME_NOREPLACE)
        return False
    try:
        syscalls.renameat2(work_fd, temporary, dirfd, name)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST):
            raise
    else:
        return False
    syscalls.renameat2(work_fd, temporary, dirfd, name, syscalls.RENAME_EXCHANGE)
    return True


def write_whiteout(
    dirfd: int,
    name: bytes,
    family: MarkFamily,
    *,
    form: Whiteout = Whiteout.DEVICE,
    work_fd: int | None = None,
) -> bytes | None:
    """Hide ``name`` of the layers below (document L90–L93).

    Without ``work_fd`` nothing of that name may exist (EEXIST).  With it, what exists is
    replaced in one step; the name a displaced directory then has in the work directory
    is returned.  An xattr whiteout needs ``work_fd``: it takes two steps.
    """
    if form is Whiteout.DEVICE and work_fd is None:
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=dirfd)
        return None
    if work_fd is None:
        raise ValueError("an xattr whiteout is made aside: it needs a work directory")
    temporary = temporary_name()
    if form is Whiteout.DEVICE:
        os.mknod(temporary, stat.S_IFCHR, 0, dir_fd=work_fd)
    else:
        # The directory first: until it is marked, readdir would show the whiteout.
        set_xattr_whiteouts(dirfd, family)
        os.mknod(temporary, stat.S_IFREG, 0, dir_fd=work_fd)
    try:
        if form is Whiteout.XATTR:
            syscalls.setxattr(work_fd, family.attribute("whiteout"), b"y", temporary)
        displaced = place(work_fd, temporary, dirfd, name, replace=True)
    except BaseException:
        os.unlink(temporary, dir_fd=work_fd)
        raise
    return temporary if displaced else None


def write_fallthru(
    dirfd: int,
    name: bytes,
    bottom: os.stat_result,
    path: bytes,
    family: MarkFamily,
    *,
    work_fd: int | None,
    target: bytes | None = None,
    xattrs: Mapping[str, bytes] | None = None,
) -> None:
    """Let ``name`` of an opaque directory read from the bottom (document L100–L108).

    ``bottom`` is the lstat there, ``path`` its absolute path in the layer, ``target`` a
    symlink's, ``xattrs`` what the union shows of it (:func:`visible_xattrs`).  A regular
    file becomes a sparse stub.  It is made in ``work_fd`` and put in place by one rename;
    with None it is made where it belongs, for directories that nobody sees yet.
    EEXIST if the name is taken; nothing is left behind then.
    """
    check_redirect(path)
    where = dirfd if work_fd is None else work_fd
    made = name if work_fd is None else temporary_name()
    _make_node(where, made, bottom, target)
    try:
        _dress(where, made, bottom, (family, path, xattrs or {}))
        if work_fd is not None:
            place(work_fd, made, dirfd, name, replace=False)
    except BaseException:
        if stat.S_ISDIR(bottom.st_mode):
            os.rmdir(made, dir_fd=where)
        else:
            os.unlink(made, dir_fd=where)
        raise


def _make_node(dirfd: int, name: bytes, st: os.stat_result, target: bytes | None) -> None:
    if stat.S_ISDIR(st.st_mode):
        os.mkdir(name, 0o700, dir_fd=dirfd)
    elif stat.S_ISLNK(st.st_mode):
        if target is None:
            raise ValueError("a symlink's fallthru needs its target")
        os.symlink(target, name, dir_fd=dirfd)
    elif is_whiteout_device(st):
        raise ValueError("a whiteout does not fall through")
    else:
        os.mknod(name, stat.S_IFMT(st.st_mode) | 0o600, st.st_rdev, dir_fd=dirfd)


def _dress(
    dirfd: int,
    name: bytes,
    st: os.stat_result,
    dress: tuple[MarkFamily, bytes, Mapping[str, bytes]],
) -> None:
    """Give a new node the bottom's attributes and its marks, times last."""
    family, path, xattrs = dress
    is_file, is_dir = stat.S_ISREG(st.st_mode), stat.S_ISDIR(st.st_mode)
    flags = os.O_RDWR if is_file else os.O_RDONLY if is_dir else os.O_PATH
    fd = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dirfd)
    try:
        # An O_PATH descriptor is taken by none of the f* calls, but its magic link is.
        node = fd if is_file or is_dir else syscalls.fd_path(fd)
        # chown drops set-id bits and capabilities, so it comes before both.
        os.chown(node, st.st_uid, st.st_gid)
        if not stat.S_ISLNK(st.st_mode):
            os.chmod(node, stat.S_IMODE(st.st_mode))
        for attribute, value in xattrs.items():
            os.setxattr(node, escape_attribute(attribute, family), value)
        if is_file:
            os.truncate(fd, st.st_size)
            os.setxattr(fd, family.attribute("metacopy"), b"")
        if is_file or is_dir:
            os.setxattr(fd, family.attribute("redirect"), path)
        os.utime(node, ns=(st.st_atime_ns, st.st_mtime_ns))
    finally:
        os.close(fd)
