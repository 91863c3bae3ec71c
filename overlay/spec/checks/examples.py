"""The Examples table (L116–L130), row by row."""

from __future__ import annotations

import os
import stat
from functools import partial

from overlay.spec.bench import Bench
from overlay.spec.checks import Observations, check


@check("example.creat.new")
def creat_new(b: Bench) -> Observations:
    b.file("dir/other")
    b.mount()
    for name in ("newfile", "dir/newfile"):
        yield b.result(f"creat {name}", partial(b.write, name, b"new\n"))
        yield b.reads(name, b"new\n")
        yield b.copied_up(name, b"new\n")


@check("example.unlink.whiteout")
def unlink_whiteout(b: Bench) -> Observations:
    b.file("oldfile")
    b.file("dir/oldfile")
    b.mount()
    for name in ("oldfile", "dir/oldfile"):
        yield b.result(f"unlink {name}", partial(b.union.unlink, name))
        # Before the listing, whose directory copyup may make the whiteout redundant.
        yield b.on_top(name, "whiteout")
        yield b.absent(name)


@check("example.edit.copyup")
def edit(b: Bench) -> Observations:
    b.file("existingfile", b"one\ntwo\nthree\n")
    b.mount()
    with b.open("existingfile", "r+b") as file:
        yield b.copied_up("existingfile", b"one\ntwo\nthree\n")
        file.seek(4)
        file.write(b"TWO")
    yield b.reads("existingfile", b"one\nTWO\nthree\n")
    yield b.copied_up("existingfile", b"one\nTWO\nthree\n")


@check("example.mkdir.new")
def mkdir_new(b: Bench) -> Observations:
    b.file("dir/other")
    b.mount()
    for name in ("newdir", "dir/newdir"):
        yield b.result(f"mkdir {name}", partial(b.union.mkdir, name))
        yield b.lists(name, ())
        yield b.on_top(name, "directory")


@check("example.rmdir.whiteout")
def rmdir_whiteout(b: Bench) -> Observations:
    b.directory("olddir")
    b.mount()
    yield b.result("rmdir olddir", partial(b.union.rmdir, "olddir"))
    yield b.absent("olddir")
    yield b.on_top("olddir", "whiteout")


@check("example.mkdir.opaque")
def mkdir_opaque(b: Bench) -> Observations:
    b.file("olddir/inside")
    b.mount()
    b.union.unlink("olddir/inside")
    b.union.rmdir("olddir")
    yield b.result("mkdir olddir", partial(b.union.mkdir, "olddir"))
    yield b.lists("olddir", ())
    yield b.absent("olddir/inside")
    yield b.on_top("olddir", "opaque directory")


@check("example.readdir.fallthru")
def readdir_fallthru(b: Bench) -> Observations:
    b.file("shareddir/below")
    b.directory("shareddir/subdir")
    b.file("shareddir/above", b"top\n", on=b.top)
    b.mount()
    yield b.lists("shareddir", ("below", "subdir", "above"))
    yield b.on_top("shareddir/below", "file fallthru")
    yield b.on_top("shareddir/subdir", "directory fallthru")
    yield b.copied_up("shareddir/above", b"top\n")


@check("example.link.copyup")
def link_copyup(b: Bench) -> Observations:
    b.file("oldfile", b"linked\n")
    b.mount()
    yield b.result("link oldfile newlink", lambda: b.union.link("oldfile", "newlink"))
    for name in ("oldfile", "newlink"):
        yield b.reads(name, b"linked\n")
        yield b.copied_up(name, b"linked\n")
    one = os.path.samestat(b.union.stat("oldfile"), b.union.stat("newlink"))
    yield b.same("view", "oldfile and newlink", "one file", "one file" if one else "two files")


@check("example.symlink.nothing-special")
def symlink(b: Bench) -> Observations:
    b.file("oldfile", b"target\n")
    b.mount()
    yield b.result("symlink oldfile symlink", lambda: b.union.symlink("oldfile", "symlink"))
    yield b.reads("symlink", b"target\n")
    yield b.on_top("symlink", "symlink")
    yield b.on_top("oldfile", "nothing")


@check("example.rename.file")
def rename_file(b: Bench) -> Observations:
    b.file("oldfile", b"moved\n", mode=0o640, owner=(12, 34))
    b.mount()
    yield b.result("rename oldfile newfile", lambda: b.union.rename("oldfile", "newfile"))
    yield b.absent("oldfile")
    yield b.reads("newfile", b"moved\n")
    yield b.copied_up("newfile", b"moved\n")
    yield b.on_top("oldfile", "whiteout")
    status = b.union.lstat("newfile")
    observed = f"{stat.S_IMODE(status.st_mode):o} {status.st_uid} {status.st_gid}"
    yield b.same("attributes", "mode and owner of newfile", "640 12 34", observed)


@check("example.rename.directory")
def rename_directory(b: Bench) -> Observations:
    b.file("olddir/inside", b"inside\n")
    b.mount()
    yield b.result("rename olddir newdir", lambda: b.union.rename("olddir", "newdir"), "EXDEV")
    yield b.reads("olddir/inside", b"inside\n")
    yield b.absent("newdir")
