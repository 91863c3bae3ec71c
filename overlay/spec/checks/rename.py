"""rename() (L129–L130, L512–L524): a whiteout for the source, and never a directory."""

from __future__ import annotations

import errno
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
    b.hard_link("one", "two")
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
    b.symlink("old/link", "file")
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


@check("rename.over-bottom-file")
def over_bottom_file(b: Bench) -> Observations:
    b.file("one", b"first\n")
    b.file("two", b"second\n")
    b.mount()
    yield b.result("rename one two", lambda: b.union.rename("one", "two"))
    yield b.on_top("one", "whiteout")
    yield b.absent("one")
    yield b.reads("two", b"first\n")
    b.union.unlink("two")
    yield b.on_top("two", "whiteout")


@check("rename.into-other-directory")
def into_other_directory(b: Bench) -> Observations:
    b.file("from/file", b"moved\n")
    b.file("from/other")
    b.file("to/there")
    b.mount()
    yield b.result("rename", lambda: b.union.rename("from/file", "to/file"))
    yield b.on_top("from/file", "whiteout")
    yield b.reads("to/file", b"moved\n")
    yield b.on_top("from/other", "nothing")
    yield b.lists("from", ("other",))
    yield b.lists("to", ("file", "there"))


@check("rename.top-directory")
def top_directory(b: Bench) -> Observations:
    b.file("file")
    b.mount()
    b.union.mkdir("new")
    b.write("new/inside", b"inside\n")
    yield b.result("rename", lambda: b.union.rename("new", "newer"), "EXDEV")
    yield b.reads("new/inside", b"inside\n")
    yield b.absent("newer")


@check("rename.refused-copies-nothing")
def refused_copies_nothing(b: Bench) -> Observations:
    b.file("file", b"here\n")
    b.file("dir/inside")
    b.mount()
    yield b.result("rename file dir", lambda: b.union.rename("file", "dir"), "EISDIR")
    yield b.result("rename file missing/x", lambda: b.union.rename("file", "missing/x"), "ENOENT")
    yield b.result("rename missing file", lambda: b.union.rename("missing", "file"), "ENOENT")
    yield b.reads("file", b"here\n")
    yield b.top_holds()


@check("rename.and-back")
def and_back(b: Bench) -> Observations:
    b.file("dir/file", b"moved\n")
    b.mount()
    b.union.rename("dir/file", "dir/elsewhere")
    yield b.on_top("dir/file", "whiteout")
    yield b.result("rename back", lambda: b.union.rename("dir/elsewhere", "dir/file"))
    yield b.on_top("dir/elsewhere", "nothing")
    yield b.reads("dir/file", b"moved\n")
    yield b.lists("dir", ("file",))
