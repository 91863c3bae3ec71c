"""Superblocks kept read-only by a BPF LSM program, where no block device could do it.

The program (``overlay/bpf/lsm.c``) refuses what would make a superblock of its list
writable: remounts, and further mounts of it.  It outlives the command that loaded it, since
its parts are pinned in ``/sys/fs/bpf/fallthru``, and goes when that is removed.  Its list is
a map of device numbers that the kernel itself strikes from when a file system goes.

Only :func:`install` needs bcc, and some tenths of a second.  All else is a few system calls
on the pinned map.  Who changes anything holds the lock of ``runstate``'s devices.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from contextlib import suppress
from typing import Any, Final

from overlay import syscalls
from overlay.bpf.pinned import BPF_FS_MAGIC, PinnedMap, pin
from overlay.errors import EnvironmentLacks, NoPrivilege

__all__ = ["PLACE", "NoLsm", "install", "installed", "keep", "kept", "let_go", "refused", "remove"]

Device = tuple[int, int]

_BPF_FS: Final = "/sys/fs/bpf"
PLACE: Final = f"{_BPF_FS}/fallthru"
#: Where a program is put together, to be renamed in one step.  Names have no dots there.
_ASIDE: Final = f"{_BPF_FS}/fallthru-new"
_MAP: Final = "kept"

_SOURCE: Final = os.path.join(os.path.dirname(__file__), "bpf/lsm.c")
_FIELDS: Final = {"fs_context": ("sb_flags", "sb_flags_mask"), "super_block": ("s_dev",)}
_ROOM: Final = 4096  # superblocks


class NoLsm(EnvironmentLacks):
    """The kernel has no BPF LSM, does not use it, or refuses the program."""


def installed() -> bool:
    """Whether the program is at work: one system call."""
    return _is_ours(PLACE)


def _is_ours(place: str) -> bool:
    try:
        found = os.lstat(place)
    except OSError:
        return False
    # Anybody may make a directory or symlink on a bpf mount of its default mode.
    return stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and not found.st_mode & 0o022


def refused(device: Device) -> int | None:
    """How often the file system ``device`` was kept from becoming writable; None if it is free.

    ``device`` is as in mountinfo.  Without privilege nothing is seen.
    """
    if not installed():
        return None
    try:
        with _list(PLACE) as listed:
            return int(struct.unpack("=Q", listed[_key(device)])[0])
    except (OSError, KeyError):
        return None


def kept() -> set[Device]:
    """The file systems that are kept read-only."""
    if not installed():
        return set()
    try:
        with _list(PLACE) as listed:
            return set(map(_device, listed.keys()))
    except OSError:
        return set()


def keep(device: Device) -> None:
    """Keep a file system read-only, if it is so; :func:`installed` must be true.

    A remount that has passed the program before is not stopped any more.  OSError where the
    list is full.
    """
    with _list(PLACE) as listed:
        listed.setdefault(_key(device), bytes(8))


def let_go(device: Device) -> None:
    """Let a file system be mounted as one likes again."""
    with _list(PLACE) as listed, suppress(FileNotFoundError):
        del listed[_key(device)]


def remove() -> None:
    """Take the program out of the kernel; nothing if it is not there."""
    _unpin(_ASIDE)
    if installed():
        os.rename(PLACE, _ASIDE)  # in one step: nobody takes half of it for one at work
        _unpin(_ASIDE)


def _unpin(place: str) -> None:
    if _is_ours(place):
        for name in os.listdir(place):
            os.unlink(f"{place}/{name}")
        os.rmdir(place)


def install() -> None:
    """Load the program, see that it does its work, and leave it in the kernel.

    :class:`NoLsm`, NoPrivilege, or what is missing of bcc and BTF; then nothing is left.
    """
    if installed():
        return
    try:
        bpf_fs = syscalls.statfs_type(_BPF_FS) & 0xFFFFFFFF == BPF_FS_MAGIC
    except OSError:
        bpf_fs = False
    if not bpf_fs:
        raise NoLsm(f"no BPF file system at {_BPF_FS}", hint=f"mount -t bpf bpf {_BPF_FS}")
    remove()  # what a killed process left
    for place in (PLACE, _ASIDE):
        if os.path.lexists(place):
            raise NoLsm(f"{place} does not belong to root alone", hint="see what it is; remove it")
    bpf = _load()
    try:
        os.mkdir(_ASIDE, 0o700)
        for links in (bpf.kfunc_entry_fds, bpf.kfunc_exit_fds, bpf.lsm_fds):
            for name, link in links.items():
                pin(link, f"{_ASIDE}/{name.decode()}")
        pin(bpf[_MAP.encode()].map_fd, f"{_ASIDE}/{_MAP}")
        with _list(_ASIDE) as listed:
            _try_out(listed)
        os.rename(_ASIDE, PLACE)
    except BaseException:
        remove()
        raise
    finally:
        bpf.cleanup()


def _load() -> Any:
    from overlay.bpf import bccload
    from overlay.bpf.btf import Btf, struct_header
    from overlay.bpf.compiling import quiet_bcc

    bcc = bccload.load()
    with open(_SOURCE, encoding="ascii") as file:
        source = file.read()
    text = "\n".join(
        [
            "#include <linux/types.h>",
            f"#define KEPT_MAX {_ROOM}",
            struct_header(Btf(), _FIELDS),
            source,
        ]
    )
    with quiet_bcc() as messages:
        try:
            return bcc.BPF(text=text.encode())
        except Exception as error:  # bcc raises bare Exception for whatever fails
            said = f"{error} {messages()}"
    if "Operation not permitted" in said:
        raise NoPrivilege(
            "the kernel does not permit loading BPF LSM programs",
            hint="it takes root of the machine; kernels in lockdown refuse it to everybody",
        )
    lines = said.strip().splitlines()
    raise NoLsm(
        f"the kernel does not take a BPF LSM program: {lines[-1]}",
        hint="it needs CONFIG_BPF_LSM (5.7), and type information for what is hooked",
    )


def _try_out(listed: PinnedMap) -> None:
    """Keep a tmpfs that nobody sees: where BPF is no active LSM, programs are never asked."""
    fs = syscalls.fsopen("tmpfs")
    try:
        syscalls.fsconfig_flag(fs, "ro")
        syscalls.fsconfig_create(fs)
        tree = syscalls.fsmount(fs)
        number = os.fstat(tree).st_dev
        os.close(tree)
        # The program strikes it from the list when it goes.
        listed.setdefault(_key((os.major(number), os.minor(number))), bytes(8))
        syscalls.fsconfig_flag(fs, "rw")
        syscalls.fsconfig_reconfigure(fs)
    except OSError as error:
        if error.errno == errno.EPERM:
            return
        raise
    finally:
        os.close(fs)
    raise NoLsm(
        "this kernel does not ask BPF LSM programs",
        hint="boot it with bpf among lsm= (/sys/kernel/security/lsm lists the active ones)",
    )


def _list(place: str) -> PinnedMap:
    return PinnedMap(f"{place}/{_MAP}", key_size=4, value_size=8)


def _key(device: Device) -> bytes:
    return struct.pack("=I", device[0] << 20 | device[1])  # MKDEV() of include/linux/kdev_t.h


def _device(key: bytes) -> Device:
    (number,) = struct.unpack("=I", key)
    return number >> 20, number & 0xFFFFF
