"""A difference as mtree(5): what the union has now at each path that changed, line by line.

The keywords are those of FreeBSD's and libarchive's mtree; what went is a comment.
"""

from __future__ import annotations

import hashlib
import os
import stat

from overlay.differences.changes import Difference
from overlay.layer import VANISHED
from overlay.view import Node, View

__all__ = ["HEADER", "line"]

HEADER = "#mtree\n"
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
_CHUNK = 1 << 20


def line(view: View, difference: Difference) -> str:
    """One line for one difference."""
    name = "./" + _encoded(difference.path)
    now = difference.now
    if now is None:
        return f"# gone: {name}\n"
    st = now.st
    seconds, nanoseconds = divmod(st.st_mtime_ns, 10**9)
    words = [
        name,
        f"type={_TYPES[stat.S_IFMT(st.st_mode)]}",
        f"mode={stat.S_IMODE(st.st_mode):04o}",
        f"uid={st.st_uid}",
        f"gid={st.st_gid}",
        f"time={seconds}.{nanoseconds:09}",
    ]
    if not now.is_dir:
        words.append(f"nlink={st.st_nlink}")
    if stat.S_ISREG(st.st_mode):
        words.append(f"size={st.st_size}")
        digest = _digest(view, now)
        if digest is not None:
            words.append(f"sha256digest={digest}")
    elif stat.S_ISLNK(st.st_mode):
        words.append(f"link={_encoded(_target(view, now))}")
    elif stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
        words.append(f"device=native,{os.major(st.st_rdev)},{os.minor(st.st_rdev)}")
    return " ".join(words) + "\n"


def _encoded(name: bytes) -> str:
    """As vis(3) writes a name: what is not plain as a backslash and three octal digits."""
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+,:@%^~"
    return "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in name)


def _digest(view: View, node: Node) -> str | None:
    if node.data is None:
        return None
    sha = hashlib.sha256()
    try:
        with open(view.open_data(node.data), "rb", buffering=0) as file:
            while data := file.read(_CHUNK):
                sha.update(data)
    except OSError as error:
        if error.errno in VANISHED:
            return None
        raise
    return sha.hexdigest()


def _target(view: View, node: Node) -> bytes:
    place = node.places[0]
    with view.layers[place.layer].parent(place.path) as (fd, name):
        return os.readlink(name, dir_fd=fd)
