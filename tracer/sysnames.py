"""Names of the system calls that can copy up, by number.

Numbers are those of the architecture that runs (x86-64, or the generic table that
arm64 uses); the few others keep their number.
"""

from __future__ import annotations

import os

__all__ = ["IO_URING_WORKER", "KERNEL_THREAD", "name_of", "numbers_of"]

#: Not system calls: where a copyup came from instead (``enum`` in probes/tracepoints.c).
IO_URING_WORKER = 0xFFFFFFFF
KERNEL_THREAD = 0xFFFFFFFE

_COMMON = {
    425: "io_uring_setup",
    426: "io_uring_enter",
    428: "open_tree",
    429: "move_mount",
    437: "openat2",
    439: "faccessat2",
    452: "fchmodat2",
    463: "setxattrat",
    466: "removexattrat",
    469: "file_setattr",
    IO_URING_WORKER: "io_uring",
    KERNEL_THREAD: "kernel",
}
_X86_64 = {
    1: "write",
    2: "open",
    9: "mmap",
    16: "ioctl",
    18: "pwrite64",
    20: "writev",
    40: "sendfile",
    49: "bind",
    59: "execve",
    72: "fcntl",
    74: "fsync",
    75: "fdatasync",
    76: "truncate",
    77: "ftruncate",
    82: "rename",
    83: "mkdir",
    84: "rmdir",
    85: "creat",
    86: "link",
    87: "unlink",
    88: "symlink",
    90: "chmod",
    91: "fchmod",
    92: "chown",
    93: "fchown",
    94: "lchown",
    132: "utime",
    133: "mknod",
    165: "mount",
    188: "setxattr",
    189: "lsetxattr",
    190: "fsetxattr",
    197: "removexattr",
    198: "lremovexattr",
    199: "fremovexattr",
    235: "utimes",
    257: "openat",
    258: "mkdirat",
    259: "mknodat",
    260: "fchownat",
    261: "futimesat",
    263: "unlinkat",
    264: "renameat",
    265: "linkat",
    266: "symlinkat",
    268: "fchmodat",
    280: "utimensat",
    285: "fallocate",
    304: "open_by_handle_at",
    316: "renameat2",
    322: "execveat",
    326: "copy_file_range",
}
_GENERIC = {
    5: "setxattr",
    6: "lsetxattr",
    7: "fsetxattr",
    14: "removexattr",
    15: "lremovexattr",
    16: "fremovexattr",
    25: "fcntl",
    29: "ioctl",
    33: "mknodat",
    34: "mkdirat",
    35: "unlinkat",
    36: "symlinkat",
    37: "linkat",
    38: "renameat",
    40: "mount",
    45: "truncate",
    46: "ftruncate",
    47: "fallocate",
    52: "fchmod",
    53: "fchmodat",
    54: "fchownat",
    55: "fchown",
    56: "openat",
    64: "write",
    68: "pwrite64",
    71: "sendfile",
    82: "fsync",
    83: "fdatasync",
    88: "utimensat",
    200: "bind",
    221: "execve",
    222: "mmap",
    265: "open_by_handle_at",
    276: "renameat2",
    281: "execveat",
    285: "copy_file_range",
}
_NAMES = _COMMON | (_X86_64 if os.uname().machine == "x86_64" else _GENERIC)


def name_of(number: int) -> str:
    """``openat`` for its number; ``syscall_N`` for one that is not listed."""
    return _NAMES.get(number, f"syscall_{number}")


def numbers_of(*names: str) -> list[int]:
    """The numbers of those of ``names`` that this architecture has."""
    return [number for number, name in _NAMES.items() if name in names]
