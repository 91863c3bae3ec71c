"""What makes a copy equal to its original: owner, mode, attributes, lists, flags and times."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from overlay import syscalls
from overlay.inodeflags import copy_flags, open_for_flags
from overlay.marks import visible_xattrs
from overlay.stack import Stack
from overlay.view import Node

__all__ = ["dress"]

#: Attributes a copy cannot do without (fs/overlayfs/copy_up.c, ovl_must_copy_xattr()).
_ESSENTIAL: Final = ("system.posix_acl_", "security.")


def dress(stack: Stack, made: bytes, node: Node) -> None:
    """Give a copy its owner, mode, attributes, access lists and, last, its times."""
    st = node.st
    with stack.at(node.places[0]) as (fd, name):
        xattrs = visible_xattrs(fd, name, stack.family)
    copy = syscalls.open_beneath(stack.aside.fd, made, os.O_PATH)
    try:
        path = syscalls.fd_path(copy)
        # chown drops set-id bits and capabilities, so it comes before both.
        os.chown(path, st.st_uid, st.st_gid)
        if not stat.S_ISLNK(st.st_mode):
            os.chmod(path, stat.S_IMODE(st.st_mode))
        for attribute, value in xattrs.items():
            _set_xattr(path, stack.stored(attribute), value)
        if stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode):
            _copy_flags(stack, copy, node)
        os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
    finally:
        os.close(copy)


def _copy_flags(stack: Stack, copy: int, node: Node) -> None:
    place = node.places[0]
    layer = stack.view.layers[place.layer]
    try:
        source = layer.open_file(place.path, os.O_RDONLY | os.O_NONBLOCK)
    except PermissionError:
        return  # what we may not read, we cannot ask
    try:
        file = open_for_flags(copy)
        try:
            copy_flags(source, file, stack.family)
        finally:
            os.close(file)
    finally:
        os.close(source)


def _set_xattr(path: bytes, attribute: str, value: bytes) -> None:
    try:
        os.setxattr(path, attribute, value)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP or attribute.startswith(_ESSENTIAL):
            raise
