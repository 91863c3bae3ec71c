"""What `fallthru boot` puts into a system, so that its initramfs can mount an overlay as root.

The files are this package's own (``overlay/initramfs``), and the profiles' options.  Until
the initramfs is made anew nothing has any effect, and then only on a boot with a word
``fallthru=`` on the kernel's command line.
"""

from __future__ import annotations

import enum
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from typing import Final

from overlay.errors import EnvironmentLacks, OperationFailed, Refused
from overlay.outfile import sync_directory
from overlay.profiles import PROFILES
from overlay.text import printable

__all__ = ["TOOLS", "BootFile", "Maker", "State", "files", "install", "maker_of", "remove", "state"]

#: Programs that the initramfs takes from the system, and the Debian packages that have them.
TOOLS: Final = {
    "mount": "mount",
    "umount": "mount",
    "losetup": "mount",
    "blkid": "util-linux",
    "blockdev": "util-linux",
    "getfattr": "attr",
    "setfattr": "attr",
    "readlink": "coreutils",
    "rm": "coreutils",
    "e2fsck": "e2fsprogs",
}
#: In a comment of every file, of every version.
_SIGNATURE: Final = b"# fallthru boot: "


class Maker(enum.Enum):
    """What makes initramfs images: its name, a directory that tells it, how to have one made."""

    INITRAMFS_TOOLS = ("initramfs-tools", "usr/share/initramfs-tools", "update-initramfs -u")
    DRACUT = ("dracut", "usr/lib/dracut/modules.d", "dracut --force")

    def __init__(self, label: str, directory: str, command: str) -> None:
        self.label = label
        self.directory = directory
        self.command = command


class State(enum.Enum):
    """How one of our files is in a system."""

    CURRENT = "current"
    DIFFERENT = "different"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class BootFile:
    """A file to be at ``path`` (relative to the system's root)."""

    path: str
    mode: int
    content: bytes


def maker_of(root: str, name: str | None = None) -> Maker:
    """What makes the initramfs of the system at ``root``, or the one called ``name``.

    EnvironmentLacks where there is none.
    """
    for maker in Maker:
        if name in (None, maker.label) and os.path.isdir(os.path.join(root, maker.directory)):
            return maker
    raise EnvironmentLacks(
        f"{name or 'neither initramfs-tools nor dracut'} is "
        f"{'not ' if name else ''}installed in {printable(root)}",
        hint="apt-get install initramfs-tools, or name another system with --root",
    )


def files(maker: Maker) -> tuple[BootFile, ...]:
    """All files, in the order in which they can be put there one by one.

    The last is what has the initramfs made with the others.
    """
    shared = (("mount-root", 0o755, _source("mount-root")), ("profiles", 0o644, _profiles()))
    if maker is Maker.DRACUT:
        place = f"{maker.directory}/90fallthru"
        sources = (("cmdline.sh", 0o755), ("mount.sh", 0o755), ("module-setup.sh", 0o755))
        return (
            *(BootFile(f"{place}/{name}", mode, content) for name, mode, content in shared),
            *(
                BootFile(f"{place}/{name}", mode, _source(f"dracut/{name}"))
                for name, mode in sources
            ),
        )
    place = "etc/initramfs-tools"
    scripts = (
        ("scripts/fallthru", 0o644, "boot"),
        ("scripts/init-top/fallthru", 0o755, "init-top"),
        ("hooks/fallthru", 0o755, "hook"),
    )
    return (
        *(BootFile(f"{place}/fallthru/{name}", mode, content) for name, mode, content in shared),
        *(
            BootFile(f"{place}/{name}", mode, _source(f"initramfs-tools/{source}"))
            for name, mode, source in scripts
        ),
    )


def _source(name: str) -> bytes:
    return resources.files("overlay.initramfs").joinpath(name).read_bytes()


def _profiles() -> bytes:
    """A line for each profile: its name, and its options."""
    lines = ["# fallthru boot: the profiles, and what mount(8) takes after -o\n"]
    for profile in PROFILES.values():
        options = (f"{key}={value}" if value else key for key, value, _ in profile.pinned)
        lines.append(f"{profile.name} {','.join(options)}\n")
    return "".join(lines).encode()


def state(root: str, file: BootFile) -> State:
    """How ``file`` is in the system at ``root``; OperationFailed if it cannot be read."""
    path = os.path.join(root, file.path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return State.MISSING
    except OSError as error:
        raise OperationFailed(f"{printable(path)}", errno=error.errno or 0) from None
    with open(fd, "rb") as found:
        same = (
            stat.S_IMODE(os.fstat(fd).st_mode) == file.mode
            and found.read(len(file.content) + 1) == file.content
        )
    return State.CURRENT if same else State.DIFFERENT


def install(root: str, maker: Maker) -> list[BootFile]:
    """Put all files in their places in the system at ``root``; those that were changed.

    Each is there whole or not at all.  If one cannot be, OperationFailed, and nothing has an
    effect yet.  Refused where a file is not ours.
    """
    chosen = files(maker)
    for file in chosen:
        _refuse_foreign(root, file)
    changed = [file for file in chosen if state(root, file) is not State.CURRENT]
    for file in changed:
        _put(os.path.join(root, file.path), file)
    return changed


def remove(root: str, maker: Maker) -> list[BootFile]:
    """Take all files away again, first what has effect; those that were there."""
    chosen = files(maker)
    for file in chosen:
        _refuse_foreign(root, file)
    gone = []
    for file in reversed(chosen):
        path = os.path.join(root, file.path)
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise OperationFailed(f"{printable(path)}", errno=error.errno or 0) from None
        sync_directory(os.path.dirname(path))
        gone.append(file)
    for directory in {os.path.dirname(file.path) for file in chosen}:
        if os.path.basename(directory).endswith("fallthru"):
            with suppress(OSError):  # somebody put something else there
                os.rmdir(os.path.join(root, directory))
    return gone


def _refuse_foreign(root: str, file: BootFile) -> None:
    path = os.path.join(root, file.path)
    base = os.path.realpath(root)
    if os.path.commonpath((base, os.path.realpath(os.path.dirname(path)))) != base:
        raise Refused(
            f"a symlink leads from {printable(path)} out of {printable(root)}",
            hint="run the command in that system: chroot",
        )
    if not os.path.lexists(path):
        return
    ours = False
    if not os.path.islink(path) and os.path.isfile(path):
        with open(path, "rb") as found:
            text = found.read(1 << 16)
        ours = _SIGNATURE in text
    if not ours:
        raise Refused(
            f"{printable(path)} is not fallthru's: somebody else put it there",
            hint="look at it, and remove it yourself",
        )


def _put(path: str, file: BootFile) -> None:
    directory, name = os.path.split(path)
    # A name with a dot is neither a hook nor a script for initramfs-tools.
    aside = os.path.join(directory, f".{name}.{os.getpid()}")
    try:
        os.makedirs(directory, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            with open(os.open(aside, flags, file.mode), "wb") as made:
                os.fchmod(made.fileno(), file.mode)
                made.write(file.content)
                made.flush()
                os.fsync(made.fileno())
            os.rename(aside, path)
            sync_directory(directory)
        except OSError:
            with suppress(FileNotFoundError):
                os.unlink(aside)
            raise
    except OSError as error:
        raise OperationFailed(
            f"{printable(path)} cannot be written",
            hint="what was written has no effect yet; `fallthru boot remove` takes it away",
            errno=error.errno or 0,
        ) from None
