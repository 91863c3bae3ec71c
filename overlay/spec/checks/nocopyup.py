"""What must not copy a file up (L286–L288, L339–L345): reading, looking, and making others."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import partial

from overlay.spec.bench import Bench
from overlay.spec.checks import Observations, check
from overlay.spec.observe import Lacks


def _tree(b: Bench) -> None:
    for name in ("file", "dir/file", "dir/sub/file"):
        b.file(name, b"bottom content\n")
    b.directory("dir/empty")
    b.symlink("link", "file")
    b.mount()


@check("nocopyup.open.read-only")
def read_only(b: Bench) -> Observations:
    _tree(b)
    for name in ("file", "dir/file", "dir/sub/file"):
        yield b.reads(name, b"bottom content\n")
    yield b.top_holds()


@check("nocopyup.open.read-only-flags")
def read_only_flags(b: Bench) -> Observations:
    _tree(b)
    flags = {"O_APPEND": os.O_APPEND, "O_DIRECT": os.O_DIRECT, "O_PATH": os.O_PATH}
    try:
        os.close(os.open(b.bottom / "file", os.O_DIRECT))
    except OSError:
        del flags["O_DIRECT"]
    for name, flag in flags.items():
        yield b.result(
            f"open(O_RDONLY|{name})",
            partial(b.open_and_close, "file", os.O_RDONLY | flag),
        )
    yield b.top_holds()


@check("nocopyup.stat")
def looking(b: Bench) -> Observations:
    _tree(b)
    calls: dict[str, Callable[[], object]] = {
        "stat": partial(b.union.stat, "dir/file"),
        "lstat": partial(b.union.lstat, "link"),
        "access(W_OK)": lambda: b.union.access("dir/file", os.W_OK),
        "readlink": partial(b.union.readlink, "link"),
        "listxattr": partial(b.union.listxattr, "dir/file"),
        "statfs": b.union.statvfs,
    }
    for name, call in calls.items():
        yield b.result(name, call)
    yield b.top_holds()


@check("nocopyup.readdir")
def listing(b: Bench) -> Observations:
    _tree(b)
    yield b.lists("dir", ("file", "sub", "empty"))
    yield b.lists("dir/sub", ("file",))
    held = b.files_with_data()
    yield b.same("marks", "files on the top with data", "none", held)


@check("nocopyup.create")
def creating(b: Bench) -> Observations:
    _tree(b)
    calls: dict[str, Callable[[], object]] = {
        "creat": lambda: b.open_and_close("dir/creat", os.O_CREAT | os.O_EXCL),
        "mkdir": partial(b.union.mkdir, "dir/mkdir"),
        "mkfifo": lambda: b.union.mknod("dir/mkfifo", stat.S_IFIFO | 0o644),
        "mknod": lambda: b.union.mknod("dir/mknod", stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    }
    for name, call in calls.items():
        yield b.result(name, call)
    for name, kind in (("creat", "file"), ("mkfifo", "fifo"), ("mknod", "character device")):
        yield b.on_top(f"dir/{name}", kind)
    for neighbour in ("file", "dir/file", "dir/sub", "dir/empty"):
        yield b.on_top(neighbour, "nothing")
    yield b.lists("dir", ("file", "sub", "empty", *calls))


@check("nocopyup.symlink")
def symlinking(b: Bench) -> Observations:
    _tree(b)
    yield b.result("symlink", lambda: b.union.symlink("file", "dir/symlink"))
    yield b.top_holds("dir/symlink")


@check("nocopyup.remove")
def removing(b: Bench) -> Observations:
    # More than the top can hold: a copyup before the whiteout would fail.
    b.file("dir/large", b"x" * (2 << 20))
    b.directory("dir/empty")
    b.limit_top(1 << 20)
    b.mount()
    yield b.result(
        "unlink of 2 MiB with 1 MiB free on the top", partial(b.union.unlink, "dir/large")
    )
    yield b.result("rmdir", partial(b.union.rmdir, "dir/empty"))
    yield b.on_top("dir/large", "whiteout")
    yield b.on_top("dir/empty", "whiteout")


@check("atime.top")
def atime_top(b: Bench) -> Observations:
    b.file("above", b"top\n", on=b.top)
    before = b.access_time(b.top / "above")
    b.mount()
    yield b.reads("above", b"top\n")
    after = b.access_time(b.top / "above")
    moved = "as before" if after == before else "updated"
    yield b.same("attributes", "access time of a top file that was read", "as before", moved)


@check("atime.bottom")
def atime_bottom(b: Bench) -> Observations:
    # A relatime file system updates an access time that isn't after the modification.
    probe = b.file("probe")
    before = probe.lstat().st_atime_ns
    probe.read_bytes()
    if probe.lstat().st_atime_ns == before:
        raise Lacks("a bottom whose file system updates access times")
    bottom = b.file("file")
    before = b.access_time(bottom)
    b.mount()
    yield b.reads("file", b"bottom\n")
    moved = "as before" if b.access_time(bottom) == before else "updated"
    yield b.same("attributes", "access time of a bottom file that was read", "as before", moved)
    yield b.top_holds()


@check("nocopyup.create-exclusive")
def create_exclusive(b: Bench) -> Observations:
    _tree(b)
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    calls: dict[str, Callable[[], object]] = {
        "open(O_CREAT|O_EXCL)": lambda: b.open_and_close("dir/file", flags),
        "mkdir": lambda: b.union.mkdir("dir/sub"),
        "symlink": lambda: b.union.symlink("x", "dir/file"),
        "mknod": lambda: b.union.mknod("dir/file", stat.S_IFIFO | 0o600),
        "link": lambda: b.union.link("file", "dir/file"),
    }
    for name, call in calls.items():
        yield b.result(f"{name} of a name on the bottom", call, "EEXIST")
    yield b.top_holds()
