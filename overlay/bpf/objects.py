"""From C source to bytecode that can be kept, and loaded by anybody without a compiler.

bcc makes the maps while it compiles.  They are only looked at, to be made again by
whoever loads the object (:mod:`overlay.bpf.loading`).
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overlay.bpf import bccload
from overlay.bpf.compiling import quiet_bcc
from overlay.errors import EnvironmentLacks, NoPrivilege

__all__ = [
    "MapSpec",
    "NoBpf",
    "Object",
    "calling",
    "compile_text",
    "linked",
    "refusal",
]

#: An instruction that loads 64 bits takes two places; this says that they are a map's.
_LOAD_64 = 0x18
_MAP_FD = 1
_CALL, _KERNEL_FUNCTION = 0x85, 2
#: The upper half of a constant that is still to be put in (``CONSTANT`` in the tracer's
#: probes/state.c).
_CONSTANT = 0x7FA11700

#: Where a helper's number would be in a call: stands for ``bpf_rdonly_cast()``, whose number is
#: another in each kernel (``RDONLY_CAST`` in the tracer's probes/common.h).
_RDONLY_CAST = 0x7FA117


class NoBpf(EnvironmentLacks):
    """The kernel refuses to load the probes."""


@dataclass(frozen=True)
class MapSpec:
    """What it takes to make a map."""

    name: str
    kind: int
    key_size: int
    value_size: int
    entries: int
    flags: int


@dataclass(frozen=True)
class Object:
    """Compiled probes.  In ``code`` a map is referred to by its place in ``maps``.

    ``targets`` are the functions and tracepoints that the kernel they were compiled for has,
    with their number in its type information; a module's begin at ``module_from``.
    """

    maps: tuple[MapSpec, ...]
    code: dict[str, bytes]
    targets: dict[str, int]
    module_from: int


def compile_text(text: str, include: Path) -> tuple[tuple[MapSpec, ...], dict[str, bytes]]:
    """The maps and programs in ``text``, which may include files from ``include``.

    Raises :class:`NoBpf` or :class:`~overlay.bpf.bccload.NoBcc`.
    """
    bcc = bccload.load()
    with quiet_bcc() as messages:
        try:
            bpf = bcc.BPF(text=text.encode(), cflags=[f"-I{include}"])
        except Exception as error:  # bcc raises bare Exception for whatever fails
            raise refusal(error, messages()) from error
    try:
        return _taken_apart(bcc, bpf)
    finally:
        bpf.cleanup()


def _taken_apart(bcc: Any, bpf: Any) -> tuple[tuple[MapSpec, ...], dict[str, bytes]]:
    lib, module = bcc.lib, ctypes.c_void_p(bpf.module)
    lib.bpf_table_name.restype = ctypes.c_char_p  # bcc's own Python does not say
    maps: list[MapSpec] = []
    places: dict[int, int] = {}
    for number in map(ctypes.c_size_t, range(lib.bpf_num_tables(module))):
        name = lib.bpf_table_name(module, number)
        places[lib.bpf_table_fd_id(module, number)] = len(maps)
        maps.append(
            MapSpec(
                name=name.decode(),
                kind=lib.bpf_table_type_id(module, number),
                key_size=lib.bpf_table_key_size_id(module, number),
                value_size=lib.bpf_table_leaf_size_id(module, number),
                entries=lib.bpf_table_max_entries_id(module, number),
                flags=lib.bpf_table_flags_id(module, number),
            )
        )
    code = {}
    for number in map(ctypes.c_size_t, range(lib.bpf_num_functions(module))):
        name = lib.bpf_function_name(module, number)
        code[name.decode()] = _with_places(bpf.dump_func(name), places)
    return tuple(maps), code


def _with_places(code: bytes, places: dict[int, int]) -> bytes:
    """The instructions with maps named by place instead of descriptor."""
    changed = bytearray(code)
    for at in range(0, len(code), 8):
        if code[at] == _LOAD_64 and code[at + 1] >> 4 == _MAP_FD:
            (fd,) = struct.unpack_from("=i", code, at + 4)
            struct.pack_into("=i", changed, at + 4, places[fd])
    return bytes(changed)


def linked(code: bytes, fds: Sequence[int], told: Sequence[int] = ()) -> bytes:
    """The instructions with maps by the descriptors ``fds``, and with the constants ``told``."""
    changed = bytearray(code)
    for at in range(0, len(code), 8):
        if code[at] != _LOAD_64:
            continue
        low, high = (
            struct.unpack_from("<I", code, at + 4)[0],
            struct.unpack_from("<I", code, at + 12)[0],
        )
        if code[at + 1] >> 4 == _MAP_FD:
            struct.pack_into("<I", changed, at + 4, fds[low])
        elif high == _CONSTANT:
            struct.pack_into("<I", changed, at + 4, told[low] & 0xFFFFFFFF)
            struct.pack_into("<I", changed, at + 12, told[low] >> 32)
    return bytes(changed)


def calling(code: bytes, function: int) -> bytes:
    """The instructions with calls of ``function``, the kernel's ``bpf_rdonly_cast()`` by its type
    id, where that is meant."""
    changed = bytearray(code)
    for at in range(0, len(code), 8):
        if code[at] == _CALL and struct.unpack_from("<i", code, at + 4)[0] == _RDONLY_CAST:
            changed[at + 1] = _KERNEL_FUNCTION << 4
            struct.pack_into("<i", changed, at + 4, function)
    return bytes(changed)


def refusal(error: Exception, messages: str) -> EnvironmentLacks:
    """What ``error``, met when probes were compiled or loaded, means to who runs this."""
    text = f"{error} {messages}"
    # bcc says so in words only; root may be refused, too (containers, lockdown).
    if "Operation not permitted" in text:
        return NoPrivilege(
            "the kernel does not permit loading BPF programs",
            hint="trace as root, or with CAP_BPF, CAP_PERFMON and CAP_SYSLOG; "
            "in a container, from the host",
        )
    lines = messages.strip().splitlines() or [str(error)]
    said = next((line for line in lines if "error:" in line), lines[-1])
    return NoBpf(
        f"the kernel does not take the tracing probes: {error} ({said})",
        hint="it needs BPF with ring buffers (5.8) and bpf_task_pt_regs (5.15); "
        "`fallthru trace doctor` tries each part",
    )
