"""What stat() and readdir() say a thing is: attributes, inode number, link count.

The inode number is that of the file which the name leads to, on the layer it lies on: a
fallthru has its bottom file's (document L561–L563), in stat() and d_ino alike.  It
changes with a copyup, which makes a new file (L347–L350).
"""

from __future__ import annotations

import os

from overlay.layer import VANISHED
from overlay.linkindex import changed_stat
from overlay.stack import Stack
from overlay.view import Node

__all__ = ["shown"]


def shown(stack: Stack, node: Node) -> os.stat_result:
    """The attributes that the union shows of something.

    A merged directory has one link, which says that its subdirectories are not counted;
    after its directory copyup all are on the top, and the count is right (L631).
    """
    if node.is_dir:
        return changed_stat(node.st, st_nlink=1) if len(node.places) > 1 else node.st
    if node.marks.metacopy is None or node.data is None:
        return node.st
    try:
        with stack.at(node.data) as (fd, name):
            data = os.stat(name or b"", dir_fd=fd, follow_symlinks=False)
    except OSError as error:
        if error.errno in VANISHED:
            return node.st
        raise
    return changed_stat(node.st, st_ino=data.st_ino, st_dev=data.st_dev, st_blocks=data.st_blocks)
