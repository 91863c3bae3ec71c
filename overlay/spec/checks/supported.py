"""Supported file systems (L564–L578), the tools for them (L616), and NFS (L583–L595)."""

from __future__ import annotations

import errno
import os
import subprocess
from functools import partial
from typing import Final

from overlay import mountinfo, syscalls
from overlay.spec import filesystems, flash
from overlay.spec.bench import Bench
from overlay.spec.checks import Observations, check
from overlay.spec.observe import Lacks

_CONTENT: Final = b"content on some file system\n" * 41


def _filled(b: Bench) -> None:
    b.file("dir/file", _CONTENT, mode=0o640, owner=(12, 34))
    b.file("dir/gone")
    b.file("dir/sub/deep", b"deep\n")
    b.symlink("dir/link", "file")


def _as_bottom(b: Bench, kind: str) -> Observations:
    """Look, alter and remove over a bottom of that kind."""
    _filled(b)
    if kind == "tmpfs":
        b.submount(b.bottom)
        _filled(b)
        filesystems.remount(b, b.bottom, read_only=True)
    else:
        filesystems.put_bottom(b, kind)
    b.mount()
    yield b.reads("dir/sub/deep", b"deep\n")
    yield b.reads("dir/link", _CONTENT)
    yield b.result("append", partial(b.append, "dir/file", b"more\n"))
    yield b.result("unlink", partial(b.union.unlink, "dir/gone"))
    yield b.copied_up("dir/file", _CONTENT + b"more\n")
    yield b.on_top("dir/gone", "whiteout")
    status = b.union.lstat("dir/file")
    observed = f"{status.st_mode:o} {status.st_uid} {status.st_gid}"
    yield b.same("attributes", "mode and owner of the copy", "100640 12 34", observed)
    yield b.lists("dir", ("file", "link", "sub"))


def _as_top(b: Bench, kind: str) -> Observations:
    """Every kind of entry a top needs, on a top of that kind, kept over a remount."""
    _filled(b)
    if kind == "tmpfs":
        filesystems.mounted_home(b, kind)
    elif kind == "jffs2":
        flash.put_top(b)
    else:
        filesystems.put_top(b, kind)
    _look_for_exchange(b)
    accepted = b.mounts()
    yield accepted
    if not accepted.ok:
        return
    b.append("dir/file", b"more\n")
    b.union.unlink("dir/gone")
    b.union.unlink("dir/sub/deep")
    removed = b.result("rmdir of the emptied directory", partial(b.union.rmdir, "dir/sub"))
    yield removed
    if removed.ok:
        b.union.mkdir("dir/sub")
        yield b.on_top("dir/sub", "opaque directory")
    yield b.copied_up("dir/file", _CONTENT + b"more\n")
    yield b.on_top("dir/gone", "whiteout")
    again = b.mounts(b.remount)
    yield again
    if again.ok:
        yield b.reads("dir/file", _CONTENT + b"more\n")
        yield b.lists("dir", ("file", "link", "sub"))
        yield b.lists("dir/sub", ())


def _look_for_exchange(b: Bench) -> None:
    """Whether the top's file system swaps two names, which some drivers of old ones don't."""
    names = [b.top / ".one", b.top / ".two"]
    for name in names:
        name.touch()
    try:
        here = syscalls.AT_FDCWD
        syscalls.renameat2(here, names[0], here, names[1], syscalls.RENAME_EXCHANGE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        b.found("top-without-exchange")
    finally:
        for name in names:
            name.unlink()


for _kind in ("ext2", "tmpfs", "iso9660", "squashfs", "erofs", "ext4", "xfs", "btrfs"):
    check(f"supported.bottom.{_kind}")(partial(_as_bottom, kind=_kind))
for _kind in ("ext2", "tmpfs", "jffs2", "ext4", "xfs", "btrfs"):
    check(f"supported.top.{_kind}")(partial(_as_top, kind=_kind))


@check("supported.top.must-hold-marks")
def must_hold_marks(b: Bench) -> Observations:
    b.file("file")
    filesystems.mounted_home(b, "ramfs")
    yield b.refuses("mounting with a top on ramfs, which has no xattrs", b.mount)


@check("userland.e2fsck")
def e2fsck(b: Bench) -> Observations:
    _filled(b)
    image = filesystems.put_top(b, "ext4")
    home = b.top.parent
    b.mount()
    b.union.unlink("dir/gone")
    b.union.unlink("dir/sub/deep")
    b.union.rmdir("dir/sub")
    b.union.mkdir("dir/sub")
    yield b.on_top("dir/gone", "whiteout")
    yield b.on_top("dir/sub", "opaque directory")
    b.unmount()
    b.uncover(home)
    done = subprocess.run(["e2fsck", "-f", "-n", image], capture_output=True, check=False)
    b.steps.do(f"e2fsck -f -n {b.steps.path(image)}")
    # 4: errors left uncorrected (e2fsck(8)).
    yield b.same("result", "exit code of e2fsck -f -n", 0, done.returncode)


@check("nfs.bottom")
def nfs_bottom(b: Bench) -> Observations:
    b.bottom = b.home_on_nfs() / "bottom"
    b.make(b.bottom)
    b.file("file")
    yield b.refuses("mounting over a bottom on NFS", b.mount)


@check("nfs.top")
def nfs_top(b: Bench) -> Observations:
    b.file("file")
    b.move_top(b.home_on_nfs())
    yield b.refuses("mounting with a top on NFS", b.mount)


@check("boot.root")
def boot_root(b: Bench) -> Observations:
    roots = [entry.fstype for entry in mountinfo.read() if entry.mount_point == "/"]
    if roots[-1:] != ["overlay"]:
        raise Lacks("a machine that was booted with a union as its root")
    if "overlayfs" not in b.features or "of-fallthru" in b.features:
        raise Lacks("a machine that was booted with this union as its root")
    b.mount()
    one, two = (f"/.fallthru-{os.getpid()}{end}" for end in ("", ".moved"))
    fd = os.open(one, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    os.close(fd)
    yield b.result("renaming a file made in the root", partial(os.rename, one, two))
    yield b.result("removing it", partial(os.unlink, two))
    root = os.stat("/proc/1/root")
    yield b.same("view", "the root of process 1", os.stat("/").st_dev, root.st_dev)
