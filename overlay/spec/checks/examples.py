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
        yield b.result(f"creat {name}", partial((b.mnt / name).write_bytes, b"new\n"))
        yield b.reads(name, b"new\n")
        yield b.copied_up(name, b"new\n")


@check("example.unlink.whiteout")
def unlink_whiteout(b: Bench) -> Observations:
    b.file("oldfile")
    b.file("dir/oldfile")
    b.mount()
    for name in ("oldfile", "dir/oldfile"):
        yield b.result(f"unlink {name}", (b.mnt / name).unlink)
        yield b.absent(name)
        yield b.on_top(name, "whiteout")


@check("example.edit.copyup")
def edit(b: Bench) -> Observations:
    b.file("existingfile", b"one\ntwo\nthree\n")
    b.mount()
    with (b.mnt / "existingfile").open("r+b") as file:
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
        yield b.result(f"mkdir {name}", (b.mnt / name).mkdir)
        yield b.lists(name, ())
        yield b.on_top(name, "directory")


@check("example.rmdir.whiteout")
def rmdir_whiteout(b: Bench) -> Observations:
    b.directory("olddir")
    b.mount()
    yield b.result("rmdir olddir", (b.mnt / "olddir").rmdir)
    yield b.absent("olddir")
    yield b.on_top("olddir", "whiteout")


@check("example.mkdir.opaque")
def mkdir_opaque(b: Bench) -> Observations:
    b.file("olddir/inside")
    b.mount()
    (b.mnt / "olddir/inside").unlink()
    (b.mnt / "olddir").rmdir()
    yield b.result("mkdir olddir", (b.mnt / "olddir").mkdir)
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
    yield b.result("link oldfile newlink", lambda: os.link(b.mnt / "oldfile", b.mnt / "newlink"))
    for name in ("oldfile", "newlink"):
        yield b.reads(name, b"linked\n")
        yield b.copied_up(name, b"linked\n")
    one = os.path.samefile(b.mnt / "oldfile", b.mnt / "newlink")
    yield b.same("view", "oldfile and newlink", "one file", "one file" if one else "two files")


@check("example.symlink.nothing-special")
def symlink(b: Bench) -> Observations:
    b.file("oldfile", b"target\n")
    b.mount()
    yield b.result("symlink oldfile symlink", lambda: os.symlink("oldfile", b.mnt / "symlink"))
    yield b.reads("symlink", b"target\n")
    yield b.on_top("symlink", "symlink")
    yield b.on_top("oldfile", "nothing")


@check("example.rename.file")
def rename_file(b: Bench) -> Observations:
    b.file("oldfile", b"moved\n", mode=0o640, owner=(12, 34))
    b.mount()
    yield b.result(
        "rename oldfile newfile", lambda: os.rename(b.mnt / "oldfile", b.mnt / "newfile")
    )
    yield b.absent("oldfile")
    yield b.reads("newfile", b"moved\n")
    yield b.copied_up("newfile", b"moved\n")
    yield b.on_top("oldfile", "whiteout")
    status = (b.mnt / "newfile").lstat()
    observed = f"{stat.S_IMODE(status.st_mode):o} {status.st_uid} {status.st_gid}"
    yield b.same("attributes", "mode and owner of newfile", "640 12 34", observed)


@check("example.rename.directory")
def rename_directory(b: Bench) -> Observations:
    b.file("olddir/inside", b"inside\n")
    b.mount()
    yield b.result(
        "rename olddir newdir", lambda: os.rename(b.mnt / "olddir", b.mnt / "newdir"), "EXDEV"
    )
    yield b.reads("olddir/inside", b"inside\n")
    yield b.absent("newdir")
