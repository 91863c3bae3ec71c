"""What open descriptors and mappings see of a copyup (L347–L354, L632–L635)."""

from __future__ import annotations

import os

from overlay.spec.bench import Bench
from overlay.spec.checks import Observations, check
from overlay.spec.held import Descriptor
from overlay.spec.observe import shown

_OLD = b"old content\n"
_NEW = b"new content, and longer\n"


def _copied_up_behind(b: Bench) -> Descriptor:
    """A read-only descriptor that was opened before somebody else rewrote the file."""
    b.file("file", _OLD, mode=0o644)
    b.mount()
    old = b.descriptor("file", os.O_RDONLY)
    with b.open("file", "r+b") as file:
        file.write(_NEW)
    b.union.chmod("file", 0o600)
    return old


@check("descriptor.keeps-old-content")
def keeps_old_content(b: Bench) -> Observations:
    with _copied_up_behind(b) as old:
        yield b.same("descriptor", "reading it", shown(_OLD), shown(old.read()))


@check("descriptor.keeps-old-attributes")
def keeps_old_attributes(b: Bench) -> Observations:
    with _copied_up_behind(b) as old:
        status = old.stat()
        yield b.same(
            "descriptor",
            "fstat of it",
            f"mode 100644 size {len(_OLD)}",
            f"mode {status.st_mode:o} size {status.st_size}",
        )


@check("descriptor.new-open-sees-change")
def new_open(b: Bench) -> Observations:
    with _copied_up_behind(b):
        yield b.reads("file", _NEW)
        yield b.copied_up("file", _NEW)
        with b.descriptor("file", os.O_RDONLY) as new:
            b.append("file", b"more\n")
            observed = new.read()
            yield b.same("descriptor", "one opened since", shown(_NEW + b"more\n"), shown(observed))


@check("descriptor.mapping-keeps-old-content")
def mapping(b: Bench) -> Observations:
    b.file("file", _OLD)
    b.mount()
    with b.descriptor("file", os.O_RDONLY) as opened:
        mapping = opened.map(len(_OLD))
    with b.open("file", "r+b") as file:
        file.write(_NEW)
    yield b.same("descriptor", "reading the mapping", shown(_OLD), shown(mapping.read()))


@check("descriptor.survives-unlink")
def survives_unlink(b: Bench) -> Observations:
    b.file("file", _OLD)
    b.mount()
    with b.descriptor("file", os.O_RDONLY) as old:
        b.union.unlink("file")
        b.write("file", _NEW)
        yield b.same("descriptor", "reading it", shown(_OLD), shown(old.read()))
        yield b.reads("file", _NEW)


@check("descriptor.writes-after-rename")
def writes_after_rename(b: Bench) -> Observations:
    b.file("file", _OLD)
    b.mount()
    with b.descriptor("file", os.O_RDWR) as file:
        yield b.result("rename", lambda: b.union.rename("file", "moved"))
        file.write(_NEW)
    yield b.reads("moved", _NEW)
    yield b.copied_up("moved", _NEW)
    yield b.on_top("file", "whiteout")


@check("descriptor.new-mapping-sees-change")
def new_mapping(b: Bench) -> Observations:
    b.file("file", _OLD)
    b.mount()
    with b.open("file", "r+b") as file:
        file.write(_NEW)
    with b.descriptor("file", os.O_RDONLY) as opened:
        mapping = opened.map(len(_NEW))
    with b.open("file", "r+b") as file:
        file.write(_NEW.upper())
    seen = shown(mapping.read())
    yield b.same("descriptor", "reading the mapping", shown(_NEW.upper()), seen)
