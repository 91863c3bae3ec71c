"""Making a top stand by itself where it reads from another place of the bottoms.

A renamed directory reads what is in it from where it was, and so does a file that was
renamed without its data.  Before the bottoms are changed these are completed: the data are
copied to the top, and the redirect goes.  The union shows the same at every step.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from overlay import syscalls
from overlay.differences.difference import Difference
from overlay.duplicate import Duplicator, set_times
from overlay.inodeflags import mark_protected
from overlay.layer import Layer
from overlay.marks import clear_mark, place, set_opaque, temporary_name
from overlay.staging import Stage, keep_times
from overlay.view import Node, View

__all__ = ["elsewhere", "settle"]


def settle(view: View, top: Layer, stage: Stage, found: Iterable[tuple[bytes, Node]]) -> None:
    """Complete what reads from elsewhere: ``found``, in order, as :func:`elsewhere` told it."""
    duplicator = Duplicator(view, on_top=True)
    done: tuple[bytes, Node] | None = None
    for path, node in found:
        # Whatever is in a directory that is completed is completed with it.
        if done is None or not (done[1].is_dir and path.startswith(done[0] + b"/")):
            _complete(duplicator, top, stage, path, node)
            done = (path, node)


def elsewhere(difference: Difference) -> tuple[bytes, Node] | None:
    """What the top shows at a path, if it reads it from another place of the bottoms."""
    now, was = difference.now, difference.was
    if now is None or now.places[0].layer != 0:
        return None
    if now.is_dir:
        reads = len(now.places) > 1 and (was is None or now.places[1:] != was.places)
    else:
        reads = now.data is not None and now.data.layer > 0
        reads = reads and (was is None or now.data != was.data)
    return (difference.path, now) if reads else None


def _complete(duplicator: Duplicator, top: Layer, stage: Stage, path: bytes, node: Node) -> None:
    with top.parent(path) as (fd, name):
        if not node.is_dir and (node.st.st_nlink > 1 or "nlink" in node.marks.others):
            # Another name of it would keep the stub: its data come to where it is.
            _fill(duplicator, node, fd, name)
            return
        made = temporary_name()
        if node.is_dir:
            duplicator.tree(node, stage.fd, made)
            with stage.opened(made) as copy:
                set_opaque(copy, duplicator.family)
                set_times(copy, node.st)
        else:
            flags = duplicator.make(node, stage.fd, made)
            with stage.opened(made) as copy:
                mark_protected(copy, flags, duplicator.family)
        syscalls.syncfs(stage.fd)
        with keep_times(fd):
            place(stage.fd, made, fd, name, replace=True)


def _fill(duplicator: Duplicator, node: Node, dirfd: int, name: bytes) -> None:
    file = syscalls.open_beneath(dirfd, name, os.O_RDWR)
    try:
        duplicator.fill(node, file)
        set_times(file, node.st)
        os.fsync(file)
        # The mark goes last, and until then the data are not looked at.
        clear_mark(file, duplicator.family, "metacopy")
    finally:
        os.close(file)
