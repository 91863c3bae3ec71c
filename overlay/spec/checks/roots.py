"""Getting to a root (L132–L139, L227–L247): in place over the bottom, pivot_root, submounts."""

from __future__ import annotations

import os

from overlay import syscalls
from overlay.spec import shell
from overlay.spec.bench import Bench
from overlay.spec.calls import MountedCalls, read
from overlay.spec.checks import Observations, check
from overlay.spec.observe import Lacks, errno_name, shown


@check("mount.in-place")
def in_place(b: Bench) -> Observations:
    b.needs_mount("covering a mount point")
    fuse = {feature for feature in b.features if feature.partition(".")[0] == "fuse"}
    if fuse - {"fuse.fuse-overlayfs"}:
        # A server that opens the bottom by path would find its own mount there, and wait for
        # itself; nothing but aborting its connection ends that, not even SIGKILL.
        raise Lacks("a server that is known to open the bottom before it covers it")
    b.file("file", b"bottom\n")
    b.cover(b.bottom, read_only=True)
    b.remember_bottom()
    yield b.mounts(lambda: b.mount_union(b.bottom, bottom=b.bottom, top=b.top, work=b.work))
    here = b.calls(b.bottom)
    os.close(here.open("new", os.O_CREAT | os.O_WRONLY))
    here.unlink("file")
    names = sorted(os.fsdecode(entry.name) for entry in here.readdir("."))
    yield b.same("view", "listing the mount point of both layers", "new", " ".join(names))
    yield b.on_top("new", "file")
    yield b.on_top("file", "whiteout")


@check("mount.pivot-root")
def pivot_root(b: Bench) -> Observations:
    b.needs_mount("a root is a mount")
    b.file("etc/motd", b"bottom\n")
    b.directory("old-root")
    b.mount()
    # No program is left in the new root: a process that is there already does the work.
    code = (
        'import ctypes; os.chdir("mnt"); ctypes.CDLL(None).pivot_root(b".", b"old-root"); '
        'os.chdir("/"); os.write(1, open("/etc/motd", "rb").read()); '
        'ctypes.CDLL(None).umount2(b"/old-root", 2); '
        'open("/etc/motd", "wb").write(b"changed in the new root\\n")'
    )
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(sending, _in_a_new_root(b).encode())
        os._exit(0)
    os.close(sending)
    with open(receiving, encoding="utf-8") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    command = f"unshare -m {shell.calling(code)}"
    if said == "done":
        b.steps.look(command, "bottom")
    else:
        b.steps.do(command, said)
    yield b.same("result", "pivot_root, then work in the new root", "done", said)
    yield b.reads("etc/motd", b"changed in the new root\n")
    yield b.copied_up("etc/motd", b"changed in the new root\n")


def _in_a_new_root(b: Bench) -> str:
    """In a process of its own: what went wrong, or ``done``."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        os.chdir(b.mnt)
        syscalls.pivot_root(".", "old-root")
        os.chdir("/")
        calls = MountedCalls("/")
        before = read(calls, "etc/motd")
        if before != b"bottom\n":
            return f"/etc/motd reads {shown(before)}"
        syscalls.umount2("/old-root", syscalls.MNT_DETACH)
        with open("/etc/motd", "wb") as file:
            file.write(b"changed in the new root\n")
    except OSError as error:
        return errno_name(error)
    return "done"


@check("mount.over-writable-submount")
def over_writable_submount(b: Bench) -> Observations:
    b.directory("dir")
    b.submount(b.bottom / "dir")
    yield b.refuses("mounting over a bottom with a read-write submount", b.mount)


@check("mount.top-read-only")
def top_read_only(b: Bench) -> Observations:
    b.file("file")
    home = b.top.parent / "sealed"
    b.make(home)
    b.submount(home)
    b.move_top(home)
    b.seal(home)
    yield b.refuses("mounting with a top that is mounted read-only", b.mount)


@check("mount.releases-layers")
def releases_layers(b: Bench) -> Observations:
    b.file("file", b"bottom\n")
    b.mount()
    b.write("file", b"changed\n")
    b.unmount()
    top = b.calls(b.top)
    yield b.same("view", "the top after unmounting", b"changed\n", top.read("file"))
    yield b.result("writing to the former top", lambda: b.file("file", b"direct\n", on=b.top))
    again = b.mounts()
    yield again
    if again.ok:
        yield b.reads("file", b"direct\n")
