"""Run in a guest by test_readonly.py: all that BPF LSM is to refuse and to let pass, once.

Prints what was done and seen as one JSON object.  In one process, since an interpreter
takes seconds to start under emulation; what mount(8) does is left to it.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from overlay import kernel, lsm, status, syscalls

HERE = Path("/tmp")
seen: dict[str, object] = {}


def main() -> None:
    for name in ("anchor", "t", "u"):
        place(name)
        mount("-t", "tmpfs", name, name)
    (HERE / "t/file").write_text("below ")
    for name in ("anchor", "t", "u"):
        mount("-o", "remount,ro", name)
    # Its overlay keeps the program there to the end.
    union("anchor", hold_lsm=True)
    refusals()
    users()
    crashes()
    ends()
    btrfs()
    jffs2()
    undone()
    print(json.dumps(seen))


def refusals() -> None:
    union("t", require_read_only=True)
    seen["status"] = bottom("t")
    seen["remount rw"] = mount("-o", "remount,rw", "t")
    seen["remount ro"] = mount("-o", "remount,ro", "t")
    seen["new api rw"] = reconfigure("t", "rw")
    seen["new api ro"] = reconfigure("t", "ro")
    place("bound")
    mount("--bind", "t", "bound")
    seen["remount bind"] = mount("-o", "remount,bind,rw", "bound")
    seen["write bound"] = write("bound")
    unmount("bound")
    seen["unrelated"] = mount("-o", "remount,rw", "u")
    seen["unrelated write"] = write("u")
    with (HERE / "t.union/file").open("a") as file:
        file.write("above")
    seen["union"] = (HERE / "t.union/file").read_text()
    seen["after refusals"] = bottom("t")


def users() -> None:
    """The last overlay on it takes the hold along."""
    union("t", "second")
    kernel.unmount(str(HERE / "t.union"))
    seen["with one left"] = mount("-o", "remount,rw", "t")
    kernel.unmount(str(HERE / "second.union"))
    seen["with none left"] = mount("-o", "remount,rw", "t")
    mount("-o", "remount,ro", "t")


def crashes() -> None:
    """Who tells nobody: umount(8), and a process killed between hold and mount."""
    union("t")
    unmount("t.union")
    seen["stale"] = mount("-o", "remount,rw", "t")
    status.survey()
    seen["stale, after a look"] = mount("-o", "remount,rw", "t")
    mount("-o", "remount,ro", "t")
    if (child := os.fork()) == 0:
        setattr(kernel, "_create", lambda *_: os.kill(os.getpid(), signal.SIGKILL))  # noqa: B010
        union("t", "killed")
        os._exit(1)
    seen["killed"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen["killed, stale"] = mount("-o", "remount,rw", "t")
    status.survey()
    seen["killed, after a look"] = mount("-o", "remount,rw", "t")
    mount("-o", "remount,ro", "t")


def ends() -> None:
    """A file system that goes leaves the list before its number is free."""
    union("t")
    unmount("t.union")
    seen["listed"] = len(lsm.kept())
    unmount("t")
    seen["listed, after the end"] = len(lsm.kept())


def btrfs() -> None:
    """On a device that can be written; a further mount would make it read-write everywhere."""
    image = HERE / "image"
    with image.open("wb") as file:
        file.truncate(120 << 20)
    run("mkfs.btrfs", "-q", str(image))
    fd = os.open(image, os.O_RDWR)
    device, name = syscalls.loop_attach(fd, read_only=False)
    place("b")
    place("again")
    mount("-t", "btrfs", "-o", "ro", name, "b")
    union("b")
    seen["btrfs"] = bottom("b")
    seen["btrfs, remount rw"] = mount("-o", "remount,rw", "b")
    seen["btrfs, again rw"] = mount("-t", "btrfs", "-o", "rw", name, "again")
    seen["btrfs, new api rw"] = told(lambda: new_mount("btrfs", name))
    seen["btrfs, write"] = write("b")
    seen["btrfs, again ro"] = mount("-t", "btrfs", "-o", "ro,subvol=/", name, "again")
    unmount("again")
    kernel.unmount(str(HERE / "b.union"))
    seen["btrfs, again rw, after"] = mount("-t", "btrfs", "-o", "rw", name, "again")
    seen["btrfs, write, after"] = write("again")
    os.close(device)


def jffs2() -> None:
    """On flash in memory: its block device, made read-only, means nothing to it."""
    run("modprobe", "-a", "mtdram", "mtdblock", "jffs2")
    place("j")
    mount("-t", "jffs2", "-o", "ro", "mtd0", "j")
    run("blockdev", "--setro", "/dev/mtdblock0")
    seen["jffs2, remount rw"] = mount("-o", "remount,rw", "j")
    mount("-o", "remount,ro", "j")
    union("j")
    seen["jffs2"] = bottom("j")
    seen["jffs2, remount rw, held"] = mount("-o", "remount,rw", "j")
    kernel.unmount(str(HERE / "j.union"))


def undone() -> None:
    """Taken out by hand; then the last overlay goes."""
    shutil.rmtree(lsm.PLACE)
    seen["undone"] = bottom("anchor")
    seen["undone, remount rw"] = mount("-o", "remount,rw", "anchor")
    kernel.unmount(str(HERE / "anchor.union"))
    seen["left"] = [name for name in os.listdir("/sys/fs/bpf") if name.startswith("fallthru")]


def place(name: str) -> str:
    (HERE / name).mkdir(exist_ok=True)
    return str(HERE / name)


def union(
    layer: str, name: str = "", *, hold_lsm: bool = False, require_read_only: bool = False
) -> None:
    """Mount a top of its own over ``layer``, at ``NAME.union`` (default: the layer's name)."""
    name = name or layer
    kernel.mount(
        kernel.Overlay(
            (str(HERE / layer),),
            place(f"{name}.top"),
            hold_lsm=hold_lsm,
            require_read_only=require_read_only,
        ),
        place(f"{name}.union"),
    )


def bottom(name: str) -> dict[str, object]:
    (found,) = [
        each for each in status.survey() if each.mount.mount_point.endswith(f"/{name}.union")
    ]
    return found.bottoms[0].to_json()


def run(*words: str) -> int:
    return subprocess.run(words, cwd=HERE, capture_output=True, check=False).returncode


def mount(*words: str) -> int:
    """The exit code of mount(8), which in this root is of a version that uses mount(2)."""
    return run("mount", *words)


def unmount(name: str) -> None:
    run("umount", name)


def write(name: str) -> str:
    return told((HERE / name / "new").touch)


def told(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return os.strerror(error.errno or 0)
    return "done"


def reconfigure(name: str, flag: str) -> str:
    fspick = 433  # a system call of x86-64 and all others
    fd = ctypes.CDLL(None).syscall(fspick, -100, str(HERE / name).encode(), 0)
    try:
        syscalls.fsconfig_flag(fd, flag)
        return told(lambda: syscalls.fsconfig_reconfigure(fd))
    finally:
        os.close(fd)  # it keeps the file system alive


def new_mount(fstype: str, device: str) -> None:
    fs = syscalls.fsopen(fstype)
    syscalls.fsconfig_string(fs, "source", device)
    syscalls.fsconfig_create(fs)
    os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=syscalls.fsmount(fs)))


if __name__ == "__main__":
    main()
