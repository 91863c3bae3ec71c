"""Whether a top serves an overlay right now, whoever mounted it and wherever.

Mountinfo knows only the mounts of one mount namespace, and none that are held by a
descriptor alone.  The kernel itself knows all: overlayfs takes a lock on the inodes of
top and work directory (document L437–L438: a top serves exactly one overlay), and a mount
with an index is refused while it is held.
"""

from __future__ import annotations

import errno
import os

from overlay import syscalls
from overlay.mountinfo import overlays
from overlay.newmount import new_mount

__all__ = ["top_in_use"]


def top_in_use(top: str, family: str = "trusted") -> bool:
    """Whether an overlay is mounted that has ``top`` as its top.

    The kernel is asked by a mount that cannot succeed: its work directory is on another
    file system, which is looked at after the lock on the top and before anything is
    written.  Without privilege or the mount API only this namespace's mounts are seen.
    """
    return _shown(top) or _locked(top, family)


def _shown(top: str) -> bool:
    mine = os.stat(top)
    for mount in overlays():
        # A relative path is that of whoever mounted it: the kernel has to answer.
        if mount.top is None or not mount.top.startswith("/"):
            continue
        try:
            if os.path.samestat(os.stat(mount.top), mine):
                return True
        except OSError:
            continue  # covered or removed since
    return False


def _locked(top: str, family: str) -> bool:
    try:
        elsewhere = new_mount("tmpfs")
    except OSError:
        return False
    try:
        work = syscalls.fd_path(elsewhere)
        fs = syscalls.fsopen("overlay")
        try:
            # The old names take one path each; the bottom only has to be a directory.
            syscalls.fsconfig_string(fs, "lowerdir", work)
            syscalls.fsconfig_string(fs, "upperdir", _escaped(os.path.realpath(top)))
            syscalls.fsconfig_string(fs, "workdir", work)
            if family == "user":
                syscalls.fsconfig_flag(fs, "userxattr")
            else:
                # Without it a used top is only warned about in the kernel's log.
                syscalls.fsconfig_string(fs, "index", "on")
            syscalls.fsconfig_create(fs)
        finally:
            os.close(fs)
    except OSError as error:
        return error.errno == errno.EBUSY
    finally:
        os.close(elsewhere)
    return False


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:")
