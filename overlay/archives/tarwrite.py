"""Items written as an OCI layer: a tar whose bytes depend on nothing but the layer.

Times are the files' own, owners are numbers.  What a header of 512 bytes cannot hold (long
or non-ASCII names, nanoseconds, large numbers, attributes) goes into a PAX header before it,
as the OCI image specification wants it.  Python's tarfile takes several times as long, and
cannot write attributes that are not text.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

from overlay.archives.item import OPAQUE_NAME, WHITEOUT_PREFIX, Item, of_stat
from overlay.errors import OperationFailed
from overlay.text import printable

__all__ = [
    "END",
    "became_shorter",
    "headers",
    "opaque_mark",
    "padding",
    "plain_headers",
    "whiteout",
    "write_content",
]

_BLOCK: Final = 512
_CHUNK: Final = 1 << 20
#: What a tar ends with.
END: Final = bytes(2 * _BLOCK)
_TYPES: Final = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
_DEVICES: Final = (stat.S_IFCHR, stat.S_IFBLK)
_MARK: Final = stat.S_IFREG | 0o644
#: The largest numbers in 7 and 11 octal digits.
_MAX_ID, _MAX_SIZE = 0o7777777, 0o77777777777
_USTAR: Final = b"ustar\00000".ljust(72, b"\0")


def whiteout(path: bytes) -> bytes:
    """The entry that hides ``path``."""
    above, slash, name = path.rpartition(b"/")
    path = above + slash + WHITEOUT_PREFIX + name
    if len(path) > 100 or not path.isascii():
        return headers(Item(path, mode=_MARK))
    return _header(path, _MARK_OWNER, _NO_NUMBERS, _MARK_REST)


def opaque_mark(path: bytes) -> bytes:
    """The entry that makes the directory ``path`` opaque."""
    return headers(Item(path + b"/" + OPAQUE_NAME, mode=_MARK))


def headers(item: Item) -> bytes:
    """All that comes before an item's content; it is no whiteout and no socket."""
    typeflag = b"1" if item.link is not None else _TYPES[stat.S_IFMT(item.mode)]
    path = item.path + b"/" if item.is_dir else item.path
    target = item.link if item.link is not None else item.target
    size = item.size if typeflag == b"0" else 0
    seconds, nanoseconds = divmod(item.mtime_ns, 10**9)
    records: list[tuple[bytes, bytes]] = []
    if nanoseconds or not 0 <= seconds <= _MAX_SIZE:
        records.append((b"mtime", _decimal(item.mtime_ns)))
    if size > _MAX_SIZE:
        records.append((b"size", b"%d" % size))
    if item.uid > _MAX_ID:
        records.append((b"uid", b"%d" % item.uid))
    if item.gid > _MAX_ID:
        records.append((b"gid", b"%d" % item.gid))
    if len(path) > 100 or not path.isascii():
        records.append((b"path", path))
    if len(target) > 100 or not target.isascii():
        records.append((b"linkpath", target))
    if item.link is None:
        for name, value in item.xattrs.items():
            records.append((b"SCHILY.xattr." + os.fsencode(name), value))
    owner = _owner(stat.S_IMODE(item.mode), min(item.uid, _MAX_ID), min(item.gid, _MAX_ID))
    numbers = b"%011o\0%011o\0" % (min(size, _MAX_SIZE), min(max(seconds, 0), _MAX_SIZE))
    header = _header(path, owner, numbers, _rest(typeflag, target[:100], item.rdev))
    if not records:
        return header
    body = b"".join([_record(*record) for record in sorted(records)])
    return _extended(item.path, body) + header


def plain_headers(path: bytes, st: os.stat_result, target: bytes = b"") -> bytes:
    """:func:`headers` of what has no attributes and no other name, from its lstat.

    Nearly everything is so, and fits into a header but for its nanoseconds.
    """
    mode = st.st_mode
    kind = stat.S_IFMT(mode)
    name = path + b"/" if kind == stat.S_IFDIR else path
    size = st.st_size if kind == stat.S_IFREG else 0
    seconds, nanoseconds = divmod(st.st_mtime_ns, 10**9)
    if not (
        len(name) <= 100
        and len(target) <= 100
        and st.st_uid <= _MAX_ID
        and st.st_gid <= _MAX_ID
        and size <= _MAX_SIZE
        and 0 <= seconds <= _MAX_SIZE
        and name.isascii()
        and target.isascii()
    ):
        item = of_stat(path, st)
        item.target = target
        return headers(item)
    owner = _owner(mode & 0o7777, st.st_uid, st.st_gid)
    rest = _rest(_TYPES[kind], target, st.st_rdev if kind in _DEVICES else 0)
    numbers = b"%011o\0%011o\0" % (size, seconds)
    if not nanoseconds or len(path) > _PAX_PATH:
        header = _header(name, owner, numbers, rest)
        return header if not nanoseconds else _extended(path, _time(seconds, nanoseconds)) + header
    # What _extended() and _header() make, at once: nearly all of an export's time goes here.
    body = _time(seconds, nanoseconds)
    extended = _extended_by(len(body))
    named = _sum(path)
    checksum = named + (_SLASH if kind == stat.S_IFDIR else 0) + _sum(numbers)
    return b"".join(
        (
            _PAX_NAME,
            path.ljust(100 - len(_PAX_NAME), b"\0"),
            extended.text,
            b"%06o\0 " % (named + extended.sum),
            _PAX_REST.text,
            body.ljust(_BLOCK, b"\0"),
            name.ljust(100, b"\0"),
            owner.text,
            numbers,
            b"%06o\0 " % (checksum + owner.sum + rest.sum + _SPACES),
            rest.text,
        )
    )


def padding(size: int) -> bytes:
    """What comes after content of ``size`` bytes."""
    return bytes(-size % _BLOCK)


def write_content(item: Item, write: Callable[[bytes], object]) -> None:
    """Write a regular file's content, padded; OperationFailed if it became shorter."""
    assert item.content is not None
    left = item.size
    with item.content() as content:
        while left:
            if isinstance(content, int):
                data = os.read(content, min(left, _CHUNK))
            else:
                data = content.read(min(left, _CHUNK))
            if not data:
                raise became_shorter(item.path)
            write(data)
            left -= len(data)
    write(padding(item.size))


def became_shorter(path: bytes) -> OperationFailed:
    """The error for a file that was cut while it was read."""
    return OperationFailed(
        f"{printable(path)} became shorter while it was read",
        hint="export a top that is not in use",
    )


class _Field(NamedTuple):
    """Part of a header, and what it adds to the checksum."""

    text: bytes
    sum: int


# The same in nearly every header of a layer.
@lru_cache(maxsize=1024)
def _owner(mode: int, uid: int, gid: int) -> _Field:
    text = b"%07o\0%07o\0%07o\0" % (mode, uid, gid)
    return _Field(text, sum(text))


@lru_cache(maxsize=1024)
def _rest(typeflag: bytes, target: bytes, device: int) -> _Field:
    """What comes after the checksum."""
    devices = b"%07o\0%07o\0" % (os.major(device), os.minor(device))
    text = typeflag + target.ljust(100, b"\0") + _USTAR + devices + bytes(167)
    return _Field(text, sum(text))


@lru_cache(maxsize=1024)
def _pax_numbers(size: int) -> bytes:
    """The size and time of a PAX header's records."""
    return b"%011o\0%011o\0" % (size, 0)


@lru_cache(maxsize=1024)
def _extended_by(size: int) -> _Field:
    """What is between the names and the checksums of PAX headers with so long records.

    Its sum is that of all but the path.
    """
    text = _PAX_OWNER.text + _pax_numbers(size)
    return _Field(text, sum(_PAX_NAME) + sum(text) + _PAX_REST.sum + _SPACES)


def _sum(text: bytes) -> int:
    # The lower half of an Adler-32 is one and the sum of the bytes, where that is below 65521.
    return (zlib.adler32(text) & 0xFFFF) - 1


def _time(seconds: int, nanoseconds: int) -> bytes:
    """:func:`_record` of a time that is no whole number of seconds: its length has two digits."""
    time = (b"%d.%09d" % (seconds, nanoseconds)).rstrip(b"0")
    return b"%d mtime=%b\n" % (len(time) + 10, time)


#: What PAX headers are called: this, and the end of the path.
_PAX_NAME: Final = b"PaxHeaders/"
_PAX_PATH: Final = 80
_SLASH: Final = ord("/")
_PAX_OWNER: Final = _owner(0o644, 0, 0)
_PAX_REST: Final = _rest(b"x", b"", 0)
_MARK_OWNER: Final = _owner(stat.S_IMODE(_MARK), 0, 0)
_MARK_REST: Final = _rest(_TYPES[stat.S_IFREG], b"", 0)
_NO_NUMBERS: Final = _pax_numbers(0)
#: The checksum counts itself as spaces.
_SPACES: Final = sum(b" " * 8)


def _extended(path: bytes, body: bytes) -> bytes:
    """What comes before the header of ``path`` if it has records: ``body``."""
    header = _header(_PAX_NAME + path[-_PAX_PATH:], _PAX_OWNER, _pax_numbers(len(body)), _PAX_REST)
    return header + body + padding(len(body))


def _header(path: bytes, owner: _Field, numbers: bytes, rest: _Field) -> bytes:
    """A header; ``numbers`` are its size and time."""
    path = path[:100]
    varies = _sum(path) + _sum(numbers)
    return b"%b%b%b%06o\0 %b" % (
        path.ljust(100, b"\0"),
        owner.text,
        numbers,
        varies + owner.sum + rest.sum + _SPACES,
        rest.text,
    )


def _record(key: bytes, value: bytes) -> bytes:
    """A PAX record; its length counts its own digits."""
    rest = len(key) + len(value) + 3
    size = rest
    while len(str(size)) + rest != size:
        size = len(str(size)) + rest
    return b"%d %b=%b\n" % (size, key, value)


def _decimal(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    seconds, fraction = divmod(abs(nanoseconds), 10**9)
    return sign + (b"%d.%09d" % (seconds, fraction)).rstrip(b"0").rstrip(b".")
