"""File copyup by opening and truncating (L120–L121, L327–L333, L375–L380, L400–L404)."""

from __future__ import annotations

import os
from functools import partial

from overlay.spec.bench import Bench
from overlay.spec.checks import Observations, check
from overlay.spec.observe import Lacks

_CONTENT = b"".join(b"line %d\n" % number for number in range(1000))
_MIB = 1 << 20


def _opened(b: Bench, flags: int, expected: bytes) -> Observations:
    """Open with ``flags`` and close again: no write, yet the file must be on the top."""
    b.file("dir/file", _CONTENT)
    b.file("dir/other")
    b.mount()
    if flags & os.O_DIRECT:
        _needs_direct_io(b)
    with b.descriptor("dir/file", flags):
        yield b.copied_up("dir/file", expected)
    yield b.reads("dir/file", expected)
    yield b.top_holds("dir/file")


def _needs_direct_io(b: Bench) -> None:
    try:
        os.close(os.open(b.bottom / "dir/file", os.O_RDONLY | os.O_DIRECT))
        probe = b.top.parent / "probe"
        os.close(os.open(probe, os.O_RDWR | os.O_CREAT | os.O_DIRECT))
        probe.unlink()
    except OSError as error:
        raise Lacks(f"O_DIRECT on both layers ({error.strerror})") from None


for _name, _flags, _expected in (
    ("write-only", os.O_WRONLY, _CONTENT),
    ("read-write", os.O_RDWR, _CONTENT),
    ("direct", os.O_WRONLY | os.O_DIRECT, _CONTENT),
    ("truncate", os.O_RDONLY | os.O_TRUNC, b""),
):
    check(f"copyup.open.{_name}")(partial(_opened, flags=_flags, expected=_expected))


@check("copyup.open.append")
def append(b: Bench) -> Observations:
    b.file("log", b"old line\n")
    b.mount()
    with b.open("log", "ab") as file:
        yield b.copied_up("log", b"old line\n")
        file.write(b"new line\n")
    yield b.reads("log", b"old line\nnew line\n")
    yield b.copied_up("log", b"old line\nnew line\n")


@check("copyup.open.truncate-no-data")
def truncate_no_data(b: Bench) -> Observations:
    b.file("large", b"x" * (2 * _MIB))
    b.limit_top(_MIB)
    b.mount()
    yield b.result(
        "open(O_WRONLY|O_TRUNC) of 2 MiB with 1 MiB free on the top",
        lambda: b.open_and_close("large", os.O_WRONLY | os.O_TRUNC),
    )
    yield b.reads("large", b"")
    yield b.copied_up("large", b"")


def _truncated(b: Bench, size: int) -> Observations:
    """truncate() one file and ftruncate() another to ``size``."""
    expected = _CONTENT[:size].ljust(size, b"\0")
    for name in ("by-path", "by-descriptor"):
        b.file(name, _CONTENT)
    b.mount()
    yield b.result(f"truncate to {size}", lambda: b.union.truncate("by-path", size))
    with b.descriptor("by-descriptor", os.O_RDWR) as file:
        yield b.result(f"ftruncate to {size}", lambda: file.truncate(size))
    for name in ("by-path", "by-descriptor"):
        yield b.reads(name, expected)
        yield b.copied_up(name, expected)


for _name, _size in (
    ("zero", 0),
    ("less", len(_CONTENT) // 3),
    ("equal", len(_CONTENT)),
    ("beyond", 2 * len(_CONTENT) + 4097),
):
    check(f"copyup.truncate.{_name}")(partial(_truncated, size=_size))


@check("copyup.truncate.only-n-bytes")
def only_n_bytes(b: Bench) -> Observations:
    b.file("large", b"x" * (2 * _MIB))
    b.limit_top(_MIB)
    b.mount()
    yield b.result(
        "truncate of 2 MiB to 4096 bytes with 1 MiB free on the top",
        lambda: b.union.truncate("large", 4096),
    )
    yield b.reads("large", b"x" * 4096)
    yield b.copied_up("large", b"x" * 4096)


@check("copyup.whole-content")
def whole_content(b: Bench) -> Observations:
    # Odd sizes around copy buffers, a hole in the middle and one at the end.
    data = bytes(range(256)) * 4096 + bytes(196608) + b"tail" * 11 + bytes(70001)
    code = 'bytes(range(256)) * 4096 + bytes(196608) + b"tail" * 11 + bytes(70001)'
    b.sparse_file("image", data, code)
    b.mount()
    b.open_and_close("image", os.O_RDWR)
    yield b.reads("image", data)
    yield b.copied_up("image", data)


@check("copyup.same-properties")
def same_properties(b: Bench) -> Observations:
    path = b.file("file", b"content\n", mode=0o2750, owner=(12, 34))
    b.user_xattr(path, "user.note", b"kept")
    b.mount()
    b.open_and_close("file", os.O_RDWR)
    for where, layer in (("in the union", b.union), ("on the top", b.calls(b.top))):
        status = layer.lstat("file")
        yield b.same(
            "attributes",
            f"mode, owner and mtime {where}",
            f"102750 12 34 {path.lstat().st_mtime_ns}",
            f"{status.st_mode:o} {status.st_uid} {status.st_gid} {status.st_mtime_ns}",
        )
        try:
            note = layer.getxattr("file", "user.note").decode()
        except OSError as error:
            note = str(error.strerror)
        yield b.same("attributes", f"xattr user.note {where}", "kept", note)


@check("copyup.parents")
def parents(b: Bench) -> Observations:
    b.file("one/two/three/file", _CONTENT)
    b.file("one/two/other")
    b.own(b.bottom / "one/two", (12, 34))
    b.calls(b.bottom).chmod("one/two", 0o1771)
    b.mount()
    b.write("one/two/three/file", b"changed\n")
    for name in ("one", "one/two", "one/two/three"):
        yield b.on_top(name, "directory")
    status = b.calls(b.top).lstat("one/two")
    yield b.same(
        "attributes",
        "mode and owner of one/two on the top",
        "41771 12 34",
        f"{status.st_mode:o} {status.st_uid} {status.st_gid}",
    )
    yield b.top_holds("one/two/three/file")
    yield b.lists("one/two", ("other", "three"))


@check("copyup.open.create-existing")
def create_existing(b: Bench) -> Observations:
    b.file("dir/file", _CONTENT, mode=0o640)
    b.mount()
    yield b.result(
        "open(O_CREAT|O_WRONLY)",
        partial(b.open_and_close, "dir/file", os.O_CREAT | os.O_WRONLY),
    )
    yield b.copied_up("dir/file", _CONTENT)
    mode = b.union.lstat("dir/file").st_mode
    yield b.same("attributes", "mode of the file", "0o100640", oct(mode))
