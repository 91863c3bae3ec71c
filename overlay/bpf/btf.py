"""Where the running kernel keeps the fields that BPF programs read, from its own type information.

BTF (``/sys/kernel/btf/vmlinux``, format in the kernel's ``Documentation/bpf/btf.rst``)
describes every structure of the kernel that runs.  Reading offsets from it, rather
than from headers, is what lets one probe source fit every kernel and needs no header
package.  Only what is asked for is decoded: the file holds more than 100,000 types and
reading it must not be felt when tracing starts.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from overlay.errors import EnvironmentLacks

__all__ = ["OVERLAY", "VMLINUX", "Btf", "Member", "NoBtf", "struct_header"]

VMLINUX = "/sys/kernel/btf/vmlinux"
#: Where overlayfs is a module (as Debian builds it), its types are here once it is loaded.
OVERLAY = "/sys/kernel/btf/overlay"

_MAGIC = 0xEB9F
_KIND_PTR, _KIND_ARRAY, _KIND_STRUCT, _KIND_UNION, _KIND_FUNC = 2, 3, 4, 5, 12
#: Kinds that only stand for another type: typedef, volatile, const, restrict, type tag.
_ALIASES = frozenset((8, 9, 10, 11, 18))
#: Bytes that follow the 12-byte head of a type: (fixed, per vlen entry), by kind.
_EXTRA: dict[int, tuple[int, int]] = {
    1: (4, 0),  # int
    3: (12, 0),  # array
    4: (0, 12),  # struct
    5: (0, 12),  # union
    6: (0, 8),  # enum
    13: (0, 8),  # func_proto
    14: (4, 0),  # var
    15: (0, 12),  # datasec
    17: (4, 0),  # decl_tag
    19: (0, 12),  # enum64
}


class NoBtf(EnvironmentLacks):
    """The kernel describes no types, or not the one that is needed."""


@dataclass(frozen=True)
class Member:
    """A member of a structure: where it starts and how many bytes it takes."""

    name: str
    offset: int
    size: int


class Btf:
    """The types of the kernel, or of another BTF blob.

    ``struct inode`` and the like are found by name; members inside anonymous
    structures and unions are found as if they stood directly in the outer one, as in C.
    ``module`` is a second blob that continues the first, as modules' do; without a ``path``
    it is overlayfs's where that is a module.

    Raises :class:`NoBtf` when a file is missing or is no BTF.
    """

    def __init__(self, path: str | None = None, module: str | None = None) -> None:
        if path is None:
            path = VMLINUX
            module = module or (OVERLAY if os.path.exists(OVERLAY) else None)
        self.path = path
        types, self._strings = _read(path)
        self._kernel_words = len(types) // 4
        if module is not None:
            # A module's type ids and string offsets go on where the kernel's end.
            more, strings = _read(module)
            types, self._strings = types + more, self._strings + strings
        self._types = memoryview(types).cast("I")

    def member(self, struct_name: str, path: str) -> Member:
        """The member ``path`` (``"f_path.dentry"``) of ``struct struct_name``.

        Raises :class:`NoBtf` naming the structure or member that the kernel does not have.
        """
        index = self._struct(struct_name)
        offset, size, type_id = 0, 0, 0
        for step, name in enumerate(path.split(".")):
            if step:
                index = self._skip_aliases(type_id)
            found = self._find(index, name)
            if found is None:
                raise NoBtf(
                    f"this kernel's struct {struct_name} has no member {path} ({self.path})",
                    hint="fallthru does not know this kernel's layout; please report it",
                )
            bits, type_id = found
            offset += bits // 8
            size = self._sizeof(type_id)
        return Member(path, offset, size)

    def has_member(self, struct_name: str, path: str) -> bool:
        """Whether the kernel has the structure and the member."""
        try:
            self.member(struct_name, path)
        except NoBtf:
            return False
        return True

    def size(self, struct_name: str) -> int:
        """Bytes that ``struct struct_name`` takes."""
        return self._types[self._struct(struct_name) + 2]

    def struct_id(self, struct_name: str) -> int:
        """The type id of ``struct struct_name``, or 0 if it is the module's."""
        position = self._struct(struct_name)
        return bisect_left(self._positions, position) if position < self._kernel_words else 0

    def has_tracepoint(self, name: str) -> bool:
        """Whether the kernel was built with the tracepoint (its ``btf_trace_`` type exists)."""
        return self._strings.find(b"\0btf_trace_" + name.encode() + b"\0") >= 0

    def functions(self, names: Iterable[str]) -> dict[str, int]:
        """The type ids of those of the functions ``names`` that the kernel describes."""
        places = {offset: name for name in names for offset in self._offsets(name)}
        types = self._types
        return {
            places[types[at]]: ident
            for ident, at in enumerate(self._positions[1:], 1)
            if types[at] in places and (types[at + 1] >> 24) & 0x1F == _KIND_FUNC
        }

    def returns_pointer(self, function: str) -> bool:
        """Whether the function is described, and as one that returns a pointer."""
        ident = self.functions([function]).get(function)
        if ident is None:
            return False
        prototype = self._positions[self._types[self._positions[ident] + 2]]
        result = self._types[prototype + 2]
        return (
            bool(result) and (self._types[self._skip_aliases(result) + 1] >> 24) & 0x1F == _KIND_PTR
        )

    @cached_property
    def module_from(self) -> int:
        """The first type id that is the module's; one past all of them without a module."""
        return bisect_left(self._positions, self._kernel_words, lo=1)

    # The records of the type section have variable length, so an id can be turned
    # into a position only by walking them all once.
    @cached_property
    def _positions(self) -> list[int]:
        types = self._types
        fixed = [3] * 32
        each = [0] * 32
        for kind, (head, per) in _EXTRA.items():
            fixed[kind] = 3 + head // 4
            each[kind] = per // 4
        positions = [0]  # id 0 is void
        append = positions.append
        at, end = 0, len(types)
        while at < end:
            append(at)
            info = types[at + 1]
            kind = (info >> 24) & 0x1F
            at += fixed[kind] + each[kind] * (info & 0xFFFF)
        return positions

    @cached_property
    def _structs(self) -> dict[int, int]:
        """Name offset → position, for structures only."""
        types = self._types
        found: dict[int, int] = {}
        for at in self._positions[1:]:
            if (types[at + 1] >> 24) & 0x1F == _KIND_STRUCT and types[at]:
                found.setdefault(types[at], at)
        return found

    def _struct(self, name: str) -> int:
        for offset in self._offsets(name):
            position = self._structs.get(offset)
            if position is not None:
                return position
        raise NoBtf(
            f"the kernel's type information has no struct {name} ({self.path})",
            hint="is the overlay file system part of this kernel, or its module loaded?",
        )

    def _offsets(self, name: str) -> Iterator[int]:
        """Where the string stands: once in the kernel's part, once more in a module's."""
        needle = b"\0" + name.encode() + b"\0"
        at = self._strings.find(needle)
        while at >= 0:
            yield at + 1
            at = self._strings.find(needle, at + 1)

    def _name(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    def _find(self, at: int, name: str) -> tuple[int, int] | None:
        """Bit offset and type id of a member of the structure at ``at``."""
        types = self._types
        info = types[at + 1]
        bitfields = info >> 31
        for entry in range(at + 3, at + 3 + 3 * (info & 0xFFFF), 3):
            name_off, type_id, raw = types[entry], types[entry + 1], types[entry + 2]
            bits = raw & 0xFFFFFF if bitfields else raw
            if name_off == 0:
                inner = self._skip_aliases(type_id)
                if (types[inner + 1] >> 24) & 0x1F in (_KIND_STRUCT, _KIND_UNION):
                    found = self._find(inner, name)
                    if found is not None:
                        return bits + found[0], found[1]
            elif self._name(name_off) == name:
                return bits, type_id
        return None

    def _skip_aliases(self, type_id: int) -> int:
        at = self._positions[type_id]
        while (self._types[at + 1] >> 24) & 0x1F in _ALIASES:
            at = self._positions[self._types[at + 2]]
        return at

    def _sizeof(self, type_id: int) -> int:
        at = self._skip_aliases(type_id)
        kind = (self._types[at + 1] >> 24) & 0x1F
        if kind == _KIND_PTR:
            return 8
        if kind == _KIND_ARRAY:
            return self._sizeof(self._types[at + 3]) * self._types[at + 5]
        return self._types[at + 2]


def _read(path: str) -> tuple[bytes, bytes]:
    """The type section and the string section of a blob."""
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError as error:
        raise NoBtf(
            f"the kernel's type information cannot be read: {path}",
            hint="the kernel needs CONFIG_DEBUG_INFO_BTF=y",
            errno=error.errno or 0,
        ) from error
    if len(raw) < 24 or struct.unpack_from("=H", raw)[0] != _MAGIC:
        raise NoBtf(f"{path} is not BTF", hint="it should start with the bytes 9f eb")
    header, type_off, type_len, str_off, str_len = struct.unpack_from("=IIIII", raw, 4)
    types = raw[header + type_off : header + type_off + type_len]
    return types, raw[header + str_off : header + str_off + str_len]


_SCALARS = {1: "unsigned char", 2: "unsigned short", 4: "unsigned int", 8: "unsigned long long"}


def struct_header(btf: Btf, wanted: Mapping[str, Iterable[str]]) -> str:
    """C declarations of ``struct k_NAME`` that hold only the ``wanted`` members, padded into place.

    ``{"file": ["f_path.dentry"]}`` gives ``struct k_file`` with a member ``f_path_dentry``
    at the offset it has in the running kernel.  Members are plain integers of the
    member's size (pointers too), arrays of bytes where no integer has that size.
    """
    out = ["#pragma once", "/* generated from " + os.path.basename(btf.path) + " */"]
    for name, paths in wanted.items():
        members = sorted((btf.member(name, path) for path in paths), key=lambda m: m.offset)
        out.append(f"struct k_{name} {{")
        # A union: overlapping members (a union in the kernel) need no special care.
        out.append("    union {")
        for number, member in enumerate(members):
            label = member.name.replace(".", "_")
            scalar = _SCALARS.get(member.size)
            kind, suffix = (scalar, "") if scalar else ("unsigned char", f"[{member.size or 1}]")
            pad = f"unsigned char pad{number}[{member.offset}]; " if member.offset else ""
            out.append(
                f"        struct {{ {pad}{kind} {label}{suffix}; }} __attribute__((packed));"
            )
        out.append("    };")
        out.append("};")
    return "\n".join(out) + "\n"
