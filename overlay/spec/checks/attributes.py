"""File copyup by changing attributes and links (L122, L327–L328, L334–L337)."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

from overlay.spec.bench import LAYER_MTIME_NS, Bench, Lacks
from overlay.spec.checks import Observations, check

_CONTENT = b"content that chmod has no business with\n" * 50

# include/uapi/linux/fs.h, _IOR('f', 1, long) and _IOW('f', 2, long) on 64-bit architectures.
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_NODUMP_FL = 0x40


def _attribute(
    b: Bench, call: str, change: Callable[[Path], object], look: Callable[[Path], object]
) -> Observations:
    """``change`` a bottom file in the union; ``look`` must then see the same on the top."""
    bottom = b.file("dir/file", _CONTENT)
    before = look(bottom)
    b.mount()
    yield b.result(call, lambda: change(b.mnt / "dir/file"))
    after = look(b.mnt / "dir/file")
    moved = "changed" if after != before else "as before"
    yield b.same("attributes", f"what {call} changes", "changed", moved)
    yield b.copied_up("dir/file", _CONTENT)
    on_top = b.top / "dir/file"
    yield b.same("attributes", "on the top", after, look(on_top) if on_top.exists() else "nothing")
    yield b.reads("dir/file", _CONTENT)


@check("copyup.chmod")
def chmod(b: Bench) -> Observations:
    yield from _attribute(
        b, "chmod", lambda p: p.chmod(0o751), lambda p: f"{stat.S_IMODE(p.lstat().st_mode):o}"
    )


@check("copyup.chown")
def chown(b: Bench) -> Observations:
    def owner(path: Path) -> str:
        return f"{path.lstat().st_uid}:{path.lstat().st_gid}"

    yield from _attribute(b, "chown", lambda p: os.chown(p, 1234, 5678), owner)


@check("copyup.utimes")
def utimes(b: Bench) -> Observations:
    when = LAYER_MTIME_NS + 987_654_321_000
    yield from _attribute(
        b, "utimensat", lambda p: os.utime(p, ns=(when, when)), lambda p: p.lstat().st_mtime_ns
    )


@check("copyup.setxattr")
def setxattr(b: Bench) -> Observations:
    b.user_xattr(b.file("probe"), "user.probe", b"")

    def note(path: Path) -> str:
        return str(os.getxattr(path, "user.note")) if "user.note" in os.listxattr(path) else "none"

    yield from _attribute(b, "setxattr", lambda p: os.setxattr(p, "user.note", b"set"), note)


@check("copyup.chattr")
def chattr(b: Bench) -> Observations:
    try:
        _set_nodump(b.file("probe"))
    except OSError as error:
        raise Lacks(f"file attributes (chattr) on the layers ({error.strerror})") from None
    yield from _attribute(b, "chattr +d", _set_nodump, _nodump)


def _flags(fd: int) -> int:
    answer = fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(8))
    return int(struct.unpack("=I", answer[:4])[0])


def _nodump(path: Path) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return "nodump" if _flags(fd) & _FS_NODUMP_FL else "plain"
    finally:
        os.close(fd)


def _set_nodump(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("=II", _flags(fd) | _FS_NODUMP_FL, 0))
    finally:
        os.close(fd)


@check("copyup.symlink-itself")
def symlink_itself(b: Bench) -> Observations:
    b.file("target", b"target\n")
    (b.bottom / "link").symlink_to("target")
    b.mount()
    yield b.result("lchown link", lambda: os.lchown(b.mnt / "link", 12, 34))
    yield b.on_top("link", "symlink")
    yield b.on_top("target", "nothing")
    text = os.readlink(b.mnt / "link")
    yield b.same("view", "where link points", "target", text)
    yield b.same("attributes", "owner of link", 12, (b.mnt / "link").lstat().st_uid)


@check("copyup.special-files")
def special_files(b: Bench) -> Observations:
    os.mkfifo(b.bottom / "fifo")
    os.mknod(b.bottom / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    b.mount()
    for name, kind in (("fifo", "fifo"), ("null", "character device")):
        yield b.result(f"chmod {name}", partial(os.chmod, b.mnt / name, 0o600))
        yield b.on_top(name, kind)
        mode = stat.S_IMODE((b.mnt / name).lstat().st_mode)
        yield b.same("attributes", f"mode of {name}", "0o600", oct(mode))
    yield b.same("view", "number of null", "1:3", _number(b.mnt / "null"))


def _number(path: Path) -> str:
    device = path.lstat().st_rdev
    return f"{os.major(device)}:{os.minor(device)}"


@check("nonposix.hard-links")
def hard_links(b: Bench) -> Observations:
    b.file("one", b"linked\n")
    os.link(b.bottom / "one", b.bottom / "two")
    b.mount()
    with (b.mnt / "one").open("ab") as file:
        file.write(b"changed\n")
    yield b.reads("one", b"linked\nchanged\n")
    yield b.copied_up("one", b"linked\nchanged\n")
    yield b.reads("two", b"linked\n")
    yield b.on_top("two", "nothing")
