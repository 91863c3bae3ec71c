"""File copyup by changing attributes and links (L122, L327–L328, L334–L337)."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

from overlay.spec.bench import LAYER_MTIME_NS, Bench
from overlay.spec.checks import Observations, check
from overlay.spec.observe import Lacks, attempt, errno_name
from overlay.spec.recording import RecordedCalls

_FILE = "dir/file"
_CONTENT = b"content that chmod has no business with\n" * 50


def _attribute(
    b: Bench,
    call: str,
    change: Callable[[RecordedCalls], object],
    look: Callable[[RecordedCalls], object],
) -> Observations:
    """``change`` a bottom file in the union; ``look`` must then see the same on the top."""
    b.file(_FILE, _CONTENT)
    before = look(b.calls(b.bottom))
    b.mount()
    yield b.result(call, lambda: change(b.union))
    after = look(b.union)
    moved = "changed" if after != before else "as before"
    yield b.same("attributes", f"what {call} changes", "changed", moved)
    yield b.copied_up(_FILE, _CONTENT)
    on_top = look(b.calls(b.top)) if (b.top / _FILE).exists() else "nothing"
    yield b.same("attributes", "on the top", after, on_top)
    yield b.reads(_FILE, _CONTENT)


@check("copyup.chmod")
def chmod(b: Bench) -> Observations:
    yield from _attribute(
        b,
        "chmod",
        lambda calls: calls.chmod(_FILE, 0o751),
        lambda calls: f"{stat.S_IMODE(calls.lstat(_FILE).st_mode):o}",
    )


@check("copyup.chown")
def chown(b: Bench) -> Observations:
    def owner(calls: RecordedCalls) -> str:
        status = calls.lstat(_FILE)
        return f"{status.st_uid}:{status.st_gid}"

    yield from _attribute(b, "chown", lambda calls: calls.chown(_FILE, 1234, 5678), owner)


@check("copyup.utimes")
def utimes(b: Bench) -> Observations:
    when = LAYER_MTIME_NS + 987_654_321_000
    yield from _attribute(
        b,
        "utimensat",
        lambda calls: calls.utime(_FILE, (when, when)),
        lambda calls: calls.lstat(_FILE).st_mtime_ns,
    )


@check("copyup.setxattr")
def setxattr(b: Bench) -> Observations:
    b.user_xattr(b.file("probe"), "user.probe", b"")

    def note(calls: RecordedCalls) -> str:
        listed = "user.note" in calls.listxattr(_FILE)
        return str(calls.getxattr(_FILE, "user.note")) if listed else "none"

    yield from _attribute(
        b, "setxattr", lambda calls: calls.setxattr(_FILE, "user.note", b"set"), note
    )


@check("copyup.chattr")
def chattr(b: Bench) -> Observations:
    b.file(_FILE, _CONTENT)
    for layer in (b.bottom, b.top):
        _needs_flags(b, b.file("probe", on=layer))
    _look_for_own_flags(b)
    b.needs_mount("an ioctl needs a descriptor that stands for the union's file")
    yield from _attribute(
        b,
        "chattr +d",
        lambda calls: calls.set_nodump(_FILE),
        lambda calls: "nodump" if calls.nodump(_FILE) else "plain",
    )


def _needs_flags(b: Bench, path: Path) -> None:
    try:
        b.calls(path.parent).set_nodump(path.name)
    except OSError as error:
        raise Lacks(f"file attributes (chattr) on both layers ({error.strerror})") from None


def _look_for_own_flags(b: Bench) -> None:
    """Whether the top's file system refuses flags that files of the bottom's have."""
    try:
        b.calls(b.top).set_flags("probe", b.calls(b.bottom).flags("probe"))
    except OSError:
        b.found("flags-of-the-bottom")


@check("copyup.symlink-itself")
def symlink_itself(b: Bench) -> Observations:
    b.file("target", b"target\n")
    b.symlink("link", "target")
    b.mount()
    yield b.result("lchown link", lambda: b.union.chown("link", 12, 34, follow=False))
    yield b.on_top("link", "symlink")
    yield b.on_top("target", "nothing")
    text = b.union.readlink("link")
    yield b.same("view", "where link points", "target", os.fsdecode(text))
    yield b.same("attributes", "owner of link", 12, b.union.lstat("link").st_uid)


@check("copyup.special-files")
def special_files(b: Bench) -> Observations:
    b.fifo("fifo")
    b.null_device("null")
    b.mount()
    for name, kind in (("fifo", "fifo"), ("null", "character device")):
        yield b.result(f"chmod {name}", partial(b.union.chmod, name, 0o600))
        yield b.on_top(name, kind)
        mode = stat.S_IMODE(b.union.lstat(name).st_mode)
        yield b.same("attributes", f"mode of {name}", "0o600", oct(mode))
    yield b.same("view", "number of null", "1:3", _number(b.union.lstat("null")))


def _number(status: os.stat_result) -> str:
    device = status.st_rdev
    return f"{os.major(device)}:{os.minor(device)}"


@check("nonposix.hard-links")
def hard_links(b: Bench) -> Observations:
    b.file("one", b"linked\n")
    b.hard_link("one", "two")
    b.mount()
    with b.open("one", "ab") as file:
        file.write(b"changed\n")
    yield b.reads("one", b"linked\nchanged\n")
    yield b.copied_up("one", b"linked\nchanged\n")
    yield b.reads("two", b"linked\n")
    yield b.on_top("two", "nothing")


@check("copyup.removexattr")
def removexattr(b: Bench) -> Observations:
    b.user_xattr(b.file(_FILE, _CONTENT), "user.note", b"to go")
    b.user_xattr(b.bottom / _FILE, "user.other", b"stays")
    b.mount()
    yield b.result("removexattr", lambda: b.union.removexattr(_FILE, "user.note"))
    for where, calls in (("union", b.union), ("top", b.calls(b.top))):
        try:
            names = " ".join(name for name in calls.listxattr(_FILE) if name.startswith("user.n"))
            other = calls.getxattr(_FILE, "user.other").decode()
        except OSError as error:
            names, other = errno_name(error), "gone"
        yield b.same("attributes", f"user.note on the {where}", "", names)
        yield b.same("attributes", f"user.other on the {where}", "stays", other)
    yield b.copied_up(_FILE, _CONTENT)


@check("copyup.by-descriptor")
def by_descriptor(b: Bench) -> Observations:
    b.needs_mount("a descriptor that stands for the union's file")
    b.file(_FILE, _CONTENT)
    b.mount()
    with b.descriptor(_FILE, os.O_RDONLY) as file:
        yield b.on_top(_FILE, "nothing")
        yield b.result("fchmod", lambda: file.chmod(0o751))
        yield b.result("fchown", lambda: file.chown(12, 34))
        yield b.result("futimens", lambda: file.utime((5, 7)))
    yield b.copied_up(_FILE, _CONTENT)
    status = b.union.lstat(_FILE)
    observed = f"{status.st_mode:o} {status.st_uid} {status.st_gid} {status.st_mtime_ns}"
    yield b.same("attributes", "mode, owner and mtime", "100751 12 34 7", observed)


@check("copyup.directory-attributes")
def directory_attributes(b: Bench) -> Observations:
    b.file("dir/sub/file")
    b.file("dir/other")
    b.mount()
    yield b.result("chmod dir/sub", lambda: b.union.chmod("dir/sub", 0o700))
    yield b.result("chown dir/sub", lambda: b.union.chown("dir/sub", 12, 34))
    yield b.on_top("dir/sub", "directory")
    for where, calls in (("union", b.union), ("top", b.calls(b.top))):
        try:
            status = calls.lstat("dir/sub")
            observed = f"{status.st_mode:o} {status.st_uid} {status.st_gid}"
        except OSError as error:
            observed = errno_name(error)
        yield b.same("attributes", f"mode and owner in the {where}", "40700 12 34", observed)
    yield b.top_holds()
    yield b.lists("dir/sub", ("file",))


@check("nonposix.no-space-removal")
def no_space_removal(b: Bench) -> Observations:
    b.file("gone")
    b.directory("gone-dir")
    b.limit_top(1 << 20, inodes=16)
    b.mount()
    for number in range(64):
        if attempt(partial(b.write, f"fills-{number}", b"")) != "succeeds":
            break
    for name, call in (("gone", b.union.unlink), ("gone-dir", b.union.rmdir)):
        answer = attempt(partial(call, name))
        there = attempt(partial(b.union.lstat, name)) == "succeeds"
        consistent = there if answer in {"ENOSPC", "EIO"} else answer == "succeeds" and not there
        yield b.same(
            "result",
            f"removing {name} over a top without free inodes",
            "done, or ENOSPC or EIO and nothing changed",
            "done, or ENOSPC or EIO and nothing changed"
            if consistent
            else f"{answer}, and it is {'still there' if there else 'gone'}",
        )
