"""Whiteouts (L90–L92) and opaque directories (L94–L98): made when needed, and only then."""

from __future__ import annotations

import os
import stat
from functools import partial

from overlay.spec.bench import Bench
from overlay.spec.checks import Observations, check


@check("whiteout.stops-lookup")
def stops_lookup(b: Bench) -> Observations:
    b.plants_marks()
    b.file("gone")
    b.file("gone-dir/inside")
    b.file("stays")
    b.whiteout("gone")
    b.whiteout("gone-dir")
    b.mount()
    yield b.absent("gone")
    yield b.absent("gone-dir")
    yield b.result("stat gone-dir/inside", partial(b.union.stat, "gone-dir/inside"), "ENOENT")
    yield b.lists("", ("stays",))


@check("whiteout.after-copyup")
def after_copyup(b: Bench) -> Observations:
    b.file("oldfile")
    b.mount()
    b.write("oldfile", b"changed\n")
    yield b.result("unlink oldfile", partial(b.union.unlink, "oldfile"))
    yield b.absent("oldfile")
    yield b.on_top("oldfile", "whiteout")


@check("whiteout.none-for-top-only")
def none_for_top_only(b: Bench) -> Observations:
    b.file("dir/other")
    b.mount()
    b.write("dir/newfile", b"new\n")
    b.union.mkdir("dir/newdir")
    yield b.copied_up("dir/newfile", b"new\n")
    yield b.result("unlink dir/newfile", partial(b.union.unlink, "dir/newfile"))
    yield b.result("rmdir dir/newdir", partial(b.union.rmdir, "dir/newdir"))
    for name in ("dir/newfile", "dir/newdir"):
        yield b.absent(name)
        yield b.on_top(name, "nothing")


@check("whiteout.rmdir-emptied")
def rmdir_emptied(b: Bench) -> Observations:
    b.file("olddir/one")
    b.file("olddir/sub/two")
    b.mount()
    for name in ("olddir/one", "olddir/sub/two"):
        b.union.unlink(name)
    b.union.rmdir("olddir/sub")
    yield b.lists("olddir", ())
    yield b.result("rmdir olddir", partial(b.union.rmdir, "olddir"))
    yield b.absent("olddir")
    yield b.on_top("olddir", "whiteout")


@check("whiteout.rmdir-refused")
def rmdir_refused(b: Bench) -> Observations:
    b.file("olddir/inside", b"inside\n")
    b.mount()
    yield b.result("rmdir olddir", partial(b.union.rmdir, "olddir"), "ENOTEMPTY")
    yield b.reads("olddir/inside", b"inside\n")
    yield b.top_holds()


@check("whiteout.persists")
def persists(b: Bench) -> Observations:
    b.file("oldfile")
    b.file("dir/oldfile")
    b.directory("dir/olddir")
    b.mount()
    b.union.unlink("oldfile")
    b.union.unlink("dir/oldfile")
    b.union.rmdir("dir/olddir")
    again = b.mounts(b.remount)
    yield again
    if again.ok:
        removed = ("oldfile", "dir/oldfile", "dir/olddir")
        for name in removed:
            yield b.on_top(name, "whiteout")
        for name in removed:
            yield b.absent(name)


@check("whiteout.creat-replaces")
def creat_replaces(b: Bench) -> Observations:
    b.file("oldfile", b"the bottom's content\n", mode=0o600, owner=(12, 34))
    b.mount()
    b.union.unlink("oldfile")
    yield b.result("creat oldfile", lambda: b.write("oldfile", b"new\n"))
    yield b.reads("oldfile", b"new\n")
    yield b.copied_up("oldfile", b"new\n")
    status = b.union.stat("oldfile")
    yield b.same(
        "attributes",
        "mode and owner of oldfile",
        "100644 0 0",
        f"{status.st_mode:o} {status.st_uid} {status.st_gid}",
    )


@check("opaque.mkdir-over-file")
def mkdir_over_file(b: Bench) -> Observations:
    b.file("name", b"a file\n")
    b.mount()
    b.union.unlink("name")
    yield b.result("mkdir name", partial(b.union.mkdir, "name"))
    yield b.lists("name", ())
    yield b.on_top("name", "opaque directory")


@check("opaque.hides-bottom")
def hides_bottom(b: Bench) -> Observations:
    b.plants_marks()
    b.file("dir/below")
    b.file("dir/sub/below")
    b.file("dir/sub/above", on=b.top)
    b.file("elsewhere")
    b.opaque("dir")
    b.mount()
    yield b.lists("", ("dir", "elsewhere"))
    yield b.lists("dir", ("sub",))
    yield b.absent("dir/below")
    yield b.lists("dir/sub", ("above",))
    yield b.absent("dir/sub/below")


@check("opaque.persists")
def opaque_persists(b: Bench) -> Observations:
    b.file("olddir/sub/inside")
    b.mount()
    b.union.unlink("olddir/sub/inside")
    b.union.rmdir("olddir/sub")
    b.union.rmdir("olddir")
    b.union.mkdir("olddir")
    again = b.mounts(b.remount)
    yield again
    if again.ok:
        yield b.lists("olddir", ())
        # A new directory of a hidden one's name must not bring the hidden one back.
        yield b.result("mkdir olddir/sub", partial(b.union.mkdir, "olddir/sub"))
        yield b.lists("olddir/sub", ())


@check("userland.whiteouts-unseen")
def whiteouts_unseen(b: Bench) -> Observations:
    b.file("dir/gone")
    b.file("dir/stays")
    b.directory("dir/gone-dir")
    b.mount()
    b.union.unlink("dir/gone")
    b.union.rmdir("dir/gone-dir")
    for name in ("dir/gone", "dir/gone-dir"):
        yield b.on_top(name, "whiteout")
    yield b.lists("dir", ("stays",))
    yield b.result("open dir/gone", lambda: b.union.open("dir/gone", os.O_PATH), "ENOENT")
    yield b.result("unlink dir/gone once more", partial(b.union.unlink, "dir/gone"), "ENOENT")


@check("whiteout.not-made-by-mknod")
def not_made_by_mknod(b: Bench) -> Observations:
    b.file("file", b"bottom\n")
    b.mount()
    device = stat.S_IFCHR | 0o600
    yield b.result("mknod of device 0/0", lambda: b.union.mknod("new", device, 0), "EPERM")
    yield b.absent("new")
    yield b.lists("", ("file",))


@check("opaque.nothing-inherited")
def nothing_inherited(b: Bench) -> Observations:
    b.directory("olddir", mode=0o2770)
    b.own(b.bottom / "olddir", (12, 34))
    b.mount()
    b.union.rmdir("olddir")
    yield b.result("mkdir olddir", partial(b.union.mkdir, "olddir", 0o750))
    status = b.union.lstat("olddir")
    observed = f"{status.st_mode:o} {status.st_uid} {status.st_gid}"
    yield b.same("attributes", "mode and owner of the new directory", "40750 0 0", observed)


@check("opaque.rmdir-again")
def rmdir_again(b: Bench) -> Observations:
    b.file("olddir/inside")
    b.mount()
    b.union.unlink("olddir/inside")
    b.union.rmdir("olddir")
    b.union.mkdir("olddir")
    b.write("olddir/inside", b"new\n")
    yield b.result("unlink in the new directory", partial(b.union.unlink, "olddir/inside"))
    yield b.result("rmdir of the new directory", partial(b.union.rmdir, "olddir"))
    yield b.on_top("olddir", "whiteout")
    yield b.absent("olddir")
