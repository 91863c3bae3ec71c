"""The matching directories of the top (document L276–L288, L451–L457).

A directory that is only on the bottom gets one on the top, with the same attributes, when
something in it is looked up or written.  It is made aside and put in its place whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from overlay.dressing import dress
from overlay.layer import exists
from overlay.stack import Directory, Stack

__all__ = ["times_kept", "top_directory"]


@contextmanager
def top_directory(stack: Stack, directory: Directory) -> Iterator[int]:
    """A directory's part on the top, open; it and those above are made where missing."""
    _make_matching(stack, directory)
    with stack.top.directory(directory.path) as fd:
        yield fd


def _make_matching(stack: Stack, directory: Directory) -> None:
    missing = []
    each: Directory | None = directory
    while each is not None and each.node.places[0].layer > 0:
        missing.append(each)
        each = each.above
    # A walk that knew less may have been overtaken by another: what is there is kept.
    for each in reversed(missing):
        assert each.above is not None  # the root is on every layer
        name = each.path.rpartition(b"/")[2]
        with stack.top.directory(each.above.path) as dirfd:
            if not exists(dirfd, name):
                with stack.aside.making() as made:
                    os.mkdir(made, 0o700, dir_fd=stack.aside.fd)
                    dress(stack, made, each.node)
                    with times_kept(dirfd):
                        stack.aside.put(made, dirfd, name, replace=False)


@contextmanager
def times_kept(dirfd: int) -> Iterator[None]:
    """A directory's times, set back: nothing changed in it for those who see the union."""
    st = os.fstat(dirfd)
    yield
    os.utime(dirfd, ns=(st.st_atime_ns, st.st_mtime_ns))
