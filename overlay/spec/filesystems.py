"""Layers on file systems of any kind, made for one clause: images on loop devices.

:func:`put_bottom` moves what a check has filled into an image and mounts it read-only in
the bottom's place; :func:`put_top` gives the union a top on a fresh file system.  What a
machine lacks (the file system in the kernel, the tool that makes it) is :class:`Lacks`.
The mounts go with the bench, and the loop devices with the mounts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from overlay import syscalls
from overlay.newmount import new_mount
from overlay.spec.bench import Bench
from overlay.spec.fingerprint import fingerprint
from overlay.spec.kept import KeptImages
from overlay.spec.observe import Lacks

__all__ = [
    "KINDS",
    "Kind",
    "attached",
    "make_image",
    "mounted_home",
    "open_image",
    "put_bottom",
    "put_top",
    "remount",
]

_MS_RDONLY: Final = 0x01  # include/uapi/linux/mount.h
_MS_REMOUNT: Final = 0x20


@dataclass(frozen=True, slots=True)
class Kind:
    """How an image of a file system is made: ``size`` MiB, by ``make`` {image} and {tree}.

    A ``finished`` one is made from a directory tree and cannot be written afterwards.  A
    ``single`` one is told by its UUID: no copy of it can be mounted at the same time.
    """

    make: tuple[str, ...]
    size: int = 0
    finished: bool = False
    single: bool = False


KINDS: Final = {
    "ext2": Kind(("mkfs.ext2", "-q", "-F", "{image}"), 8),
    # Without lazy initialisation: it would write to the image while a clause runs.
    "ext4": Kind(
        ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", "{image}"), 16
    ),
    "xfs": Kind(("mkfs.xfs", "-q", "-m", "reflink=1", "{image}"), 320, single=True),
    "btrfs": Kind(("mkfs.btrfs", "-q", "{image}"), 120, single=True),
    "squashfs": Kind(
        ("mksquashfs", "{tree}", "{image}", "-quiet", "-no-progress", "-noappend"), finished=True
    ),
    "erofs": Kind(("mkfs.erofs", "{image}", "{tree}"), finished=True),
    "iso9660": Kind(
        ("xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", "{image}", "{tree}"), finished=True
    ),
}


def make_image(kind: str, image: Path, tree: Path, kept: KeptImages) -> None:
    """A fresh file system in the file ``image``; of a finished kind, with what ``tree`` holds."""
    made = KINDS[kind]
    if not _known(kind):
        raise Lacks(f"{kind} in this kernel")
    if shutil.which(made.make[0]) is None:
        raise Lacks(f"{made.make[0]}, which makes a {kind} file system")
    name = f"{kind}.{_digest(tree)}" if made.finished else kind
    _provide(kind, name, image, partial(_mkfs, made, image, tree), kept)


def _provide(kind: str, name: str, image: Path, make: Callable[[], None], kept: KeptImages) -> None:
    if KINDS[kind].single:
        make()
    else:
        kept.provide(name, image, make)


def _digest(tree: Path) -> str:
    """The same for trees that differ in nothing but when their directories were made."""
    entries = fingerprint(os.fspath(tree))
    for name, entry in entries.items():
        if stat.S_ISDIR(entry.mode):
            entries[name] = replace(entry, mtime_ns=0)
    return hashlib.sha256(repr(sorted(entries.items())).encode()).hexdigest()


def _mkfs(made: Kind, image: Path, tree: Path) -> None:
    if not made.finished:
        with image.open("wb") as file:
            file.truncate(made.size << 20)
    words = [word.format(image=image, tree=tree) for word in made.make]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{made.make[0]}: {done.stderr.strip()}")


def _known(kind: str) -> bool:
    try:
        # Asking for it loads its module; /proc/filesystems tells only what is loaded.
        os.close(syscalls.fsopen(kind))
    except OSError:
        return False
    return True


@contextmanager
def attached(image: Path) -> Iterator[str]:
    """The node of a loop device that ``image`` is on, to be written, for a with block.

    It outlives the block with what is mounted from it.  A device keeps BLKROSET when it
    changes its image, so the flag is cleared: a killed user has left it set, or the block did.
    """
    image_fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        device, name = syscalls.loop_attach(image_fd, read_only=False)
    finally:
        os.close(image_fd)
    try:
        syscalls.blkroset(device, False)
        yield name
    finally:
        syscalls.blkroset(device, False)
        os.close(device)


def open_image(kind: str, image: Path, *, read_only: bool) -> int:
    """Mount ``image``, detached; ``read_only`` is about the mount, the device can be written."""
    with attached(image) as name:
        return new_mount(kind, name, [("ro", "")] if read_only else [])


def put_bottom(bench: Bench, kind: str) -> None:
    """Move the bottom's content onto a file system of ``kind``, mounted read-only there."""
    image = bench.mnt.parent / f"bottom.{kind}"
    if KINDS[kind].finished:
        _make(bench, kind, image, bench.bottom)
    else:
        name = f"{kind}.{_digest(bench.bottom)}"
        _provide(kind, name, image, partial(_make_filled, bench, kind, image), bench.kept)
        _note_filling(bench, kind, image)
    _attach(bench, kind, image, bench.bottom, read_only=True)


def _make_filled(bench: Bench, kind: str, image: Path) -> None:
    make_image(kind, image, bench.bottom, bench.kept)
    tree = open_image(kind, image, read_only=False)
    try:
        words = ["cp", "-a", f"{bench.bottom}/.", f"/proc/self/fd/{tree}"]
        subprocess.run(words, check=True, pass_fds=(tree,))
    finally:
        os.close(tree)


def _note_filling(bench: Bench, kind: str, image: Path) -> None:
    """What a person does, who has no mount without a place."""
    _note_making(bench, kind, image, bench.bottom)
    home = bench.steps.path(bench.bottom.parent / "filling")
    bench.steps.do(f"mkdir {home}")
    _note_attaching(bench, kind, image, home, read_only=False)
    bench.steps.do(f"cp -a {bench.steps.path(bench.bottom)}/. {home}")
    bench.steps.do(f"umount {home}")


def _make(bench: Bench, kind: str, image: Path, tree: Path) -> None:
    make_image(kind, image, tree, bench.kept)
    _note_making(bench, kind, image, tree)


def _note_making(bench: Bench, kind: str, image: Path, tree: Path) -> None:
    made, said = KINDS[kind], bench.steps.path(image)
    if not made.finished:
        bench.steps.do(f"truncate -s {made.size}M {said}")
    words = [word.format(image=said, tree=bench.steps.path(tree)) for word in made.make]
    bench.steps.do(f"{' '.join(words)} >made")


def _attach(bench: Bench, kind: str, image: Path, where: Path, *, read_only: bool) -> None:
    bench.attach(open_image(kind, image, read_only=read_only), where)
    _note_attaching(bench, kind, image, bench.steps.path(where), read_only=read_only)


def _note_attaching(bench: Bench, kind: str, image: Path, where: str, *, read_only: bool) -> None:
    # Not "mount -o loop,ro", whose device cannot be written either; it ends with the mount.
    how = "-o ro " if read_only else ""
    bench.steps.do(f"device=$(losetup --find --show {bench.steps.path(image)})")
    bench.steps.do('blockdev --setrw "$device"')
    bench.steps.do(f'mount -t {kind} {how}"$device" {where}')
    bench.steps.do('losetup -d "$device"')


def put_top(bench: Bench, kind: str) -> Path:
    """Move the still empty top onto a fresh file system of ``kind``; returns its image."""
    home = bench.top.parent / "home"
    bench.make(home)
    image = bench.mnt.parent / f"top.{kind}"
    _make(bench, kind, image, home)
    _attach(bench, kind, image, home, read_only=False)
    bench.move_top(home)
    return image


def mounted_home(bench: Bench, kind: str) -> None:
    """Move the still empty top onto a fresh file system without a device, such as ramfs."""
    home = bench.top.parent / "home"
    bench.make(home)
    try:
        tree = new_mount(kind)
    except OSError as error:
        raise Lacks(f"{kind} in this kernel ({error.strerror})") from None
    bench.attach(tree, home)
    bench.steps.do(f"mount -t {kind} {kind} {bench.steps.path(home)}")
    bench.move_top(home)


def remount(bench: Bench, where: Path, *, read_only: bool) -> None:
    """What ``mount -o remount,ro`` or ``remount,rw`` asks of the file system at ``where``."""
    flags = _MS_REMOUNT | (_MS_RDONLY if read_only else 0)
    bench.steps.attempt(
        f"mount -o remount,{'ro' if read_only else 'rw'} {bench.steps.path(where)}",
        lambda: syscalls.mount(None, where, None, flags, None),
    )
