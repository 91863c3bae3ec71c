"""Lookup: the top covers the bottom, the rest is seen through it (L35–L40, L72–L80, L279–L315)."""

from __future__ import annotations

import os
import stat
from functools import partial

from overlay.spec import shell
from overlay.spec.bench import Bench
from overlay.spec.checks import Observations, check
from overlay.spec.observe import Lacks


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


def _numbers(directory: str) -> str:
    """A command that prints names with both of their inode numbers."""
    code = "[print(e.name, e.inode(), e.stat(follow_symlinks=False).st_ino) for e in entries]"
    return shell.calling(f"entries = os.scandir({directory!r}); {code}")


@check("readdir.inode-numbers")
def inode_numbers(b: Bench) -> Observations:
    b.file("merged/below")
    b.directory("merged/subdir")
    b.file("merged/copied")
    b.file("merged/above", on=b.top)
    b.mount()
    b.union.chmod("merged/copied", 0o600)
    b.steps.do(_numbers("mnt/merged"))
    wrong = [
        os.fsdecode(entry.name)
        for entry in b.union.readdir("merged")
        if entry.ino != b.union.lstat(os.path.join(b"merged", entry.name)).st_ino
    ]
    yield b.same(
        "view", "entries whose d_ino is not st_ino", "none", " ".join(sorted(wrong)) or "none"
    )


@check("lookup.symlink-covers-directory")
def symlink_covers_directory(b: Bench) -> Observations:
    b.file("name/inside", b"hidden\n")
    b.file("other/inside", b"reached\n")
    b.symlink("name", "other", on=b.top)
    b.mount()
    yield b.reads("name/inside", b"reached\n")
    yield b.lists("name", ("inside",))


@check("lookup.missing")
def missing(b: Bench) -> Observations:
    b.file("dir/file")
    b.mount()
    for name in ("missing", "dir/missing", "dir/file/below"):
        errno = "ENOTDIR" if name.endswith("below") else "ENOENT"
        yield b.result(f"stat {name}", partial(b.union.stat, name), errno)
    yield b.top_holds()
    yield b.result("creat dir/missing", partial(b.write, "dir/missing", b"new\n"))
    yield b.reads("dir/missing", b"new\n")


@check("lookup.copies-nothing")
def copies_nothing(b: Bench) -> Observations:
    b.file("one/two/file")
    b.file("one/other")
    b.mount()
    yield b.result("stat one/two/file", partial(b.union.stat, "one/two/file"))
    yield b.top_holds()
    yield b.on_top("one/other", "nothing")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "directory",
        stat.S_IFREG: "file",
        stat.S_IFLNK: "symlink",
        stat.S_IFIFO: "fifo",
    }
    return kinds.get(stat.S_IFMT(mode), "other")


@check("readdir.types")
def types(b: Bench) -> Observations:
    for layer in (b.bottom, b.top):
        own = layer.name
        b.directory(f"dir/{own}-directory", on=layer)
        b.file(f"dir/{own}-file", on=layer)
        b.symlink(f"dir/{own}-symlink", "nowhere", on=layer)
    b.mount()
    kinds = ("directory", "file", "symlink")
    yield b.lists("dir", [f"{layer}-{kind}" for layer in ("bottom", "top") for kind in kinds])
    for entry in b.union.readdir("dir"):
        name = os.fsdecode(entry.name)
        seen = (entry.type, b.union.lstat(f"dir/{name}").st_mode)
        yield b.same(
            "view",
            f"type of dir/{name} as listed and by stat",
            f"{name.partition('-')[2]} twice",
            f"{_kind(seen[0])} twice" if _kind(seen[0]) == _kind(seen[1]) else f"{seen}",
        )


@check("readdir.inode-numbers-kept")
def inode_numbers_kept(b: Bench) -> Observations:
    for name in ("dir/one", "dir/two", "dir/sub/three"):
        b.file(name)
    b.mount()

    def numbers() -> str:
        b.steps.do(_numbers("mnt/dir"))
        listed = sorted((entry.name, entry.ino) for entry in b.union.readdir("dir"))
        return " ".join(f"{os.fsdecode(name)}={ino}" for name, ino in listed)

    def told() -> str:
        return "as before" if numbers() == before else "others"

    before = numbers()
    yield b.same("view", "inode numbers, listed again", "as before", told())
    again = b.mounts(b.remount)
    yield again
    if again.ok:
        yield b.same("view", "inode numbers in the next mount", "as before", told())


@check("nonposix.directory-links")
def directory_links(b: Bench) -> Observations:
    for name in ("dir/one", "dir/two", "dir/three"):
        b.directory(name)
    b.file("dir/file")
    if (b.bottom / "dir").stat().st_nlink != 5:
        raise Lacks("a bottom whose directories count their subdirectories as links")
    b.mount()
    b.union.mkdir("dir/four")
    b.names("dir")
    links = b.union.stat("dir").st_nlink
    yield b.same("attributes", "links of a listed directory with four subdirectories", 6, links)
