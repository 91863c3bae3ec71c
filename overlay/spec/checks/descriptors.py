"""What open descriptors and mappings see of a copyup (L347–L354, L632–L635)."""

from __future__ import annotations

import mmap
import os

from overlay.spec.bench import Bench
from overlay.spec.checks import Observations, check
from overlay.spec.observe import shown

_OLD = b"old content\n"
_NEW = b"new content, and longer\n"


def _copied_up_behind(b: Bench) -> int:
    """A read-only descriptor that was opened before somebody else rewrote the file."""
    b.file("file", _OLD, mode=0o644)
    b.mount()
    fd = b.union.open("file", os.O_RDONLY | os.O_CLOEXEC)
    with b.open("file", "r+b") as file:
        file.write(_NEW)
    b.union.chmod("file", 0o600)
    return fd


@check("descriptor.keeps-old-content")
def keeps_old_content(b: Bench) -> Observations:
    fd = _copied_up_behind(b)
    try:
        yield b.same("descriptor", "reading it", shown(_OLD), shown(os.pread(fd, 100, 0)))
    finally:
        os.close(fd)


@check("descriptor.keeps-old-attributes")
def keeps_old_attributes(b: Bench) -> Observations:
    fd = _copied_up_behind(b)
    try:
        status = os.fstat(fd)
        yield b.same(
            "descriptor",
            "fstat of it",
            f"mode 100644 size {len(_OLD)}",
            f"mode {status.st_mode:o} size {status.st_size}",
        )
    finally:
        os.close(fd)


@check("descriptor.new-open-sees-change")
def new_open(b: Bench) -> Observations:
    old = _copied_up_behind(b)
    try:
        yield b.reads("file", _NEW)
        yield b.copied_up("file", _NEW)
        fd = b.union.open("file", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with b.open("file", "ab") as file:
                file.write(b"more\n")
            observed = os.pread(fd, 100, 0)
            yield b.same("descriptor", "one opened since", shown(_NEW + b"more\n"), shown(observed))
        finally:
            os.close(fd)
    finally:
        os.close(old)


@check("descriptor.mapping-keeps-old-content")
def mapping(b: Bench) -> Observations:
    b.file("file", _OLD)
    b.mount()
    fd = b.union.open("file", os.O_RDONLY | os.O_CLOEXEC)
    mapped = mmap.mmap(fd, len(_OLD), flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    os.close(fd)
    try:
        with b.open("file", "r+b") as file:
            file.write(_NEW)
        yield b.same("descriptor", "reading the mapping", shown(_OLD), shown(bytes(mapped)))
    finally:
        mapped.close()


@check("descriptor.survives-unlink")
def survives_unlink(b: Bench) -> Observations:
    b.file("file", _OLD)
    b.mount()
    fd = b.union.open("file", os.O_RDONLY)
    try:
        b.union.unlink("file")
        b.write("file", _NEW)
        yield b.same("descriptor", "reading it", shown(_OLD), shown(os.pread(fd, 100, 0)))
        yield b.reads("file", _NEW)
    finally:
        os.close(fd)


@check("descriptor.writes-after-rename")
def writes_after_rename(b: Bench) -> Observations:
    b.file("file", _OLD)
    b.mount()
    fd = b.union.open("file", os.O_RDWR)
    try:
        yield b.result("rename", lambda: b.union.rename("file", "moved"))
        os.pwrite(fd, _NEW, 0)
    finally:
        os.close(fd)
    yield b.reads("moved", _NEW)
    yield b.copied_up("moved", _NEW)
    yield b.on_top("file", "whiteout")


@check("descriptor.new-mapping-sees-change")
def new_mapping(b: Bench) -> Observations:
    b.file("file", _OLD)
    b.mount()
    with b.open("file", "r+b") as file:
        file.write(_NEW)
    fd = b.union.open("file", os.O_RDONLY)
    mapped = mmap.mmap(fd, len(_NEW), flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    os.close(fd)
    try:
        with b.open("file", "r+b") as file:
            file.write(_NEW.upper())
        seen = shown(bytes(mapped))
        yield b.same("descriptor", "reading the mapping", shown(_NEW.upper()), seen)
    finally:
        mapped.close()
