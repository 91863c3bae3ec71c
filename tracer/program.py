"""From probe source to a loaded program: offsets, features, what a run is told, hooks.

The probes (``tracer/probes/*.c``, in parts) are compiled against the structures of the
running kernel, once: the object is kept (:mod:`overlay.bpf.objectcache`).  What differs from
run to run are constants, put in when it is loaded.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from overlay.bpf import loading as bpf
from overlay.bpf import objectcache
from overlay.bpf.btf import OVERLAY, VMLINUX, Btf, struct_header
from overlay.bpf.compiling import SHIM
from overlay.bpf.objects import MapSpec, NoBpf, Object, calling, compile_text, refusal
from overlay.errors import NoPrivilege
from tracer.attaching import Loader, Program
from tracer.hooks import BEYOND_TMPFS, EXITS, FINDER, FUNCTIONS, TASKS, TRACEPOINTS, Hook
from tracer.kallsyms import Range, known_ranges
from tracer.kinds import KINDS
from tracer.preemption import preempts, preempts_tracepoints

__all__ = [
    "COPYUPS",
    "RINGS",
    "Filters",
    "NoBpf",
    "Options",
    "Program",
    "build",
]

PROBES = Path(__file__).parent / "probes"

#: What a program is put together from; bcc looks after maps only in the main text, so
#: the parts cannot include each other.
_COMMON = ("state", "unions", "names", "who")
_PARTS = {
    "fentry": (*_COMMON, "calls", "operations", "functions", "lives", "tasks"),
    "kprobe": (*_COMMON, "calls", "operations", "functions", "lives", "tasks"),
    "tracepoint": (*_COMMON, "copyup", "tracepoints", "tasks"),
}

#: Sizes of the rings in bytes: one has room for some 16,000 copyups that wait to be fetched,
#: the spare one takes what the first does not.
RINGS = {"ring": 8 << 20, "spare": 1 << 20}

#: What the probes read.  All of it must exist.
_FIELDS: dict[str, Sequence[str]] = {
    "inode": (
        "i_sb",
        "i_size",
        "i_blocks",
        "i_nlink",
        "i_count.counter",
        "i_mode",
        "i_rdev",
        "i_dentry.first",
        "i_data.nrpages",
    ),
    "dentry": ("d_parent", "d_inode", "d_sb", "d_fsdata", "d_name.name", "d_name.len"),
    "super_block": ("s_dev", "s_magic", "s_type", "s_fs_info", "s_root", "s_instances.next"),
    "file_system_type": ("name", "fs_supers.first"),
    "fs_context": ("fs_type",),
    "file": ("private_data", "f_path.dentry"),
    "files_struct": ("fdt",),
    "fdtable": ("fd", "max_fds"),
    "hlist_node": ("next",),
    "ovl_fs": ("layers", "numlayer", "workdir", "creator_cred", "tmpfile", "config.metacopy"),
    "ovl_layer": ("mnt",),
    "ovl_inode": ("__upperdentry", "vfs_inode"),
    "ovl_dir_file": ("is_real",),
    "dir_context": ("pos",),
    "vfsmount": ("mnt_root", "mnt_sb"),
    "cred": ("uid",),
    "signal_struct": ("live.counter",),
    "task_struct": ("cred", "real_cred", "files", "flags", "tgid", "pid", "signal"),
}

#: Sources of ours that have a say in what an object is.
_SOURCES = ("program.py", "hooks.py")

_RANGES = 6


@dataclass(frozen=True)
class Filters:
    """What to trace: empty means everything.

    ``devices`` are unions by device number (``st_dev`` of a directory in it), ``pids``
    processes with all their descendants, ``cgroup`` a directory of the cgroup2 file
    system, with everything below it, ``uids`` users; ``min_ns`` is the least duration.
    """

    devices: tuple[int, ...] = ()
    pids: tuple[int, ...] = ()
    cgroup: str | None = None
    uids: tuple[int, ...] = ()
    min_ns: int = 0


@dataclass(frozen=True)
class Options:
    """What to find out besides copyups: ``stacks``, who called them in user space; ``rows``,
    the kinds (of ``tracer.kinds.KINDS``) of which each one is wanted, not only their sum."""

    stacks: bool = False
    rows: tuple[str, ...] = ()


#: Copyups, and the sums of what else the backend sees.
COPYUPS = Options()


def build(backend: str, filters: Filters, options: Options = COPYUPS) -> Program:
    """Compile (or find), load and attach the probes of ``backend`` (of ``hooks.BACKENDS``).

    Raises :class:`~overlay.bpf.bccload.NoBcc`, :class:`~overlay.bpf.btf.NoBtf`,
    :class:`~tracer.kallsyms.NoAddresses` or :class:`NoBpf`, by what is missing.
    """
    if backend == "fentry":
        _need_trampolines()
    elif backend == "kprobe" and not bpf.has_kprobes():
        raise NoBpf(
            "the kernel has no kprobes",
            hint="it was built without CONFIG_KPROBES, or CONFIG_KPROBE_EVENTS",
        )
    made = _object(backend)
    told = _constants(filters, known_ranges() if backend == "tracepoint" else (), options)
    twins = (backend == "fentry" and preempts()) or (
        backend == "tracepoint" and preempts_tracepoints()
    )
    program = Program()
    try:
        for spec in made.maps:
            program.maps[spec.name] = _map(spec, twins=twins)
        program.loader = Loader(program, made, told, backend, twins=twins)
        program.loader.attach(_hooks(backend, filters))
    except OSError as error:
        program.close()
        raise refusal(error, "\n".join(getattr(error, "__notes__", ()))) from error
    except BaseException:
        program.close()
        raise
    return program


def _need_trampolines() -> None:
    """Not to compile what cannot be loaded: that type 1 is no function is seen last."""
    nothing = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)  # return 0
    try:
        bpf.load_program("trampolines", bpf.FENTRY, nothing, btf_id=1)
    except PermissionError as error:
        if error.errno == errno.EPERM:
            raise NoPrivilege(
                "the kernel does not permit programs at trampolines (fentry)",
                hint="trace as root; kernels in lockdown refuse it to everybody",
                errno=errno.EPERM,
            ) from error
    except OSError:
        pass


def _hooks(backend: str, filters: Filters) -> tuple[Hook, ...]:
    tasks = TASKS if filters.pids else TASKS[1:]
    if backend == "tracepoint":
        return TRACEPOINTS + FINDER + tasks
    chosen = (hook for hook in FUNCTIONS if hook.only in (None, backend))
    return (*chosen, *tasks)


def _map(spec: MapSpec, *, twins: bool) -> bpf.Map:
    entries = RINGS.get(spec.name, spec.entries * (1 + (twins and spec.name == "rooms")))
    return bpf.Map(spec.name, spec.kind, spec.key_size, spec.value_size, entries, spec.flags)


def _constants(filters: Filters, ranges: Sequence[Range], options: Options) -> list[int]:
    """In the order of the first ``enum`` of probes/state.c, after which of twins it is."""
    if len(ranges) > _RANGES:
        raise NoBpf(
            f"this kernel's copyup code lies in {len(ranges)} places",
            hint=f"the tracepoint backend can tell {_RANGES} apart; please report it",
        )
    kinds = (filters.devices, filters.pids, filters.cgroup, filters.uids)
    which = sum(1 << place for place, given in enumerate(kinds) if given)
    bounds = [bound for both in ranges for bound in both]
    rows = sum(1 << KINDS.index(kind) for kind in set(options.rows))
    return [
        os.getpid(),
        which,
        int(options.stacks),
        rows,
        filters.min_ns,
        *bounds,
        *[0] * (2 * _RANGES - len(bounds)),
    ]


def _object(backend: str) -> Object:
    name = f"{backend}-{_checksum(backend)}"
    found = objectcache.find(name)
    if found is None:
        found = _compiled(backend)
        objectcache.keep(name, found)
    return found


def _checksum(backend: str) -> str:
    """Of all that an object comes from."""
    digest = hashlib.blake2b(digest_size=16)
    here = Path(__file__).parent
    files = [Path(VMLINUX), Path(OVERLAY), *(here / name for name in _SOURCES)]
    files += [*sorted(PROBES.rglob("*.[ch]")), *sorted(SHIM.rglob("*.h"))]
    for path in files:
        try:
            raw = path.read_bytes()
        except OSError:
            raw = b""  # the module, where it is none; whatever else lacks is told later
        digest.update(len(raw).to_bytes(8, "little") + raw)
    digest.update(f"{backend} {os.sysconf('SC_PAGE_SIZE')}".encode())
    return digest.hexdigest()


def _compiled(backend: str) -> Object:
    btf = Btf()
    if backend == "tracepoint":
        number = btf.functions(["bpf_rdonly_cast"]).get("bpf_rdonly_cast")
        if number is not None:
            made = _from_source(btf, backend, cast=number)
            if _accepted(made):
                return made
    return _from_source(btf, backend)


def _accepted(made: Object) -> bool:
    """Whether the kernel takes all of these programs, which are for tracepoints."""
    program = Program()
    try:
        for spec in made.maps:
            program.maps[spec.name] = _map(spec, twins=False)
        told = _constants(Filters(), (), COPYUPS)
        return Loader(program, made, told, "tracepoint", twins=False).loads(made.code)
    finally:
        program.close()


def _from_source(btf: Btf, backend: str, *, cast: int | None = None) -> Object:
    """``cast``: the number of ``bpf_rdonly_cast()``, where fields are loaded by its means."""
    text = _source(btf, backend, typed=cast is not None)
    maps, code = compile_text(text, PROBES)
    tracepoints = TRACEPOINTS + BEYOND_TMPFS + FINDER + EXITS
    hooks = TASKS + (tracepoints if backend == "tracepoint" else FUNCTIONS)
    names = {target for hook in hooks for target in hook.targets}
    targets = {name: 0 for name in names if btf.has_tracepoint(name)}
    targets |= btf.functions(names)
    if cast is not None:
        code = {name: calling(one, cast) for name, one in code.items()}
    return Object(maps, code, targets, btf.module_from)


def _types(btf: Btf, structs: Iterable[str], *, typed: bool) -> Iterator[str]:
    """Definitions of ``TYPE_NAME``: see ``READ`` in probes/common.h."""
    for name in structs:
        yield f"#define TYPE_{name} {btf.struct_id(name) if typed else 0}"


def _source(btf: Btf, backend: str, *, typed: bool) -> str:
    fields = dict(_FIELDS)
    defines: dict[str, int | str] = {
        "OVL_LAYER_SIZE": btf.size("ovl_layer"),
    }
    if backend == "kprobe":
        defines["KPROBES"] = 1
    # Moved out of d_u in a 7.x kernel.
    alias = "d_u.d_alias.next" if btf.has_member("dentry", "d_u.d_alias.next") else "d_alias.next"
    fields["dentry"] = (*fields["dentry"], alias)
    defines["DENTRY_ALIAS"] = alias.replace(".", "_")
    # Moved from the dentry's private data to the inode in 6.5 (163db0da3515).
    if btf.has_member("ovl_inode", "oe"):
        fields["ovl_inode"] = (*fields["ovl_inode"], "oe")
        defines["ENTRY_IN_INODE"] = 1
    number = "__numlower" if btf.has_member("ovl_entry", "__numlower") else "numlower"
    defines["NUMLOWER"] = number
    fields["ovl_entry"] = (number, *(["flags"] if btf.has_member("ovl_entry", "flags") else []))
    defines["MKDIR_GIVES_DENTRY"] = int(btf.returns_pointer("ovl_mkdir"))  # 6.15
    # Kernels without task I/O accounting (CONFIG_TASK_IO_ACCOUNTING) lack it.
    if btf.has_member("task_struct", "ioac.write_bytes"):
        fields["task_struct"] = (*fields["task_struct"], "ioac.write_bytes")
        defines["HAVE_IOAC"] = 1
    if btf.has_member("xfs_inode", "i_vnode"):
        fields["xfs_inode"] = ("i_vnode",)
        defines["HAVE_XFS"] = 1
    return "\n".join(
        [
            "#include <linux/types.h>",
            *(f"#define {name} {value}" for name, value in defines.items()),
            struct_header(btf, fields),
            *_types(btf, (*fields, "pt_regs"), typed=typed),
            *((PROBES / f"{part}.c").read_text() for part in _PARTS[backend]),
        ]
    )
