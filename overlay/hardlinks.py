"""Bottom files with several names, in directories that are built aside.

The names share one stub, so that they stay one file (document L631), and that works only
if all of them appear at once: when each was found in the tree that one rename brings into
sight.  Where one is missing (it lies elsewhere, or the top has changed it), the
directories with the others stay merged, for overlayfs itself to keep them together.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from overlay import marks
from overlay.layer import VANISHED, directory_beneath, scan
from overlay.priming.bottomlist import FAMILY
from overlay.priming.fallthrus import Filled, Filler, Link, dress_directory

__all__ = ["ELSEWHERE", "Settled", "kept_quiet", "make_one_file", "settle"]

ELSEWHERE = "a file in it has another name outside of it"


@dataclass(slots=True)
class Settled:
    """Entries made for hard links, less those that went with ``left``: targets that stay merged.

    ``demoted`` counts those of them that had been completed before.
    """

    entries: int = 0
    demoted: int = 0
    left: dict[bytes, str] = field(default_factory=dict)


def settle(filler: Filler, filled: Filled) -> Settled:
    """Make the stubs that were put off, and empty the directories that stay merged."""
    result = Settled()
    for task, reason in filled.failed:
        result.left[task.target] = reason
    groups: dict[tuple[bytes, tuple[int, int]], list[Link]] = defaultdict(list)
    for link in filled.links:
        groups[link.target.partition(b"/")[0], link.file].append(link)
    whole = [links for links in groups.values() if len(links) == links[0].nlink]
    apart = [links for links in groups.values() if len(links) != links[0].nlink]
    # What stays merged may hold names of other files, whose other names then can't be made.
    while apart:
        for links in apart:
            for link in links:
                result.left.setdefault(_directory(link), ELSEWHERE)
        apart = [links for links in whole if any(_directory(link) in result.left for link in links)]
        whole = [
            links for links in whole if all(_directory(link) not in result.left for link in links)
        ]
    for links in whole:
        make_one_file(filler, links)
        result.entries += len(links)
    for task, _ in filled.failed:
        place = task.places[0]
        if b"/" in task.target:
            with (
                directory_beneath(filler.root, task.target) as target,
                filler.view.layers[place.layer].directory(place.path) as source,
            ):
                marks.set_redirect(target, FAMILY, task.path)
                dress_directory(target, source)
    result.demoted = len(result.left) - len(filled.failed)
    for path in sorted(result.left, key=len, reverse=True):
        result.entries -= _demote(filler.root, path)
    return result


def _directory(link: Link) -> bytes:
    return link.target.rpartition(b"/")[0]


def make_one_file(filler: Filler, links: list[Link]) -> None:
    """One stub with all the names of ``links``, which are those of one bottom file."""
    first, *others = links
    made_in, _, made = first.target.rpartition(b"/")
    with kept_quiet(filler.root, made_in) as here:
        for place in first.places:
            with filler.view.layers[place.layer].directory(place.path) as source:
                name = first.path.rpartition(b"/")[2]
                try:
                    st = os.stat(name, dir_fd=source, follow_symlinks=False)
                except OSError as error:
                    if error.errno not in VANISHED:
                        raise
                    continue
                filler.make(here, (name, st, source), first.path)
                break
        for link in others:
            directory, _, name = link.target.rpartition(b"/")
            with kept_quiet(filler.root, directory) as there:
                os.link(made, name, src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)


def _demote(root: int, path: bytes) -> int:
    """Let a directory aside be merged again: only what was copied up below it stays.

    Returns how many entries went.
    """
    gone = 0
    try:
        with kept_quiet(root, path) as fd:
            for name, st in list(scan(fd)):
                if not stat.S_ISDIR(st.st_mode):
                    os.unlink(name, dir_fd=fd)
                elif marks.read_marks(fd, name, st, FAMILY).opaque:
                    continue
                else:
                    try:
                        os.rmdir(name, dir_fd=fd)
                    except OSError:
                        continue
                gone += 1
            marks.clear_mark(fd, FAMILY, "opaque")
    except FileNotFoundError:
        pass  # it went with the directory above it
    return gone


@contextmanager
def kept_quiet(root: int, path: bytes) -> Iterator[int]:
    """A directory that has the same times afterwards."""
    with directory_beneath(root, path) as fd:
        st = os.fstat(fd)
        yield fd
        os.utime(fd, ns=(st.st_atime_ns, st.st_mtime_ns))
