"""bpf(2): one call whose argument is another structure for every command."""

from __future__ import annotations

import ctypes
import os
import re
import struct
from typing import Any

from overlay.syscalls.libc import call, word

__all__ = ["bpf"]

#: Older than the numbers that all architectures share.
_NR_BPF = 321 if os.uname().machine == "x86_64" else 280

#: One field of a struct layout: a count belongs to "s" only.
_STRUCT_FIELD = re.compile(r"\d*s|[a-zA-Z]")


def bpf(command: int, layout: str, *fields: int | bytes | bytearray) -> int:
    """Give the kernel ``fields``, laid out as ``layout`` (of :mod:`struct`) says.

    ``layout`` is the command's part of ``union bpf_attr``.  A buffer whose place in it is a
    ``Q`` is passed by its address; what the kernel writes to a bytearray is there afterwards.
    """
    attr, _buffers = _with_addresses(layout, fields)
    return call(_NR_BPF, word(command), attr, word(len(attr)))


def _with_addresses(
    layout: str, fields: tuple[int | bytes | bytearray, ...]
) -> tuple[ctypes.Array[ctypes.c_char], list[Any]]:
    """The packed structure, and what must live as long as the call that it is for."""
    buffers: list[Any] = []
    values: list[int | bytes | bytearray] = []
    kinds = [kind for kind in _STRUCT_FIELD.findall(layout) if kind != "x"]
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
