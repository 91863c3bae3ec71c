"""Items written as an OCI layer: a tar whose bytes depend on nothing but the layer.

Entries are sorted, times are the files' own, owners are numbers.  What a header of 512
bytes cannot hold (long or non-ASCII names, nanoseconds, large numbers, attributes) goes
into a PAX header before it, as the OCI image specification wants it.  Python's tarfile
takes several times as long, and cannot write attributes that are not text.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from typing import Final

from overlay.errors import OperationFailed
from overlay.layeritem import OPAQUE_NAME, WHITEOUT_PREFIX, Item, check_name
from overlay.text import printable

__all__ = ["write_tar"]

_BLOCK: Final = 512
_CHUNK: Final = 1 << 20
_TYPES: Final = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
_MARK: Final = stat.S_IFREG | 0o644
#: The largest numbers in 7 and 11 octal digits.
_MAX_ID, _MAX_SIZE = 0o7777777, 0o77777777777


def write_tar(
    items: Iterable[Item], write: Callable[[bytes], object], tell: Callable[[int], None]
) -> tuple[int, int]:
    """Write a tar; how many entries it has, and how many were sockets, which it cannot hold.

    ``tell`` is called with 1 for each entry.
    """
    count = skipped = 0
    for item in items:
        if stat.S_ISSOCK(item.mode):
            skipped += 1
            continue
        if item.whiteout:
            above, slash, name = item.path.rpartition(b"/")
            _entry(Item(above + slash + WHITEOUT_PREFIX + name, mode=_MARK), write)
        else:
            check_name(item)
            _entry(item, write)
            if item.opaque:
                _entry(Item(item.path + b"/" + OPAQUE_NAME, mode=_MARK), write)
                count += 1
        count += 1
        tell(1)
    write(bytes(2 * _BLOCK))
    return count, skipped


def _entry(item: Item, write: Callable[[bytes], object]) -> None:
    kind = stat.S_IFMT(item.mode)
    typeflag = b"1" if item.link is not None else _TYPES[kind]
    path = item.path + b"/" if item.is_dir else item.path
    target = item.link if item.link is not None else item.target
    size = item.size if typeflag == b"0" else 0
    seconds, nanoseconds = divmod(item.mtime_ns, 10**9)
    records: list[tuple[bytes, bytes]] = []
    if nanoseconds or not 0 <= seconds <= _MAX_SIZE:
        records.append((b"mtime", _decimal(item.mtime_ns)))
    records += [
        (key, b"%d" % value)
        for key, value, limit in (
            (b"size", size, _MAX_SIZE),
            (b"uid", item.uid, _MAX_ID),
            (b"gid", item.gid, _MAX_ID),
        )
        if value > limit
    ]
    if len(path) > 100 or not path.isascii():
        records.append((b"path", path))
    if len(target) > 100 or not target.isascii():
        records.append((b"linkpath", target))
    if item.link is None:
        records += [
            (b"SCHILY.xattr." + os.fsencode(name), value) for name, value in item.xattrs.items()
        ]
    if records:
        body = b"".join(_record(key, value) for key, value in sorted(records))
        write(_header(b"PaxHeaders/" + path.rstrip(b"/")[-80:], b"x", size=len(body)))
        write(_padded(body))
    write(
        _header(
            path,
            typeflag,
            mode=stat.S_IMODE(item.mode),
            owner=(min(item.uid, _MAX_ID), min(item.gid, _MAX_ID)),
            size=min(size, _MAX_SIZE),
            mtime=min(max(seconds, 0), _MAX_SIZE),
            target=target,
            device=item.rdev,
        )
    )
    if size:
        _content(item, size, write)


def _content(item: Item, size: int, write: Callable[[bytes], object]) -> None:
    assert item.content is not None
    left = size
    with item.content() as content:
        while left:
            if isinstance(content, int):
                data = os.read(content, min(left, _CHUNK))
            else:
                data = content.read(min(left, _CHUNK))
            if not data:
                raise OperationFailed(
                    f"{printable(item.path)} became shorter while it was read",
                    hint="export a top that is not in use",
                )
            write(data)
            left -= len(data)
    write(bytes(-size % _BLOCK))


def _header(
    path: bytes,
    typeflag: bytes,
    *,
    mode: int = 0o644,
    owner: tuple[int, int] = (0, 0),
    size: int = 0,
    mtime: int = 0,
    target: bytes = b"",
    device: int = 0,
) -> bytes:
    block = b"".join(
        (
            path[:100].ljust(100, b"\0"),
            b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, *owner, size, mtime),
            b"        ",
            typeflag,
            target[:100].ljust(100, b"\0"),
            b"ustar\00000".ljust(72, b"\0"),
            b"%07o\0%07o\0" % (os.major(device), os.minor(device)),
        )
    ).ljust(_BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _record(key: bytes, value: bytes) -> bytes:
    """A PAX record; its length counts its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    size = len(rest)
    while len(b"%d" % size) + len(rest) != size:
        size = len(b"%d" % size) + len(rest)
    return b"%d" % size + rest


def _decimal(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    seconds, fraction = divmod(abs(nanoseconds), 10**9)
    return sign + (b"%d.%09d" % (seconds, fraction)).rstrip(b"0").rstrip(b".")


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _BLOCK)
