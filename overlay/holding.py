"""Making the kernel keep a bottom read-only, and undoing it.

A block device is set read-only (BLKROSET), and the kernel then refuses every read-write
mount and remount of it.  File systems that have none, or do not heed it, are put on the list
of a BPF LSM program (:mod:`overlay.lsm`) where that is wanted, or there already.

What was switched is remembered until it is switched back: of devices in notes
(:mod:`overlay.runstate`), made beforehand; of the others in the program's list itself.
"""

from __future__ import annotations

import os
import time
from typing import Final

from overlay import images, lsm, mountinfo, runstate, syscalls
from overlay.guard import IGNORE_THEIR_DEVICE, BottomState, Hold
from overlay.preflight import Directory

__all__ = ["any_held", "held", "hold", "release"]

Device = tuple[int, int]

#: File systems without a block device, or with one of their own numbering, that nobody but
#: this kernel writes to.
_LOCAL: Final = frozenset({"tmpfs", "ramfs", "btrfs", "jffs2", "ubifs"})


def any_held() -> bool:
    """Whether something may have to be released: cheap, on the way of each unmount."""
    return runstate.any_devices() or lsm.installed()


def held() -> set[Device]:
    """What fallthru keeps read-only: block devices, and file systems by the program."""
    return {_parsed(name) for name in runstate.load("devices")} | lsm.kept()


def hold(notes: int, bottom: Directory, state: BottomState, *, load: bool) -> None:
    """Have the kernel keep a bottom read-only that is only mounted so, if there is a way.

    With ``load`` the BPF LSM program is loaded if it takes that; then EnvironmentLacks
    where it cannot be.  ``notes`` is the locked directory of ``runstate``'s devices.
    """
    if state.hold is not Hold.MOUNT or not state.super_read_only:
        return
    if _hold_device(notes, bottom, state) or not _can_be_listed(state):
        return
    if load:
        lsm.install()
    if lsm.installed():
        _list(bottom, state)


def _hold_device(notes: int, bottom: Directory, state: BottomState) -> bool:
    if state.device is None or state.fstype in IGNORE_THEIR_DEVICE:
        return False
    try:
        device = os.open(images.device_node(state.device), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False  # no such node here
    name = _name(state.device)
    try:
        # Noted first: after a crash in between, releasing what is not held does no harm.
        runstate.put(notes, name, {"path": state.path, "since": time.time()})
        syscalls.blkroset(device, True)
        if _still_read_only(bottom, state):
            return True
        syscalls.blkroset(device, False)
    except OSError:
        pass  # a driver that cannot
    finally:
        os.close(device)
    runstate.drop(notes, name)
    return False


def _can_be_listed(state: BottomState) -> bool:
    if state.image is not None and state.fstype == "btrfs":
        return False  # its number cannot be seen from outside, since it is mounted nowhere
    if state.filesystem is None or state.fstype.startswith("fuse"):
        return False
    return state.fstype in _LOCAL or state.device is not None


def _list(bottom: Directory, state: BottomState) -> None:
    assert state.filesystem is not None
    try:
        lsm.keep(state.filesystem)
    except OSError:
        return  # full, or removed by somebody
    if not _still_read_only(bottom, state):
        lsm.let_go(state.filesystem)


def _still_read_only(bottom: Directory, state: BottomState) -> bool:
    """Whether no remount came between the look at it and the hold; from here on none can."""
    try:
        at = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=bottom.fd)
        try:
            syscalls.syncfs(at)  # takes the lock that a remount under way has (s_umount)
        finally:
            os.close(at)
    except OSError:
        pass
    on_it = [entry for entry in mountinfo.read() if entry.dev == state.filesystem]
    # One that was attached from a device has no entry, and is a read-only mount for good
    # unless it is mounted elsewhere too.
    return all(entry.super_read_only for entry in on_it)


def release(notes: int, relied: set[Device]) -> None:
    """Undo all holds but those on ``relied`` (devices and file systems that overlays need)."""
    for name in runstate.load("devices"):
        if _parsed(name) in relied:
            continue
        try:
            device = os.open(images.device_node(_parsed(name)), os.O_RDONLY | os.O_CLOEXEC)
            try:
                syscalls.blkroset(device, False)
            finally:
                os.close(device)
        except FileNotFoundError:
            pass  # the device itself went
        runstate.drop(notes, name)
    listed = lsm.kept()
    for filesystem in listed - relied:
        lsm.let_go(filesystem)
    if not listed & relied:
        lsm.remove()


def _name(device: Device) -> str:
    return f"{device[0]}:{device[1]}"


def _parsed(name: str) -> Device:
    major, _, minor = name.partition(":")
    return int(major), int(minor)
