"""Where the kernel's copyup code lies, so that a probe can see it on the stack.

/proc/kallsyms names every function with its address, to callers with CAP_SYSLOG and as
long as ``kernel.kptr_restrict`` is not 2; others read zeros.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from itertools import pairwise

from overlay.bpf import objectcache
from overlay.errors import EnvironmentLacks

__all__ = ["KALLSYMS", "NoAddresses", "Range", "copyup_ranges", "known_ranges", "ranges_of"]

KALLSYMS = "/proc/kallsyms"
_NOTES = "/sys/kernel/notes"
#: There, if overlayfs is a module.
_SECTIONS = "/sys/module/overlay/sections"

#: On the stack whenever something is copied up; which of them are inlined into which is
#: the compiler's choice, hence all that exist, with whatever suffix it gave them.
#: ``.cold`` parts only report errors.  Other functions of fs/overlayfs/copy_up.c must not be
#: here: some (ovl_copy_xattr(), ovl_set_attr()) also serve what is no copyup.
_COPYUP = re.compile(
    rb"ovl_(?:copy_up(?:_one|_flags|_with_data)?|maybe_copy_up)(?:\.(?!cold)[\w.]+)?\Z"
)

Range = tuple[int, int]


class NoAddresses(EnvironmentLacks):
    """The kernel does not show where its functions are."""


def ranges_of(lines: Iterable[bytes]) -> list[Range]:
    """The address ranges (start, end) of the copyup functions, merged where they touch.

    ``lines`` is the text of kallsyms: ``address type name [module]``, in any order.  A
    function ends where the next symbol of text begins.
    """
    starts: list[int] = []
    text: list[int] = []
    for line in lines:
        fields = line.split()
        # Padding before a function (6.2 on, CONFIG_CALL_PADDING) has a symbol of its own.
        if fields[1] not in (b"t", b"T") or fields[2].startswith(b"__pfx_"):
            continue
        address = int(fields[0], 16)
        text.append(address)
        if _COPYUP.match(fields[2]):
            starts.append(address)
    text = sorted(set(text))
    following = dict(pairwise([*text, text[-1] + 0x4000])) if text else {}
    merged: list[Range] = []
    for start in sorted(set(starts)):
        end = following[start]
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def copyup_ranges(path: str = KALLSYMS) -> list[Range]:
    """The running kernel's copyup functions.  Raises :class:`NoAddresses`."""
    try:
        raw = _read(path)
    except OSError as error:
        raise NoAddresses(
            f"{path} cannot be read",
            hint="the kernel needs CONFIG_KALLSYMS=y",
            errno=error.errno or 0,
        ) from error
    near = _neighbourhood(raw)
    found = ranges_of(near)
    if not found:
        raise NoAddresses(
            "the kernel has no overlayfs copyup code",
            hint="load the overlay module (modprobe overlay), or use a kernel that has it",
        )
    if found[0][0] == 0:
        raise NoAddresses(
            "the kernel hides its addresses",
            hint="trace as root with CAP_SYSLOG, and set sysctl kernel.kptr_restrict to 0 or 1",
        )
    return found


def known_ranges(path: str = KALLSYMS) -> list[Range]:
    """As :func:`copyup_ranges`, which reads for 0.1 s, but only once for each kernel.

    From one boot to the next all of a kernel's own text moves together.  Where a module
    lies is not known before.
    """
    identity = _identity()
    text = _start_of_text(path)
    if not identity or not text or os.path.exists(_SECTIONS):
        return copyup_ranges(path)
    name = f"copyup-{identity}"
    kept = objectcache.recall(name)
    if isinstance(kept, list):
        return [(text + start, text + end) for start, end in kept]
    found = copyup_ranges(path)
    objectcache.note(name, [(start - text, end - text) for start, end in found])
    return found


def _identity() -> str:
    """Of the kernel's image: a checksum of its notes, which hold its build id."""
    try:
        with open(_NOTES, "rb") as file:
            raw = file.read()
    except OSError:
        return ""
    return hashlib.blake2b(raw, digest_size=16).hexdigest() if b"GNU\0" in raw else ""


def _start_of_text(path: str) -> int:
    """The address of the kernel's own text; 0 where it is not shown."""
    try:
        with open(path, "rb") as file:
            found = re.search(rb"^([0-9a-f]+) T _text$", file.read(1 << 14), re.M)
    except OSError:
        return 0
    return int(found[1], 16) if found else 0


def _read(path: str) -> bytes:
    """The file up to somewhat behind the copyup functions, or all of it.

    The kernel makes the text as it is read, at some 40 MB/s: half of it is half the time.
    """
    parts: list[bytes] = []
    seen = False
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while part := os.read(fd, 1 << 18):
            parts.append(part)
            if seen:
                break
            seen = b" ovl_copy_up_flags\n" in part
    finally:
        os.close(fd)
    return b"".join(parts)


def _neighbourhood(raw: bytes) -> list[bytes]:
    """The lines that can matter, out of well over 100,000: finding them must be quick.

    Symbols of the kernel itself are in the order of their addresses, so those around
    a match are enough; a module's are not, so all of the overlay module are taken.
    """
    lines: list[bytes] = [
        raw[raw.rfind(b"\n", 0, found.start()) + 1 : found.end()]
        for found in re.finditer(rb"[^\n]*\t\[overlay\]\n", raw)
    ]
    if lines:
        return lines
    for found in re.finditer(rb" ovl_(?:copy|do_copy|maybe_copy|link)_?up", raw):
        begin = raw.rfind(b"\n", 0, found.start()) + 1
        end = begin
        for _ in range(8):  # aliases may share the address: look past them
            end = raw.find(b"\n", end) + 1
            if end == 0:
                end = len(raw)
                break
        lines.extend(raw[begin:end].splitlines())
    return lines
