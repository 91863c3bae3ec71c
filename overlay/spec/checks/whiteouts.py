"""Whiteouts (L90–L92) and opaque directories (L94–L98): made when needed, and only then."""

from __future__ import annotations

import os

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
    yield b.result("stat gone-dir/inside", (b.mnt / "gone-dir/inside").stat, "ENOENT")
    yield b.lists("", ("stays",))


@check("whiteout.after-copyup")
def after_copyup(b: Bench) -> Observations:
    b.file("oldfile")
    b.mount()
    (b.mnt / "oldfile").write_bytes(b"changed\n")
    yield b.result("unlink oldfile", (b.mnt / "oldfile").unlink)
    yield b.absent("oldfile")
    yield b.on_top("oldfile", "whiteout")


@check("whiteout.none-for-top-only")
def none_for_top_only(b: Bench) -> Observations:
    b.file("dir/other")
    b.mount()
    (b.mnt / "dir/newfile").write_bytes(b"new\n")
    (b.mnt / "dir/newdir").mkdir()
    yield b.copied_up("dir/newfile", b"new\n")
    yield b.result("unlink dir/newfile", (b.mnt / "dir/newfile").unlink)
    yield b.result("rmdir dir/newdir", (b.mnt / "dir/newdir").rmdir)
    for name in ("dir/newfile", "dir/newdir"):
        yield b.absent(name)
        yield b.on_top(name, "nothing")


@check("whiteout.rmdir-emptied")
def rmdir_emptied(b: Bench) -> Observations:
    b.file("olddir/one")
    b.file("olddir/sub/two")
    b.mount()
    for name in ("olddir/one", "olddir/sub/two"):
        (b.mnt / name).unlink()
    (b.mnt / "olddir/sub").rmdir()
    yield b.lists("olddir", ())
    yield b.result("rmdir olddir", (b.mnt / "olddir").rmdir)
    yield b.absent("olddir")
    yield b.on_top("olddir", "whiteout")


@check("whiteout.rmdir-refused")
def rmdir_refused(b: Bench) -> Observations:
    b.file("olddir/inside", b"inside\n")
    b.mount()
    yield b.result("rmdir olddir", (b.mnt / "olddir").rmdir, "ENOTEMPTY")
    yield b.reads("olddir/inside", b"inside\n")
    yield b.top_holds()


@check("whiteout.persists")
def persists(b: Bench) -> Observations:
    b.file("oldfile")
    b.file("dir/oldfile")
    b.directory("dir/olddir")
    b.mount()
    (b.mnt / "oldfile").unlink()
    (b.mnt / "dir/oldfile").unlink()
    (b.mnt / "dir/olddir").rmdir()
    again = b.mounts(b.remount)
    yield again
    if again.ok:
        for name in ("oldfile", "dir/oldfile", "dir/olddir"):
            yield b.absent(name)
            yield b.on_top(name, "whiteout")


@check("whiteout.creat-replaces")
def creat_replaces(b: Bench) -> Observations:
    b.file("oldfile", b"the bottom's content\n", mode=0o600, owner=(12, 34))
    b.mount()
    (b.mnt / "oldfile").unlink()
    yield b.result("creat oldfile", lambda: (b.mnt / "oldfile").write_bytes(b"new\n"))
    yield b.reads("oldfile", b"new\n")
    yield b.copied_up("oldfile", b"new\n")
    status = (b.mnt / "oldfile").stat()
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
    (b.mnt / "name").unlink()
    yield b.result("mkdir name", (b.mnt / "name").mkdir)
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
    (b.mnt / "olddir/sub/inside").unlink()
    (b.mnt / "olddir/sub").rmdir()
    (b.mnt / "olddir").rmdir()
    (b.mnt / "olddir").mkdir()
    again = b.mounts(b.remount)
    yield again
    if again.ok:
        yield b.lists("olddir", ())
        # A new directory of a hidden one's name must not bring the hidden one back.
        yield b.result("mkdir olddir/sub", (b.mnt / "olddir/sub").mkdir)
        yield b.lists("olddir/sub", ())


@check("userland.whiteouts-unseen")
def whiteouts_unseen(b: Bench) -> Observations:
    b.file("dir/gone")
    b.file("dir/stays")
    b.directory("dir/gone-dir")
    b.mount()
    (b.mnt / "dir/gone").unlink()
    (b.mnt / "dir/gone-dir").rmdir()
    for name in ("dir/gone", "dir/gone-dir"):
        yield b.on_top(name, "whiteout")
    yield b.lists("dir", ("stays",))
    yield b.result("open dir/gone", lambda: os.open(b.mnt / "dir/gone", os.O_PATH), "ENOENT")
    yield b.result("unlink dir/gone once more", (b.mnt / "dir/gone").unlink, "ENOENT")
