"""Where each backend's programs stand: the tracepoints and functions, by the names they have had.

A function that a kernel does not have, or that its compiler inlined, has a stand-in, or
what it tells is left out.  Programs are those of ``tracer/probes``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = [
    "BACKENDS",
    "BEYOND_TMPFS",
    "DROPS",
    "EXITS",
    "FINDER",
    "FUNCTIONS",
    "ONCE",
    "TASKS",
    "TRACEPOINTS",
    "Hook",
]

#: Backends, the one that disturbs least and sees most first.
BACKENDS: Final = ("fentry", "kprobe", "tracepoint")


@dataclass(frozen=True)
class Hook:
    """One program's place: the first of ``targets`` that there is.

    ``program`` is the C function; for functions its name says whether it runs when they
    are entered (``enter_``) or left (``leave_``).  ``needed``: nothing works without it.
    ``only``: the one backend that wants it.
    """

    program: str
    targets: tuple[str, ...]
    needed: bool = False
    only: str | None = None


def _raw(program: str, *tracepoints: str, needed: bool = False) -> tuple[Hook, ...]:
    return tuple(Hook(f"on_{program}", (name,), needed) for name in tracepoints)


#: Arguments that matter stand at the same place in all that share a program, so each is
#: compiled and verified once.
TRACEPOINTS: Final = (
    *_raw("changed", "writeback_mark_inode_dirty", needed=True),
    *_raw("changed", "ctime_ns_xchg", "ctime_xchg_skip"),
    *_raw("sync_enter", "ext4_sync_file_enter", "f2fs_sync_file_enter"),
    *_raw("sync_enter", "xfs_file_fsync", "btrfs_sync_file"),
    *_raw("sync_exit", "ext4_sync_file_exit", "f2fs_sync_file_exit"),
    *_raw("clone", "xfs_reflink_remap_range"),
    *_raw("evicted", "ext4_evict_inode", "f2fs_evict_inode", "btrfs_inode_evict"),
    *_raw("xfs_evicted", "xfs_destroy_inode"),
    *_raw("percpu_alloc", "percpu_alloc_percpu"),
)

#: Where a top is not on tmpfs, which tells all by the others; and these are reached often.
BEYOND_TMPFS: Final = (
    *_raw("changed", "inode_set_ctime_to_ts"),
    *_raw("cap_capable", "cap_capable"),
)

#: Finds the unions that there are, once.
FINDER: Final = _raw("fsopened", "sys_exit", needed=True)

#: The end of every system call of the machine, which makes each of them slower: hooked
#: only while nothing else tells what it does.
EXITS: Final = _raw("sys_exit", "sys_exit", needed=True)

#: What tells that a file which was to be a copy was dropped, by the top's file system.
DROPS: Final = {
    "tmpfs": "ctime_ns_xchg",
    "ext4": "ext4_evict_inode",
    "f2fs": "f2fs_evict_inode",
    "btrfs": "btrfs_inode_evict",
    "xfs": "xfs_destroy_inode",
}

#: For every backend: the end of a thread; the first only where processes were asked for.
TASKS: Final = (
    *_raw("sched_process_fork", "sched_process_fork"),
    *_raw("sched_process_exit", "sched_process_exit", needed=True),
)

_FLAGS = ("ovl_copy_up_flags",)
_START = ("ovl_copy_up_start",)
_DATA = ("ovl_copy_up_file", "ovl_copy_up_data")  # the second before 5.19, and where inlined
_CLONE = ("do_clone_file_range", "vfs_clone_file_range")  # the first until 6.7
_TMPFILE = ("kernel_tmpfile_open", "vfs_tmpfile_open", "vfs_tmpfile")  # 6.3, 6.1, before


def _around(program: str, *functions: str) -> tuple[Hook, ...]:
    return Hook(f"enter_{program}", functions), Hook(f"leave_{program}", functions)


_TEMP = ("ovl_create_temp",)

FUNCTIONS: Final = (
    Hook("enter_flags", _FLAGS, needed=True, only="kprobe"),
    Hook("leave_flags", _FLAGS, needed=True),
    Hook("enter_start", _START, needed=True, only="kprobe"),
    Hook("leave_start", _START, needed=True, only="fentry"),
    Hook("enter_end", ("ovl_copy_up_end",), needed=True),
    Hook("enter_data", _DATA),
    Hook("leave_data", _DATA),
    Hook("enter_splice", ("do_splice_direct",), needed=True, only="kprobe"),
    Hook("leave_splice", ("do_splice_direct",), needed=True),
    Hook("enter_clone", _CLONE, needed=True, only="kprobe"),
    Hook("leave_clone", _CLONE, needed=True),
    Hook("enter_sync", ("vfs_fsync",)),
    Hook("leave_sync", ("vfs_fsync",)),
    Hook("enter_made", _TMPFILE, needed=True, only="kprobe"),
    Hook("enter_made", _TEMP, needed=True, only="kprobe"),
    Hook("leave_made", _TMPFILE),
    Hook("leave_made", _TEMP),
    Hook("enter_link", ("vfs_link",), needed=True),
    Hook("enter_link", ("vfs_rename",), needed=True),
    *_around("lookup", "ovl_lookup"),
    Hook("leave_layer", ("lookup_one_unlocked",)),
    *_around("readdir", "ovl_iterate"),
    Hook("enter_opened", ("ovl_path_open",)),
    *_around("open", "ovl_open"),
    *_around("rename", "ovl_rename"),
    *_around("unlink", "ovl_unlink"),
    *_around("rmdir", "ovl_rmdir"),
    *_around("mkdir", "ovl_mkdir"),
    *_around("setattr", "ovl_setattr"),
    Hook("enter_fill", ("ovl_fill_super",), only="kprobe"),
    Hook("leave_fill", ("ovl_fill_super",)),
    Hook("leave_attach", ("attach_recursive_mnt", "do_move_mount")),
    Hook("leave_attach", ("ovl_reconfigure", "ovl_remount")),  # the first since 6.5
    Hook("enter_gone", ("ovl_put_super",)),
)

#: Programs that have no twin where others have (probes/calls.c): little is lost with a run of them.
ONCE: Final = frozenset(
    {
        *("enter_fill", "leave_fill", "leave_attach", "enter_gone"),
        *("on_percpu_alloc", "on_fsopened", "on_sys_exit", "on_cap_capable"),
        *("on_sched_process_fork", "on_sched_process_exit"),
    }
)
