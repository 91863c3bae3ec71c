"""Whether the kernel takes the processor from what runs in it, BPF programs among it.

Programs at trampolines may be preempted like the function that they stand at, and since 7.0
those at tracepoints, too.  When another thread then comes there on the same processor, the
kernel does not run the program a second time: what it would have seen is missing.  Programs
at kprobes run with preemption off.
"""

from __future__ import annotations

import os
import re

from overlay.bpf.btf import VMLINUX
from overlay.newmount import new_mount

__all__ = ["preempts", "preempts_by", "preempts_tracepoints"]

#: As PREEMPT_DYNAMIC shows the model in use: ``none voluntary (full) lazy``.
_IN_USE = re.compile(r"\((\w+)\)")


def preempts() -> bool:
    """Whether this kernel does, or may."""
    return preempts_by(_models(), os.uname().version)


def preempts_tracepoints() -> bool:
    """The same of what stands at tracepoints: since 7.0 SRCU looks after that (a46023d5616e).

    Before, such a variable was for what few did, and is no sign; then twins are for nothing.
    """
    if not preempts():
        return False
    with open(VMLINUX, "rb") as types:
        return b"\0tracepoint_srcu_srcu_data\0" in types.read()


def preempts_by(models: str | None, version: str) -> bool:
    """The same by what debugfs's ``sched/preempt`` and ``uname -v`` say."""
    found = _IN_USE.search(models or "")
    if found:
        return found[1] in ("full", "lazy")
    # PREEMPT, PREEMPT_RT, PREEMPT_LAZY; and where PREEMPT_DYNAMIC does not say, it may.
    return any(word.startswith("PREEMPT") for word in version.split())


def _models() -> str | None:
    try:
        debugfs = new_mount("debugfs")  # mounted or not: nobody sees this
    except OSError:
        return None
    try:
        file = os.open("sched/preempt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=debugfs)
        with open(file, encoding="ascii") as stream:
            return stream.read()
    except OSError:
        return None
    finally:
        os.close(debugfs)
