"""link() (L127, L505–L508): a copyup of the target, then an ordinary link."""

from __future__ import annotations

from functools import partial

from overlay.spec.bench import Bench
from overlay.spec.checks import Observations, check


@check("link.top-only")
def top_only(b: Bench) -> Observations:
    b.file("dir/other")
    b.mount()
    b.write("dir/one", b"new\n")
    yield b.result("link", lambda: b.union.link("dir/one", "dir/two"))
    yield b.same("attributes", "links of the file", 2, b.union.stat("dir/two").st_nlink)
    b.append("dir/two", b"more\n")
    yield b.reads("dir/one", b"new\nmore\n")
    yield b.on_top("dir/other", "nothing")


@check("link.over-whiteout")
def over_whiteout(b: Bench) -> Observations:
    b.file("gone", b"the bottom's\n")
    b.file("kept", b"linked\n")
    b.mount()
    b.union.unlink("gone")
    yield b.result("link kept gone", lambda: b.union.link("kept", "gone"))
    yield b.reads("gone", b"linked\n")
    b.append("kept", b"more\n")
    yield b.reads("gone", b"linked\nmore\n")
    yield b.copied_up("gone", b"linked\nmore\n")


@check("link.directory-refused")
def directory_refused(b: Bench) -> Observations:
    b.file("dir/sub/file")
    b.mount()
    yield b.result("link of a directory", partial(b.union.link, "dir/sub", "new"), "EPERM")
    yield b.absent("new")
    yield b.top_holds()
