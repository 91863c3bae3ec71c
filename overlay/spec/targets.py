"""What can be judged: anything that mounts one top over bottoms.

``engine``           the document's operations by :mod:`overlay.union`, with no mount
``kernel:PROFILE``   fallthru's own mounts, by :mod:`overlay.kernel`
``unprivileged``     the default profile, mounted in a user namespace
``overlayfs``        the kernel's overlay with its default options, nothing of fallthru's
``overlayfs:K=V,F``  the same with any options
``fuse-overlayfs``, ``unionfs-fuse``, ``mergerfs``  those, mounted as the document wants
``command:NAME``     whatever a command mounts (``--mount-command``)
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from overlay import layerargs, mountinfo, syscalls
from overlay.errors import FallthruError, UsageError
from overlay.newmount import put_at
from overlay.spec.calls import Calls, MountedCalls
from overlay.spec.command import CommandTarget
from overlay.spec.unprivileged import UnprivilegedTarget

if TYPE_CHECKING:
    from overlay.union import Union

__all__ = [
    "DEFAULT_TARGETS",
    "EngineTarget",
    "KernelTarget",
    "OverlayfsTarget",
    "Target",
    "parse_target",
]

DEFAULT_TARGETS = ("engine", "kernel:document", "kernel:fallthru", "kernel:throwaway", "overlayfs")

#: Union file systems that are judged by name, and how each is mounted as the document wants:
#: one top over one bottom, any user, files as they are.
KNOWN_COMMANDS = {
    "fuse-overlayfs": "fuse-overlayfs -o lowerdir={bottom},upperdir={top},workdir={work} {mnt}",
    "unionfs-fuse": "unionfs -o cow,allow_other,suid,dev {top}=RW:{bottom}=RO {mnt}",
    "mergerfs": "mergerfs -o allow_other,category.create=ff {top}=RW:{bottom}=RO {mnt}",
}

#: overlayfs options whose default is the module's, and what they are called there.
_PARAMETERS = ("redirect_dir", "metacopy", "index", "nfs_export")


class Target(Protocol):
    """Something that mounts unions.  Paths are absolute; ``work`` exists and is empty."""

    @property
    def name(self) -> str: ...

    def available(self) -> str | None:
        """What is missing for this target to work here; None when nothing is known to be."""

    def mount(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> None:
        """Mount at ``mnt``; FallthruError or OSError, and nothing mounted, when refused."""

    def by_hand(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> tuple[str, str]:
        """What to type to mount so, and to unmount; names are quoted.  Empty if nothing can be."""

    def unmount(self, mnt: str) -> None:
        """Remove the mount at ``mnt`` and end whatever served it."""

    def calls(self, mnt: str) -> Calls:
        """The system calls on the union mounted at ``mnt``."""

    def features(self, mnt: str) -> frozenset[str]:
        """What the union mounted at ``mnt`` does that departures may hang on."""


def overlayfs_features(mnt: str) -> frozenset[str]:
    """Features of an overlayfs mount: ``overlayfs``, and those of its options in force.

    mountinfo shows an option only where it differs from the module's default, so the
    default is read from the module; a kernel without the parameter lacks the feature.
    ``follows-redirects``, ``no-offline-changes`` and ``one-inode-space`` are what several
    options have in common (Documentation/filesystems/overlayfs.rst, redirect_dir, Changes
    to underlying filesystems, Inode properties).  ``two-file-systems``: the layers are not
    on one.
    """
    overlay = mountinfo.overlay_at(mnt)
    parameters = Path("/sys/module/overlay/parameters")

    def value(name: str, parameter_name: str | None = None) -> str:
        if name in overlay.options:
            return overlay.options[name]
        parameter = parameters / (parameter_name or name)
        default = parameter.read_text().strip() if parameter.exists() else "N"
        return {"Y": "on", "N": "off"}[default]

    found = {"overlayfs"} | {name for name in _PARAMETERS if value(name) == "on"}
    redirects = value("redirect_dir")
    if redirects in {"on", "follow"} or (
        redirects == "off" and value("redirect_always_follow") == "on"
    ):
        found.add("follows-redirects")
    if found & {"redirect_dir", "metacopy", "index"}:
        found.add("no-offline-changes")
    joined = _on_one_file_system(overlay)
    if value("xino", "xino_auto") in {"on", "auto"} or joined:
        found.add("one-inode-space")
    if not joined:
        found.add("two-file-systems")
    found |= {"volatile", "userxattr"} & overlay.options.keys()
    # Shown as fsync=MODE where the kernel knows more modes than volatile.
    if overlay.options.get("fsync") == "volatile":
        found.add("volatile")
    return frozenset(found | ({"noatime"} & set(overlay.vfs_options)))


def _on_one_file_system(overlay: mountinfo.OverlayMount) -> bool:
    layers = [*overlay.bottoms, *([] if overlay.top is None else [overlay.top])]
    return len({os.stat(layer).st_dev for layer in layers}) == 1


def _needs_overlay() -> str | None:
    known = Path("/proc/filesystems").read_text().split()
    if "overlay" in known:
        return None
    try:
        # A module is loaded when its file system is first asked for.
        os.close(syscalls.fsopen("overlay"))
    except OSError as error:
        return f"no overlayfs in this kernel ({error.strerror})"
    return None


@dataclass(frozen=True, slots=True)
class KernelTarget:
    """fallthru's own mounts with one profile."""

    profile: str

    @property
    def name(self) -> str:
        return f"kernel:{self.profile}"

    def available(self) -> str | None:
        return _needs_overlay()

    def mount(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> None:
        from overlay import conflicts, kernel

        # As `fallthru mount` does: with a look at what the mount would do to others.
        conflicts.mount(kernel.Overlay(bottoms, top, work, self.profile), mnt)

    def by_hand(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> tuple[str, str]:
        below = " ".join(f"--bottom {bottom}" for bottom in bottoms)
        layers = f"{below} --top {top} --work {work}"
        return f"fallthru mount {layers} --profile {self.profile} {mnt}", f"fallthru umount {mnt}"

    def unmount(self, mnt: str) -> None:
        from overlay import kernel

        kernel.unmount(mnt)

    def calls(self, mnt: str) -> Calls:
        return MountedCalls(mnt)

    def features(self, mnt: str) -> frozenset[str]:
        return overlayfs_features(mnt) | {"of-fallthru", "minds-other-mounts"}


@dataclass(slots=True)
class EngineTarget:
    """The document's operations by :mod:`overlay.union`: calls, and no mount."""

    name: str = "engine"
    _unions: dict[str, Union] = field(default_factory=dict)

    def available(self) -> str | None:
        return None

    def mount(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> None:
        from overlay.union import Union

        self._unions[mnt] = Union(top, bottoms, work, sync=False)

    def by_hand(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> tuple[str, str]:
        return "", ""

    def unmount(self, mnt: str) -> None:
        self._unions.pop(mnt).close()

    def calls(self, mnt: str) -> Calls:
        return self._unions[mnt]

    def features(self, mnt: str) -> frozenset[str]:
        return frozenset({"engine"})


@dataclass(frozen=True, slots=True)
class OverlayfsTarget:
    """The kernel's overlay as it comes, with the given options (an empty value: a flag)."""

    options: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        text = ",".join(f"{key}={value}" if value else key for key, value in self.options)
        return f"overlayfs:{text}" if text else "overlayfs"

    def available(self) -> str | None:
        return _needs_overlay()

    def mount(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> None:
        fs = syscalls.fsopen("overlay")
        try:
            _set_bottoms(fs, bottoms)
            syscalls.fsconfig_string(fs, "upperdir", top)
            syscalls.fsconfig_string(fs, "workdir", work)
            for key, value in self.options:
                if value:
                    syscalls.fsconfig_string(fs, key, value)
                else:
                    syscalls.fsconfig_flag(fs, key)
            syscalls.fsconfig_create(fs)
            tree = syscalls.fsmount(fs)
        finally:
            os.close(fs)
        put_at(tree, mnt)

    def by_hand(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> tuple[str, str]:
        options = [f"lowerdir={':'.join(bottoms)}", f"upperdir={top}", f"workdir={work}"]
        options += [f"{key}={value}" if value else key for key, value in self.options]
        return f"mount -t overlay -o {','.join(options)} overlay {mnt}", f"umount {mnt}"

    def unmount(self, mnt: str) -> None:
        syscalls.umount2(mnt)

    def calls(self, mnt: str) -> Calls:
        return MountedCalls(mnt)

    def features(self, mnt: str) -> frozenset[str]:
        found = overlayfs_features(mnt)
        # Not shown in mountinfo when both layers are on one file system.
        if ("xino", "on") in self.options:
            found |= {"no-offline-changes"}
        return found


def _set_bottoms(fs: int, bottoms: tuple[str, ...]) -> None:
    if layerargs.takes_appended_bottoms():
        for bottom in bottoms:
            syscalls.fsconfig_string(fs, "lowerdir+", bottom)
        return
    # Before 6.8 (24e16e385f22) there is only the joined form, with its escapes.
    special = str.maketrans({char: "\\" + char for char in "\\:,"})
    syscalls.fsconfig_string(fs, "lowerdir", ":".join(b.translate(special) for b in bottoms))


def parse_target(text: str) -> Target:
    """A target by its name; UsageError for an unknown one."""
    kind, _, rest = text.partition(":")
    if kind == "overlayfs":
        pairs = [option.partition("=") for option in rest.split(",") if option]
        return OverlayfsTarget(tuple((key, value) for key, _, value in pairs))
    if text in KNOWN_COMMANDS:
        return CommandTarget.parse(KNOWN_COMMANDS[text], text)
    if text == "engine":
        return EngineTarget()
    if text == "unprivileged":
        return UnprivilegedTarget()
    if kind == "kernel":
        from overlay import profiles

        try:
            return KernelTarget(profiles.profile_named(rest or profiles.DEFAULT).name)
        except FallthruError as error:
            raise UsageError(f"no such target: {text} ({error})", hint=_TARGETS) from None
    raise UsageError(f"no such target: {text}", hint=_TARGETS)


_TARGETS = (
    "targets are engine, kernel:PROFILE, unprivileged, overlayfs, overlayfs:KEY=VALUE,…, "
    "fuse-overlayfs, unionfs-fuse and mergerfs; anything else goes through --mount-command"
)

__all__ += ["CommandTarget", "overlayfs_features"]
