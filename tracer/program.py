"""From probe source to a loaded program: offsets, features, filters, bcc.

The probes (``tracer/probes/*.c``, in parts) are compiled when tracing starts, against the
structures of the running kernel.  bcc insists on a tree of kernel headers; it gets the
small one in ``overlay/bpf/shim``, so no header package is needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overlay.bpf import bccload
from overlay.bpf.btf import Btf, struct_header
from overlay.bpf.compiling import quiet_bcc
from overlay.errors import EnvironmentLacks, NoPrivilege
from tracer.kallsyms import Range, copyup_ranges

__all__ = ["RING_BYTES", "Filters", "NoBpf", "Program", "build"]

PROBES = Path(__file__).parent / "probes"

#: What the program is put together from; bcc looks after maps only in the main text, so
#: the parts cannot include each other.
_PARTS = ("state", "unions", "names", "copyup", "tracepoints")

#: Room for some 16,000 copyups that wait to be fetched.
RING_BYTES = 8 << 20

#: What the probes read.  All of it must exist.
_FIELDS: dict[str, Sequence[str]] = {
    "inode": (
        "i_sb",
        "i_size",
        "i_blocks",
        "i_nlink",
        "i_count.counter",
        "i_mode",
        "i_dentry.first",
        "i_data.nrpages",
    ),
    "dentry": ("d_parent", "d_inode", "d_name.name", "d_name.len"),
    "super_block": ("s_dev", "s_magic", "s_type", "s_fs_info", "s_root", "s_instances.next"),
    "file_system_type": ("name", "fs_supers.first"),
    "fs_context": ("fs_type",),
    "file": ("private_data",),
    "files_struct": ("fdt",),
    "fdtable": ("fd", "max_fds"),
    "hlist_node": ("next",),
    "ovl_fs": ("layers", "numlayer", "workdir", "creator_cred", "config.metacopy"),
    "ovl_layer": ("mnt",),
    "vfsmount": ("mnt_root", "mnt_sb"),
    "cred": ("uid",),
    "signal_struct": ("live.counter",),
    "task_struct": ("cred", "real_cred", "files", "flags", "tgid", "pid", "signal"),
}

#: Tracepoint → function in the probes.  Arguments that matter stand at the same place
#: in all that share a function, so each is compiled and verified once.
_REQUIRED = {
    "writeback_mark_inode_dirty": "changed",
    "sys_exit": "sys_exit",
    "sched_process_exit": "sched_process_exit",
}
#: Used where the kernel has them: each tells more about a phase.
_OPTIONAL = {
    "inode_set_ctime_to_ts": "changed",
    "ctime_ns_xchg": "changed",
    "ctime_xchg_skip": "changed",
    "cap_capable": "cap_capable",
    "ext4_sync_file_enter": "sync_enter",
    "ext4_sync_file_exit": "sync_exit",
    "f2fs_sync_file_enter": "sync_enter",
    "f2fs_sync_file_exit": "sync_exit",
    "xfs_file_fsync": "sync_enter",
    "xfs_reflink_remap_range": "clone",
    "btrfs_sync_file": "sync_enter",
}
_FORK = {"sched_process_fork": "sched_process_fork"}


class NoBpf(EnvironmentLacks):
    """The kernel refuses to load the probes."""


@dataclass(frozen=True)
class Filters:
    """What to trace: empty means everything.

    ``devices`` are unions by device number (``st_dev`` of a directory in it), ``pids``
    processes with all their descendants, ``cgroup`` a directory of the cgroup2 file
    system, with everything below it.
    """

    devices: tuple[int, ...] = ()
    pids: tuple[int, ...] = ()
    cgroup: str | None = None


@dataclass
class Program:
    """A loaded program and the tracepoints it is attached to."""

    bpf: Any
    attached: frozenset[str]

    def detach(self) -> None:
        self.bpf.cleanup()


def build(filters: Filters) -> Program:
    """Compile, load and attach the tracepoint probes.

    Raises :class:`~overlay.bpf.bccload.NoBcc`, :class:`~overlay.bpf.btf.NoBtf`,
    :class:`~tracer.kallsyms.NoAddresses` or :class:`NoBpf`, by what is missing.
    """
    with ThreadPoolExecutor(1) as pool:
        # The kernel writes its list of symbols meanwhile.
        ranges = pool.submit(copyup_ranges)
        bcc = bccload.load()
        btf = Btf()
    hooks = _REQUIRED | {tp: name for tp, name in _OPTIONAL.items() if btf.has_tracepoint(tp)}
    if filters.pids:
        hooks |= _FORK
    text = _source(btf, ranges.result(), filters)
    with quiet_bcc() as messages:
        try:
            bpf = bcc.BPF(text=text.encode(), cflags=[f"-I{PROBES}"])
            attached = _attach(bcc, bpf, hooks)
        except Exception as error:  # bcc raises bare Exception for whatever fails
            raise _refusal(error, messages()) from error
    return Program(bpf, attached)


def _source(btf: Btf, ranges: Sequence[Range], filters: Filters) -> str:
    fields = dict(_FIELDS)
    defines: dict[str, int | str] = {
        "RING_PAGES": RING_BYTES // os.sysconf("SC_PAGE_SIZE"),
        "OVL_LAYER_SIZE": btf.size("ovl_layer"),
        "OWN_PID": os.getpid(),
    }
    # Moved out of d_u in a 7.x kernel.
    alias = "d_u.d_alias.next" if btf.has_member("dentry", "d_u.d_alias.next") else "d_alias.next"
    fields["dentry"] = (*fields["dentry"], alias)
    defines["DENTRY_ALIAS"] = alias.replace(".", "_")
    # Kernels without task I/O accounting (CONFIG_TASK_IO_ACCOUNTING) lack it.
    if btf.has_member("task_struct", "ioac.write_bytes"):
        fields["task_struct"] = (*fields["task_struct"], "ioac.write_bytes")
        defines["HAVE_IOAC"] = 1
    if filters.devices:
        defines["FILTER_MOUNTS"] = 1
    if filters.pids:
        defines["FILTER_TREE"] = 1
    if filters.cgroup:
        defines["FILTER_CGROUP"] = 1
    tests = " || ".join(f"(at >= {low:#x}ULL && at < {high:#x}ULL)" for low, high in ranges)
    return "\n".join(
        [
            "#include <linux/types.h>",
            *(f"#define {name} {value}" for name, value in defines.items()),
            struct_header(btf, fields),
            f"static __always_inline int in_copyup_code(u64 at) {{ return {tests}; }}",
            *((PROBES / f"{part}.c").read_text() for part in _PARTS),
        ]
    )


def _attach(bcc: Any, bpf: Any, hooks: Mapping[str, str]) -> frozenset[str]:
    done = set()
    for tracepoint, name in hooks.items():
        bpf.load_func(f"on_{name}".encode(), bcc.BPF.RAW_TRACEPOINT)  # bcc loads each function once
        try:
            bpf.attach_raw_tracepoint(tp=tracepoint.encode(), fn_name=f"on_{name}".encode())
        except Exception:
            if tracepoint in _REQUIRED:
                raise
            continue
        done.add(tracepoint)
    return frozenset(done)


def _refusal(error: Exception, messages: str) -> EnvironmentLacks:
    text = f"{error} {messages}"
    # bcc says so in words only; root may be refused, too (containers, lockdown).
    if "Operation not permitted" in text:
        return NoPrivilege(
            "the kernel does not permit loading BPF programs",
            hint="trace as root, or with CAP_BPF, CAP_PERFMON and CAP_SYSLOG; "
            "in a container, from the host",
        )
    last = (messages.strip().splitlines() or [str(error)])[-1]
    return NoBpf(
        f"the kernel does not take the tracing probes: {error} ({last})",
        hint="it needs BPF with ring buffers (5.8) and bpf_task_pt_regs (5.15); "
        "`fallthru trace doctor` tries each part",
    )
