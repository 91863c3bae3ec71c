"""An overlay of directories that are open already, with no checks: for tops just made.

:mod:`overlay.kernel` checks what people name.  Here the caller has made the top itself, and
wants it at once: this module imports next to nothing.
"""

from __future__ import annotations

import os

from overlay import syscalls
from overlay.lighttyping import TYPE_CHECKING
from overlay.profiles import profile_named

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["assemble"]


def assemble(bottoms: Sequence[int], top: int, work: int, *, profile: str, family: str) -> int:
    """A detached overlay, as an O_PATH descriptor; OSError as the kernel says it.

    All layers are descriptors, ``bottoms`` uppermost first.
    """
    chosen = profile_named(profile)
    try:
        return _made(bottoms, top, work, chosen.pinned, chosen.source, family, by_path=False)
    except OSError as error:
        # Descriptors since 6.13 "ovl: specify layers via file descriptors".
        if error.filename not in ("lowerdir+", "upperdir"):
            raise
    return _made(bottoms, top, work, chosen.pinned, chosen.source, family, by_path=True)


def _made(
    bottoms: Sequence[int],
    top: int,
    work: int,
    pinned: Sequence[tuple[str, str, str]],
    source: str,
    family: str,
    *,
    by_path: bool,
) -> int:
    fs = syscalls.fsopen("overlay")
    try:
        syscalls.fsconfig_string(fs, "source", source)
        if by_path:
            # A magic link has no character that overlayfs would take for a separator.
            lower = b":".join(map(syscalls.fd_path, bottoms))
            syscalls.fsconfig_string(fs, "lowerdir", lower)
            syscalls.fsconfig_string(fs, "upperdir", syscalls.fd_path(top))
            syscalls.fsconfig_string(fs, "workdir", syscalls.fd_path(work))
        else:
            for bottom in bottoms:
                syscalls.fsconfig_fd(fs, "lowerdir+", bottom)
            syscalls.fsconfig_fd(fs, "upperdir", top)
            syscalls.fsconfig_fd(fs, "workdir", work)
        for key, value, _ in pinned:
            if value:
                syscalls.fsconfig_string(fs, key, value)
            else:
                syscalls.fsconfig_flag(fs, key)
        if family == "user":
            syscalls.fsconfig_flag(fs, "userxattr")
        syscalls.fsconfig_create(fs)
        # noatime: an access must never copy a file up (L234–L237, L341).
        return syscalls.fsmount(fs, syscalls.MOUNT_ATTR_NOATIME)
    finally:
        os.close(fs)
