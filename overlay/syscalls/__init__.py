"""The system calls Python does not offer, and the only package that uses ctypes for them.

Each wrapper carries the call's own name and raises :class:`OSError` with the
kernel's errno and, where there is one, the file name.  Paths may be ``str``
(surrogate escapes included), ``bytes`` or path-like.  Descriptors returned are
close-on-exec and belong to the caller.

Numbers from 424 on are the same on every architecture Linux has had since they
were added (``include/uapi/asm-generic/unistd.h``); older calls go through libc.

The modules are by subject; everything is used as ``syscalls.NAME``.
"""

from overlay.syscalls.bpf import *
from overlay.syscalls.devices import *
from overlay.syscalls.fanotify import *
from overlay.syscalls.files import *
from overlay.syscalls.libc import Path as Path
from overlay.syscalls.memory import *
from overlay.syscalls.mounts import *
from overlay.syscalls.processes import *
from overlay.syscalls.xattrs import *
