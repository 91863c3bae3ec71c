"""Lookup: the top covers the bottom, the rest is seen through it (L35–L40, L72–L80, L279–L315)."""

from __future__ import annotations

import os
from functools import partial

from overlay.spec.bench import Bench
from overlay.spec.checks import Observations, check


@check("lookup.combined")
def combined(b: Bench) -> Observations:
    b.file("merged/below", b"from the bottom\n")
    b.file("merged/deep/below", b"deep bottom\n")
    b.file("merged/above", b"from the top\n", on=b.top)
    b.file("merged/deep/above", b"deep top\n", on=b.top)
    b.file("only-bottom/file")
    b.file("only-top/file", on=b.top)
    b.mount()
    yield b.lists("", ("merged", "only-bottom", "only-top"))
    yield b.lists("merged", ("above", "below", "deep"))
    yield b.lists("merged/deep", ("above", "below"))
    yield b.reads("merged/below", b"from the bottom\n")
    yield b.reads("merged/deep/above", b"deep top\n")


@check("lookup.top-covers")
def top_covers(b: Bench) -> Observations:
    b.file("same", b"bottom's\n", mode=0o600)
    b.file("same", b"the top's\n", mode=0o644, on=b.top)
    b.mount()
    yield b.reads("same", b"the top's\n")
    yield b.lists("", ("same",))
    mode = b.union.stat("same").st_mode
    yield b.same("attributes", "mode of same", "0o100644", oct(mode))


@check("lookup.file-covers-directory")
def file_covers_directory(b: Bench) -> Observations:
    b.file("name/inside")
    b.file("name", b"a file\n", on=b.top)
    b.mount()
    yield b.reads("name", b"a file\n")
    yield b.result("lookup below it", partial(b.union.stat, "name/inside"), "ENOTDIR")


@check("lookup.directory-covers-file")
def directory_covers_file(b: Bench) -> Observations:
    b.file("name", b"a file\n")
    b.file("name/inside", b"inside\n", on=b.top)
    b.mount()
    yield b.lists("name", ("inside",))
    yield b.reads("name/inside", b"inside\n")


@check("lookup.creates-directory")
def creates_directory(b: Bench) -> Observations:
    b.file("one/two/file")
    b.mount()
    yield b.result("stat one/two", partial(b.union.stat, "one/two"))
    yield b.on_top("one", "directory")
    yield b.on_top("one/two", "directory")


@check("readdir.inode-numbers")
def inode_numbers(b: Bench) -> Observations:
    b.file("merged/below")
    b.directory("merged/subdir")
    b.file("merged/copied")
    b.file("merged/above", on=b.top)
    b.mount()
    b.union.chmod("merged/copied", 0o600)
    wrong = [
        os.fsdecode(entry.name)
        for entry in b.union.readdir("merged")
        if entry.ino != b.union.lstat(os.path.join(b"merged", entry.name)).st_ino
    ]
    yield b.same(
        "view", "entries whose d_ino is not st_ino", "none", " ".join(sorted(wrong)) or "none"
    )
