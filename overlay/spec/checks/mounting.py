"""Mounting and what must hold of both layers (L224–L268, L426–L458, L482, L629)."""

from __future__ import annotations

import os

from overlay.spec.bench import Bench
from overlay.spec.checks import Observations, check
from overlay.spec.observe import attempt


@check("mount.covers-submounts")
def covers_submounts(b: Bench) -> Observations:
    b.file("dir/under", b"under\n")
    b.submount(b.bottom / "dir")
    b.file("dir/on-the-submount", b"over\n")
    b.seal(b.bottom / "dir")
    accepted = b.mounts()
    yield accepted
    if accepted.ok:
        yield b.lists("dir", ("under",))
        yield b.reads("dir/under", b"under\n")


@check("mount.bottom-shared")
def bottom_shared(b: Bench) -> Observations:
    b.file("file", b"bottom\n")
    b.mount()
    others = b.mnt.parent / "others"
    top, work = b.top.parent / "top2", b.top.parent / "top2.work"
    b.make(others, top, work)
    yield b.mounts(lambda: b.mount_union(others, bottom=b.bottom, top=top, work=work))
    b.write("file", b"changed here\n")
    yield b.reads("file", b"changed here\n")
    observed = b.calls(others).read("file").decode()
    yield b.same("view", "the file in the other union", "bottom\n", observed)
    below = b.calls(b.bottom).read("file").decode()
    yield b.same("view", "the file on the bottom itself", "bottom\n", below)


@check("mount.top-once")
def top_once(b: Bench) -> Observations:
    b.file("file")
    b.mount()
    work = b.top.parent / "work2"
    b.make(work)
    yield b.refuses(
        "mounting the same top once more",
        lambda: b.mount_union(b.mnt.parent / "again", bottom=b.bottom, top=b.top, work=work),
    )
    yield b.reads("file", b"bottom\n")


@check("mount.not-top-and-bottom")
def not_top_and_bottom(b: Bench) -> Observations:
    b.file("file")
    yield b.refuses(
        "mounting a directory over itself",
        lambda: b.mount_union(b.mnt, bottom=b.top, top=b.top, work=b.work),
    )
    inside = b.top / "inside"
    b.make(inside)
    yield b.refuses(
        "mounting with a bottom inside the top",
        lambda: b.mount_union(b.mnt, bottom=inside, top=b.top, work=b.work),
    )


@check("mount.not-crossed")
def not_crossed(b: Bench) -> Observations:
    b.file("file")
    b.mount()
    work = b.bottom.parent / "crossed.work"
    b.make(work)
    crossed = b.refuses(
        "mounting B over A while A is over B",
        lambda: b.mount_union(b.mnt.parent / "crossed", bottom=b.top, top=b.bottom, work=work),
    )
    yield crossed
    if not crossed.ok:
        b.bottom_became_a_top()


@check("mount.bottom-never-written")
def bottom_never_written(b: Bench) -> Observations:
    for name in ("edit", "chmod", "unlink", "rename", "link", "dir/one", "dir/sub/two", "old/x"):
        b.file(name, b"bottom content\n")
    b.symlink("symlink", "edit")
    b.mount()
    b.write("symlink", b"through a symlink\n")
    b.union.chmod("chmod", 0o600)
    b.union.unlink("unlink")
    b.union.rename("rename", "dir/renamed")
    b.union.link("link", "dir/linked")
    b.union.truncate("dir/one", 3)
    b.union.chown("dir/sub", 12, 34)
    b.union.mkdir("dir/sub/new")
    b.union.unlink("old/x")
    b.union.rmdir("old")
    b.write("old", b"a file now\n")
    yield b.reads("edit", b"through a symlink\n")
    yield b.reads("dir/one", b"bot")
    yield b.reads("old", b"a file now\n")
    # The runner compares the whole bottom after every clause; here it is the point.
    yield b.compare_bottom()


@check("nonposix.no-space")
def no_space(b: Bench) -> Observations:
    b.file("large", b"x" * (2 << 20))
    b.limit_top(1 << 20)
    b.mount()
    answer = attempt(lambda: b.open_and_close("large", os.O_WRONLY))
    allowed = answer in {"ENOSPC", "EIO"}
    yield b.same(
        "result",
        "open(O_WRONLY) of 2 MiB with 1 MiB free on the top",
        "ENOSPC or EIO",
        "ENOSPC or EIO" if allowed else answer,
    )
    yield b.reads("large", b"x" * (2 << 20))
    yield b.on_top("large", "nothing")
    yield b.result("a small write still fits", lambda: b.write("small", b"new\n"))
