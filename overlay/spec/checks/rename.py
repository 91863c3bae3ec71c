"""rename() (L129–L130, L512–L524): a whiteout for the source, and never a directory."""

from __future__ import annotations

import os
import shutil

from overlay.spec.bench import Bench
from overlay.spec.checks import Observations, check


@check("rename.top-only")
def top_only(b: Bench) -> Observations:
    b.file("dir/other")
    b.mount()
    (b.mnt / "dir/one").write_bytes(b"new\n")
    yield b.result("rename", lambda: os.rename(b.mnt / "dir/one", b.mnt / "dir/two"))
    yield b.absent("dir/one")
    yield b.reads("dir/two", b"new\n")
    yield b.copied_up("dir/two", b"new\n")
    yield b.on_top("dir/one", "nothing")


@check("rename.replaces-bottom")
def replaces_bottom(b: Bench) -> Observations:
    b.file("old", b"the bottom's\n")
    b.mount()
    (b.mnt / "new").write_bytes(b"replacement\n")
    yield b.result("rename new over old", lambda: os.rename(b.mnt / "new", b.mnt / "old"))
    yield b.reads("old", b"replacement\n")
    yield b.copied_up("old", b"replacement\n")
    yield b.absent("new")
    yield b.on_top("new", "nothing")
    (b.mnt / "old").unlink()
    yield b.absent("old")
    yield b.on_top("old", "whiteout")


@check("rename.moves-hard-link")
def moves_hard_link(b: Bench) -> Observations:
    b.file("one", b"linked\n")
    os.link(b.bottom / "one", b.bottom / "two")
    b.mount()
    yield b.result("rename one three", lambda: os.rename(b.mnt / "one", b.mnt / "three"))
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
    # What mv does: rename, and copy then remove where that answers EXDEV.
    yield b.result("mv old new", lambda: shutil.move(b.mnt / "old", b.mnt / "new"))
    yield b.absent("old")
    yield b.on_top("old", "whiteout")
    yield b.lists("new", ("file", "link", "sub"))
    yield b.reads("new/link", b"content\n")
    yield b.reads("new/sub/deep", b"deep\n")
