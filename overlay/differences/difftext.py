"""A difference as patch(1) and people read it: unified, for what is text.

Everything else is told in a line beginning with a word, which patch passes over.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator

from overlay.differences.changes import Difference
from overlay.differences.comparing import Aspect, file_type
from overlay.layer import VANISHED
from overlay.text import printable
from overlay.view import Node, View

__all__ = ["unified"]

#: What is larger is not compared line by line.
_MOST = 4 << 20
_NOTHING = b"/dev/null"


def unified(view: View, difference: Difference) -> bytes:
    """The lines of one difference; those of all that went with a directory."""
    now, was, path = difference.now, difference.was, difference.path
    lines: list[bytes] = []
    change = difference.change
    if change.moved_from is not None:
        lines.append(_told("moved", path, f"from {printable(change.moved_from)}"))
    elif was is not None and (now is None or file_type(now) != file_type(was)):
        for inner, node in _tree(view, path, was):
            lines += _file(view, inner, None, node)
        if now is not None:
            lines += _file(view, path, now, None)
    else:
        lines += _file(view, path, now, was)
    what = change.what - {Aspect.CONTENT, Aspect.TIMES}
    if now is not None and was is not None and what:
        lines += _attributes(path, now, was, what)
    return b"".join(lines)


def _file(view: View, path: bytes, now: Node | None, was: Node | None) -> list[bytes]:
    node = now or was
    assert node is not None
    if not stat.S_ISREG(node.st.st_mode):
        if now is not None and was is not None:
            return []
        verb = "new" if was is None else "gone"
        return [_told(verb, path, str(file_type(node)))]
    new, old = _content(view, now), _content(view, was)
    if new is None or old is None:
        return [_told("binary", path, "differs")]
    if new == old:
        if now is None or was is None:  # an empty one, which has no lines
            return [_told("new" if was is None else "gone", path, "file")]
        return []
    first = _NOTHING if was is None else b"a/" + _name(path)
    second = _NOTHING if now is None else b"b/" + _name(path)
    found = difflib.diff_bytes(
        difflib.unified_diff,
        old.splitlines(keepends=True),
        new.splitlines(keepends=True),
        first,
        second,
    )
    return [
        line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n"
        for line in found
    ]


def _content(view: View, node: Node | None) -> bytes | None:
    """Text, or None for what is none, or too much, or gone."""
    if node is None:
        return b""
    if node.st.st_size > _MOST or node.data is None:
        return None
    try:
        with open(view.open_data(node.data), "rb") as file:
            data = file.read(_MOST + 1)
    except OSError as error:
        if error.errno in VANISHED:
            return None
        raise
    # Lines end in a newline and nothing else, for patch and diff.
    odd = any(each in data for each in (b"\0", b"\r", b"\v", b"\f", b"\x1c", b"\x1d", b"\x1e"))
    return None if odd or len(data) > _MOST else data


def _attributes(path: bytes, now: Node, was: Node, what: frozenset[Aspect]) -> list[bytes]:
    lines = []
    if Aspect.MODE in what:
        modes = (stat.S_IMODE(was.st.st_mode), stat.S_IMODE(now.st.st_mode))
        lines.append(_told("mode", path, f"{modes[0]:04o} → {modes[1]:04o}"))
    if Aspect.OWNER in what:
        before = f"{was.st.st_uid}:{was.st.st_gid}"
        lines.append(_told("owner", path, f"{before} → {now.st.st_uid}:{now.st.st_gid}"))
    if Aspect.XATTRS in what:
        lines.append(_told("xattrs", path, "differ"))
    return lines


def _tree(view: View, path: bytes, node: Node) -> Iterator[tuple[bytes, Node]]:
    yield path, node
    if node.is_dir:
        with view.open(node) as directory:
            for name in sorted(directory.names()):
                child = directory.lookup(name)
                if child is not None:
                    yield from _tree(view, path + b"/" + name, child)


def _told(verb: str, path: bytes, text: str) -> bytes:
    return f"{verb} {printable(path)}: {text}\n".encode()


def _name(path: bytes) -> bytes:
    """A name as it is, or where a newline or tab would end it, escaped."""
    if b"\n" in path or b"\t" in path:
        path = os.fsencode(printable(path))
    # A blank would end it for patch; as git does it.
    return path + b"\t" if b" " in path else path
