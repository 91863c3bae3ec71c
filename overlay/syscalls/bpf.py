"""bpf(2), one call whose argument is another structure for every command, and perf events."""

from __future__ import annotations

import ctypes
import os
import struct

from overlay.lighttyping import TYPE_CHECKING
from overlay.syscalls.libc import call, word

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["bpf", "bpf_btf_ids", "bpf_btf_name", "perf_event_open"]

#: Older than the numbers that all architectures share.
_NR_BPF, _NR_PERF_EVENT_OPEN = (321, 298) if os.uname().machine == "x86_64" else (280, 241)

_BPF_OBJ_GET_INFO_BY_FD = 15
_BPF_BTF_GET_NEXT_ID = 23


def bpf(command: int, layout: str, *fields: int | bytes | bytearray) -> int:
    """Give the kernel ``fields``, laid out as ``layout`` (of :mod:`struct`) says.

    ``layout`` is the command's part of ``union bpf_attr``.  A buffer whose place in it is a
    ``Q`` is passed by its address; what the kernel writes to a bytearray is there afterwards.
    """
    attr, _buffers = _with_addresses(layout, fields)
    return call(_NR_BPF, word(command), attr, word(len(attr)))


def bpf_btf_ids() -> Iterator[int]:
    """Numbers of the type descriptions that are loaded: of the kernel, modules, programs."""
    attr = (ctypes.c_uint32 * 3)()  # start_id, next_id, open_flags
    while True:
        try:
            call(_NR_BPF, word(_BPF_BTF_GET_NEXT_ID), attr, word(ctypes.sizeof(attr)))
        except FileNotFoundError:
            return
        yield attr[1]
        attr[0] = attr[1]


class _BtfInfo(ctypes.Structure):
    _fields_ = (
        ("btf", ctypes.c_uint64),
        ("btf_size", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("name", ctypes.c_uint64),
        ("name_len", ctypes.c_uint32),
        ("kernel_btf", ctypes.c_uint32),
    )


def bpf_btf_name(fd: int) -> tuple[bytes, bool]:
    """What a type description is called, and whether it is the kernel's or a module's."""
    name = bytearray(64)
    buffer = (ctypes.c_char * len(name)).from_buffer(name)
    info = bytearray(_BtfInfo(name=ctypes.addressof(buffer), name_len=len(name)))
    bpf(_BPF_OBJ_GET_INFO_BY_FD, "IIQ", fd, len(info), info)
    return bytes(name).partition(b"\0")[0], bool(_BtfInfo.from_buffer(info).kernel_btf)


def perf_event_open(
    layout: str, *fields: int | bytes | bytearray, pid: int = -1, cpu: int = -1
) -> int:
    """An event by ``struct perf_event_attr``, which is given as for :func:`bpf`."""
    attr, _buffers = _with_addresses(layout, fields)
    cloexec = 8
    return call(_NR_PERF_EVENT_OPEN, attr, word(pid), word(cpu), word(-1), word(cloexec))


def _with_addresses(
    layout: str, fields: tuple[int | bytes | bytearray, ...]
) -> tuple[ctypes.Array[ctypes.c_char], list[Any]]:
    """The packed structure, and what must live as long as the call that it is for."""
    buffers: list[Any] = []
    values: list[int | bytes | bytearray] = []
    # A count belongs to "s", and so makes no fields.
    kinds = [char for char in layout if char.isalpha() and char != "x"]
    for kind, field in zip(kinds, fields, strict=True):
        if kind == "Q" and not isinstance(field, int):
            if isinstance(field, bytearray):
                buffer = (ctypes.c_char * len(field)).from_buffer(field)
            else:
                buffer = ctypes.create_string_buffer(field, len(field))
            buffers.append(buffer)
            values.append(ctypes.addressof(buffer))
        else:
            values.append(field)
    packed = struct.pack(layout, *values)
    return ctypes.create_string_buffer(packed, len(packed)), buffers
