"""Really really read-only (L232, L256–L268): judged by trying to make the bottom writable."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from overlay.spec import filesystems
from overlay.spec.bench import Bench
from overlay.spec.checks import Observations, check


def _remount_rw(b: Bench, bottom: Path) -> None:
    filesystems.remount(b, bottom, read_only=False)


def _image(b: Bench) -> None:
    b.file("file", b"bottom\n")
    filesystems.put_bottom(b, "ext2")


@check("readonly.required")
def required(b: Bench) -> Observations:
    b.file("file")
    yield b.refuses("mounting over a bottom that is mounted read-write", b.mount)


@check("readonly.remount-refused")
def remount_refused(b: Bench) -> Observations:
    b.needs_mount("the engine holds its layers only while it is asked something")
    _image(b)
    b.mount()
    yield b.refuses("remounting the bottom read-write", partial(_remount_rw, b, b.bottom))
    yield b.reads("file", b"bottom\n")


@check("readonly.released")
def released(b: Bench) -> Observations:
    _image(b)
    b.mount()
    yield b.reads("file", b"bottom\n")
    b.unmount()
    yield b.result("remount,rw after unmounting the union", partial(_remount_rw, b, b.bottom))
    yield b.result("remount,ro again", partial(filesystems.remount, b, b.bottom, read_only=True))


@check("readonly.counts-users")
def counts_users(b: Bench) -> Observations:
    b.needs_mount("the engine holds its layers only while it is asked something")
    _image(b)
    b.mount()
    other, top, work = (b.top.parent / name for name in ("other", "top2", "top2.work"))
    b.make(other, top, work)
    b.mount_union(other, bottom=b.bottom, top=top, work=work)
    b.unmount(other)
    yield b.refuses(
        "remounting read-write after one of two unions is gone", partial(_remount_rw, b, b.bottom)
    )


@check("readonly.second-mount")
def second_mount(b: Bench) -> Observations:
    _image(b)
    elsewhere = b.mnt.parent / "elsewhere"
    b.make(elsewhere)
    b.bind(b.bottom, elsewhere)
    b.mount()
    yield b.result("mkdir in another mount of it", lambda: b.calls(elsewhere).mkdir("new"), "EROFS")
    yield b.reads("file", b"bottom\n")


@check("readonly.without-device")
def without_device(b: Bench) -> Observations:
    b.needs_mount("the engine holds its layers only while it is asked something")
    b.submount(b.bottom)
    b.file("file", b"bottom\n")
    filesystems.remount(b, b.bottom, read_only=True)
    b.mount()
    yield b.refuses("remounting a tmpfs bottom read-write", partial(_remount_rw, b, b.bottom))
