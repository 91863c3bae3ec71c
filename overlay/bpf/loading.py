"""Maps, programs and attachments, by bpf(2) alone.

bcc only compiles (:mod:`overlay.bpf.objects`).  What it makes is loaded here, so that a
program can be kept on disk and loaded without a compiler, and can be attached to
functions of modules (bcc learnt that in 0.31).  Constants, commands and structures are
those of ``include/uapi/linux/bpf.h``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator

from overlay import syscalls

__all__ = [
    "FENTRY",
    "FEXIT",
    "KPROBE",
    "RAW_TRACEPOINT",
    "Map",
    "attach_kprobe",
    "attach_raw_tracepoint",
    "attach_trampoline",
    "has_kprobes",
    "load_program",
    "module_btf",
    "runs_missed",
]

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT, _PROG_LOAD = range(6)
_OBJ_INFO, _RAW_TRACEPOINT_OPEN, _BTF_FD_BY_ID = 15, 17, 19

#: Program type, expected attach type.
KPROBE = (2, 0)
RAW_TRACEPOINT = (17, 0)
FENTRY = (26, 24)
FEXIT = (26, 25)

_LOG_BYTES = 1 << 20


class Map:
    """A BPF map; keys and values are bytes as the kernel holds them."""

    def __init__(
        self, name: str, kind: int, key_size: int, value_size: int, entries: int, flags: int = 0
    ) -> None:
        self.key_size, self.value_size = key_size, value_size
        text = name.encode()[:15]
        self.fd = syscalls.bpf(
            _MAP_CREATE, "IIIIIII16s", kind, key_size, value_size, entries, flags, 0, 0, text
        )

    def __getitem__(self, key: bytes) -> bytes:
        value = bytearray(self.value_size)
        try:
            syscalls.bpf(_MAP_LOOKUP, "IQQQ", self.fd, key, value, 0)
        except FileNotFoundError:
            raise KeyError(key) from None
        return bytes(value)

    def __setitem__(self, key: bytes, value: bytes) -> None:
        syscalls.bpf(_MAP_UPDATE, "IQQQ", self.fd, key, value, 0)

    def __delitem__(self, key: bytes) -> None:
        syscalls.bpf(_MAP_DELETE, "IQQQ", self.fd, key, 0, 0)

    def keys(self) -> Iterator[bytes]:
        """All keys; those that come and go meanwhile may be missed."""
        at: int | bytes = 0
        while True:
            following = bytearray(self.key_size)
            try:
                syscalls.bpf(_MAP_NEXT, "IQQQ", self.fd, at, following, 0)
            except FileNotFoundError:
                return
            at = bytes(following)
            yield at

    def close(self) -> None:
        os.close(self.fd)


def load_program(
    name: str,
    kind: tuple[int, int],
    code: bytes,
    *,
    btf_id: int = 0,
    btf_fd: int = 0,
) -> int:
    """The descriptor of a program made of the instructions ``code``.

    For FENTRY and FEXIT, ``btf_id`` is the function that it will stand at, in the types
    of the kernel or of the module whose ``btf_fd`` is given.  Raises :class:`OSError`; the
    verifier's last words are its note.
    """

    def load(log: bytearray | int) -> int:
        size = 0 if isinstance(log, int) else len(log)
        fields = (len(code) // 8, code, b"GPL\0", int(size > 0), size, log, 0, 0)
        unused = (0, 0, 0, 0, 0, 0, 0)  # types of the program itself
        return syscalls.bpf(
            _PROG_LOAD,
            "IIQQIIQII16sIIIIQIIQIII",
            kind[0], *fields, name.encode()[:15], 0, kind[1], *unused, btf_id, btf_fd,
        )  # fmt: skip

    try:
        return _patiently(lambda: load(0))
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOENT):
            raise
        log = bytearray(_LOG_BYTES)
        try:
            return load(log)
        except OSError as again:
            said = bytes(log).rstrip(b"\0").decode(errors="replace").strip().splitlines()
            again.add_note("; ".join(line.strip() for line in said[-3:]))
            raise again from None


def _patiently(call: Callable[[], int]) -> int:
    # The verifier gives up when a signal comes; libbpf, too, asks again.
    for _ in range(5):
        try:
            return call()
        except BlockingIOError:
            continue
    return call()


#: Up to ``recursion_misses`` of ``struct bpf_prog_info``, which is its last word here (5.12).
_PROGRAM_INFO = struct.Struct("=208xQ")


def runs_missed(program: int) -> int:
    """How often the kernel did not run ``program``: it was running on that processor already.

    So it is where what runs in the kernel is preempted: by another thread that comes there.
    """
    info = bytearray(_PROGRAM_INFO.size)
    syscalls.bpf(_OBJ_INFO, "IIQ", program, len(info), info)
    (missed,) = _PROGRAM_INFO.unpack(info)
    return int(missed)


def attach_raw_tracepoint(program: int, name: str) -> int:
    """A descriptor that keeps ``program`` at a tracepoint, until it is closed."""
    return syscalls.bpf(_RAW_TRACEPOINT_OPEN, "QI", name.encode() + b"\0", program)


def attach_trampoline(program: int) -> int:
    """The same for a program that was loaded for a function."""
    return syscalls.bpf(_RAW_TRACEPOINT_OPEN, "QI", 0, program)


_PMU = "/sys/bus/event_source/devices/kprobe/type"
_SET_BPF, _ENABLE = 0x40042408, 0x2400


def has_kprobes() -> bool:
    """Whether there are kprobes that programs can stand at."""
    return os.path.exists(_PMU)


def attach_kprobe(program: int, function: str, *, at_return: bool) -> int:
    """The same for a kprobe, or with ``at_return`` a kretprobe.

    Raises :class:`FileNotFoundError` where the kernel has no such function, or no kprobes.
    """
    with open(_PMU, encoding="ascii") as file:
        pmu = int(file.read())
    size = 72  # PERF_ATTR_SIZE_VER1: up to config2
    fd = syscalls.perf_event_open(
        "IIQQQQQIIQQ",
        pmu, size, int(at_return), 0, 0, 0, 0, 0, 0, function.encode() + b"\0", 0,
        cpu=0,
    )  # fmt: skip
    try:
        fcntl.ioctl(fd, _SET_BPF, program)
        fcntl.ioctl(fd, _ENABLE, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def module_btf(module: str) -> int:
    """A descriptor of the types of a loaded module.  Raises :class:`FileNotFoundError`."""
    for ident in syscalls.bpf_btf_ids():
        try:
            fd = syscalls.bpf(_BTF_FD_BY_ID, "I", ident)
        except FileNotFoundError:
            continue  # it went while we looked
        if syscalls.bpf_btf_name(fd) == (module.encode(), True):
            return fd
        os.close(fd)
    raise FileNotFoundError(errno.ENOENT, f"the module {module} has no type information")
