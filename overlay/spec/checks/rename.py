"""rename() (L129–L130, L512–L524): a whiteout for the source, and never a directory."""

from __future__ import annotations

import errno
import os
import stat

from overlay.spec.bench import Bench
from overlay.spec.checks import Observations, check


@check("rename.top-only")
def top_only(b: Bench) -> Observations:
    b.file("dir/other")
    b.mount()
    b.write("dir/one", b"new\n")
    yield b.result("rename", lambda: b.union.rename("dir/one", "dir/two"))
    yield b.absent("dir/one")
    yield b.reads("dir/two", b"new\n")
    yield b.copied_up("dir/two", b"new\n")
    yield b.on_top("dir/one", "nothing")


@check("rename.replaces-bottom")
def replaces_bottom(b: Bench) -> Observations:
    b.file("old", b"the bottom's\n")
    b.mount()
    b.write("new", b"replacement\n")
    yield b.result("rename new over old", lambda: b.union.rename("new", "old"))
    yield b.reads("old", b"replacement\n")
    yield b.copied_up("old", b"replacement\n")
    yield b.absent("new")
    yield b.on_top("new", "nothing")
    b.union.unlink("old")
    yield b.absent("old")
    yield b.on_top("old", "whiteout")


@check("rename.moves-hard-link")
def moves_hard_link(b: Bench) -> Observations:
    b.file("one", b"linked\n")
    os.link(b.bottom / "one", b.bottom / "two")
    b.mount()
    yield b.result("rename one three", lambda: b.union.rename("one", "three"))
    yield b.absent("one")
    yield b.on_top("one", "whiteout")
    yield b.reads("three", b"linked\n")
    yield b.copied_up("three", b"linked\n")
    yield b.reads("two", b"linked\n")


@check("rename.directory-fallback")
def directory_fallback(b: Bench) -> Observations:
    b.file("old/file", b"content\n", mode=0o640)
    b.file("old/sub/deep", b"deep\n")
    (b.bottom / "old/link").symlink_to("file")
    b.mount()
    yield b.result("mv old new", lambda: _move(b, "old", "new"))
    yield b.absent("old")
    yield b.on_top("old", "whiteout")
    yield b.lists("new", ("file", "link", "sub"))
    yield b.reads("new/link", b"content\n")
    yield b.reads("new/sub/deep", b"deep\n")


def _move(b: Bench, old: str, new: str) -> None:
    """What mv does: rename, and where that answers EXDEV copy, then remove."""
    try:
        b.union.rename(old, new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        status = b.union.lstat(old)
        if stat.S_ISDIR(status.st_mode):
            b.union.mkdir(new, stat.S_IMODE(status.st_mode))
            for name in b.names(old):
                _move(b, f"{old}/{name}", f"{new}/{name}")
            b.union.rmdir(old)
        else:
            b.write(new, b.read(old))
            b.union.unlink(old)
