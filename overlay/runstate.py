"""What fallthru must remember until the next boot: in /run/fallthru, locked, never half-written.

Which overlays live is the kernel's to know (mountinfo).  Here is only what it does not
know: how the bottoms were when an overlay began to rely on them, and what was switched on
for its sake, so that it can be switched off again after the overlay went by a plain
umount(8) or in a crash.  /run ends with the boot, as all mounts do.

    /run/fallthru/boot/MAJOR:MINOR       the overlay that the machine booted on, by its number
    /run/fallthru/overlays/MAJOR:MINOR   one overlay, by its own device number
    /run/fallthru/devices/MAJOR:MINOR    one block device that was made read-only
    /run/fallthru/images/                names, while the kernel looks them up
    /run/fallthru/mounts/                empty: its lock makes a check and a mount one step
    /run/fallthru/networks/NAME          the names of the roots on one bridge, an /etc/hosts
    /run/fallthru/roots/NAME             one root that runs: its first process
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal

from overlay.errors import OperationFailed

__all__ = ["DIRECTORY", "Drawer", "any_devices", "drop", "load", "locked", "put"]

DIRECTORY: Final = "/run/fallthru"
Drawer = Literal["boot", "overlays", "devices", "images", "mounts", "networks", "roots"]
_CHUNK: Final = 1 << 16
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def locked(drawer: Drawer) -> Iterator[int | None]:
    """The open directory of one kind of notes, nobody else's meanwhile.

    None for a caller who may keep none: only the machine's root can switch on what would
    have to be remembered.  The lock ends with the process that holds it.
    """
    fd = _open(drawer, make=True)
    while fd is not None:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if _is_in_place(fd, drawer):
            break
        os.close(fd)  # removed, empty, while this one waited
        fd = _open(drawer, make=True)
    try:
        yield fd
    finally:
        if fd is not None:
            if drawer == "devices":
                with suppress(OSError):  # so that any_devices() tells at once
                    os.rmdir(f"{DIRECTORY}/{drawer}")
            os.close(fd)


def _is_in_place(fd: int, drawer: Drawer) -> bool:
    try:
        return os.path.samestat(os.stat(f"{DIRECTORY}/{drawer}"), os.fstat(fd))
    except FileNotFoundError:
        return False


def any_devices() -> bool:
    """Whether devices may have to be released: one system call, on the way of each unmount."""
    return os.path.exists(f"{DIRECTORY}/devices")


def load(drawer: Drawer) -> dict[str, dict[str, Any]]:
    """All notes of a kind by name; those of another boot are left out."""
    fd = _open(drawer, make=False)
    if fd is None:
        return {}
    try:
        found = {name: _read(fd, name) for name in os.listdir(fd) if not name.startswith(".")}
    finally:
        os.close(fd)
    # A container's /run may outlive the machine's boot.
    boot = _boot() if found else ""
    return {name: note for name, note in found.items() if note.get("boot") == boot}


def _read(fd: int, name: str) -> dict[str, Any]:
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
        try:
            # A file object for each of a thousand notes would take longer than reading them.
            found = json.loads(b"".join(iter(lambda: os.read(file, _CHUNK), b"")))
        finally:
            os.close(file)
    except FileNotFoundError:
        return {}  # dropped between the two looks
    except (OSError, ValueError) as error:
        raise OperationFailed(
            f"a note of fallthru in {DIRECTORY} cannot be read: {name}: {error}",
            hint="remove the file; a device that was held needs blockdev --setrw",
        ) from None
    return found if isinstance(found, dict) else {}


def put(fd: int, name: str, note: dict[str, Any]) -> None:
    """Keep ``note``, in place of an older one, in a directory that is locked."""
    aside = f".{name}"  # one writer at a time
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        with open(os.open(aside, flags, 0o644, dir_fd=fd), "wb") as file:
            file.write(json.dumps({**note, "boot": _boot()}).encode())
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, name, src_dir_fd=fd, dst_dir_fd=fd)
        os.fsync(fd)
    except OSError as error:
        raise OperationFailed(
            f"nothing can be noted in {DIRECTORY}", errno=error.errno or 0
        ) from None


def drop(fd: int, name: str) -> None:
    """Forget a note in a directory that is locked."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=fd)


def _open(drawer: Drawer, *, make: bool) -> int | None:
    path = f"{DIRECTORY}/{drawer}"
    if make and os.geteuid() != 0:
        return None
    try:
        if make:
            for each in (DIRECTORY, path):
                with suppress(FileExistsError):
                    os.mkdir(each, 0o755)
        fd = os.open(path, _OPEN)
        # In a user namespace the caller may be root, but the directory is not its own.
        if not make or os.access(path, os.W_OK):
            return fd
        os.close(fd)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT):
            raise OperationFailed(f"{path} cannot be opened", errno=error.errno or 0) from None
    return None


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
