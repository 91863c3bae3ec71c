"""Fallthrus (L100–L103) and directory copyup (L108–L111, L535–L537)."""

from __future__ import annotations

import os
import stat
from functools import partial

from overlay.spec.bench import Bench
from overlay.spec.checks import Observations, check
from overlay.spec.observe import attempt


def _primed(b: Bench) -> None:
    """``dir`` as directory copyup leaves it, with ``hidden`` taken out again."""
    b.plants_fallthrus()
    b.file("dir/kept", b"kept content\n", mode=0o640, owner=(12, 34))
    b.file("dir/hidden", b"hidden content\n")
    b.file("dir/sub/deep", b"deep content\n")
    b.opaque("dir")
    b.fallthru("dir/kept")
    b.fallthru("dir/sub")


@check("fallthru.overrides-opaque")
def overrides_opaque(b: Bench) -> Observations:
    _primed(b)
    accepted = b.mounts()
    yield accepted
    if accepted.ok:
        yield b.reads("dir/kept", b"kept content\n")
        yield b.lists("dir", ("kept", "sub"))
        yield b.absent("dir/hidden")


@check("fallthru.directory")
def directory(b: Bench) -> Observations:
    b.plants_fallthrus()
    b.file("dir/sub/deep", b"deep content\n")
    b.file("dir/hidden")
    b.file("dir/sub/above", b"top\n", on=b.top)
    b.opaque("dir")
    b.fallthru("dir/sub")
    accepted = b.mounts()
    yield accepted
    if accepted.ok:
        yield b.lists("dir", ("sub",))
        yield b.lists("dir/sub", ("above", "deep"))
        yield b.reads("dir/sub/deep", b"deep content\n")


@check("fallthru.copyup")
def copyup(b: Bench) -> Observations:
    _primed(b)
    accepted = b.mounts()
    yield accepted
    if accepted.ok:
        yield b.result("appending to dir/kept", lambda: _append(b))
        yield b.reads("dir/kept", b"kept content\nand more\n")
        yield b.copied_up("dir/kept", b"kept content\nand more\n")
        yield b.lists("dir", ("kept", "sub"))


def _append(b: Bench) -> None:
    with b.open("dir/kept", "ab") as file:
        file.write(b"and more\n")


@check("fallthru.unlink")
def unlink(b: Bench) -> Observations:
    _primed(b)
    accepted = b.mounts()
    yield accepted
    if accepted.ok:
        yield b.result("unlink dir/kept", partial(b.union.unlink, "dir/kept"))
        yield b.absent("dir/kept")
        again = b.mounts(b.remount)
        yield again
        if again.ok:
            yield b.absent("dir/kept")
            yield b.lists("dir", ("sub",))
            yield b.reads("dir/sub/deep", b"deep content\n")


@check("userland.fallthrus-unseen")
def fallthrus_unseen(b: Bench) -> Observations:
    _primed(b)
    accepted = b.mounts()
    yield accepted
    if not accepted.ok:
        return
    looked_up = b.result("stat dir/kept", partial(b.union.stat, "dir/kept"))
    yield looked_up
    if not looked_up.ok:
        return
    kinds = {
        os.fsdecode(entry.name): "directory" if stat.S_ISDIR(entry.type) else "file"
        for entry in b.union.readdir("dir")
    }
    yield b.same("view", "types in the listing of dir", "kept file, sub directory", _pairs(kinds))
    status = b.union.stat("dir/kept")
    yield b.same(
        "attributes",
        "kept as stat sees it",
        f"{stat.S_IFREG | 0o640:o} 12 34 size 13",
        f"{status.st_mode:o} {status.st_uid} {status.st_gid} size {status.st_size}",
    )
    names = b.union.listxattr("dir/kept") + b.union.listxattr("dir/sub")
    yield b.same("view", "marks among the xattrs", "none", _marks(names))


def _pairs(kinds: dict[str, str]) -> str:
    return ", ".join(f"{name} {kinds[name]}" for name in sorted(kinds))


def _marks(names: list[str]) -> str:
    return " ".join(name for name in names if "overlay" in name) or "none"


_NO_MARK = {"ENODATA": "no such attribute", "ENOTSUP": "no such attribute"}


@check("userland.marks-unseen")
def marks_unseen(b: Bench) -> Observations:
    b.file("olddir/inside")
    b.file("changed")
    b.mount()
    b.union.unlink("olddir/inside")
    b.union.rmdir("olddir")
    b.union.mkdir("olddir")
    b.write("changed", b"changed\n")
    yield b.on_top("olddir", "opaque directory")
    yield b.lists("", ("changed", "olddir"))
    for name in ("olddir", "changed"):
        yield b.same(
            "view", f"marks among the xattrs of {name}", "none", _marks(b.union.listxattr(name))
        )
        # ENOTSUP before 6.7, "ovl: Support escaped overlay.* xattrs" (for nested overlays).
        answer = attempt(partial(b.union.getxattr, name, "trusted.overlay.opaque"))
        subject = f"getxattr trusted.overlay.opaque of {name}"
        yield b.same("result", subject, "no such attribute", _NO_MARK.get(answer, answer))


@check("dircopyup.opaque")
def dircopyup_opaque(b: Bench) -> Observations:
    b.file("shareddir/below")
    b.file("shareddir/above", on=b.top)
    b.mount()
    yield b.lists("shareddir", ("above", "below"))
    yield b.on_top("shareddir", "opaque directory")


@check("dircopyup.only-missing")
def only_missing(b: Bench) -> Observations:
    b.file("shareddir/below")
    b.file("shareddir/both", b"bottom's\n")
    b.file("shareddir/gone")
    b.file("shareddir/both", b"the top's\n", on=b.top)
    b.mount()
    b.union.unlink("shareddir/gone")
    yield b.lists("shareddir", ("below", "both"))
    yield b.copied_up("shareddir/both", b"the top's\n")
    yield b.on_top("shareddir/gone", "whiteout")
    yield b.reads("shareddir/both", b"the top's\n")


@check("dircopyup.same-listing")
def same_listing(b: Bench) -> Observations:
    names = [f"file{number:03}" for number in range(97)]
    b.files("shareddir/file%03d", range(0, 97, 2))
    b.files("shareddir/file%03d", range(1, 97, 2), on=b.top)
    b.mount()
    yield b.lists("shareddir", names)
    first = b.order("shareddir")
    second = b.order("shareddir")
    yield b.same(
        "view", "order of a second listing", "as before", "as before" if first == second else "new"
    )
    again = b.mounts(b.remount)
    yield again
    if again.ok:
        yield b.lists("shareddir", names)


@check("fallthru.without-reference")
def without_reference(b: Bench) -> Observations:
    _primed(b)
    # The bottom is free to change while no union uses it (L263).
    b.remove(b.bottom / "dir/kept")
    accepted = b.mounts()
    yield accepted
    if accepted.ok:
        answer = attempt(partial(b.read, "dir/kept"))
        told = "succeeds" if answer == "succeeds" else "fails"
        yield b.same("result", "reading a fallthru whose file is gone", "fails", told)
        yield b.reads("dir/sub/deep", b"deep content\n")
        yield b.result("listing its directory", partial(b.names, "dir"))
        yield b.result("unlink of it", partial(b.union.unlink, "dir/kept"))
