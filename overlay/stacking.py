"""Opening the layers of a union, checked as a mount would check them.

The bottoms are looked at through mounts of their own that are read-only and never set
access times, where the caller may make such: a descriptor from the engine can then never
change a bottom (document L256–L268, L433), whatever is done with it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from overlay import syscalls
from overlay.aside import Aside
from overlay.credentials import Capability, Credentials
from overlay.errors import NoPrivilege, TopInUse
from overlay.inuse import top_in_use
from overlay.layer import Layer
from overlay.marks import MarkFamily, Whiteout
from overlay.preflight import open_layers
from overlay.priming.sharedindex import layer_of, require_fresh
from overlay.privilege import in_user_namespace
from overlay.profiles import profile_named
from overlay.stack import Stack
from overlay.text import printable

__all__ = ["open_stack"]

_RDONLY: Final = syscalls.MOUNT_ATTR_RDONLY
#: Access time settings are one field: it has to be cleared before it is set (mount_setattr(2)).
_ATIME: Final = 0x70
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def open_stack(
    top: str,
    bottoms: Sequence[str],
    work: str | None,
    index: str | None,
    family: MarkFamily | None,
    form: Whiteout,
    sync: bool,
) -> Stack:
    """Open and check the layers of a union, as a mount would.

    ``index`` is a shared index of the bottoms (``docs/fallthru.md``), refused when stale.
    Raises the errors of :func:`overlay.preflight.open_layers`, NoPrivilege and TopInUse.
    """
    namespaced = in_user_namespace()
    if not namespaced and not Credentials.caller().can(Capability.SYS_ADMIN):
        raise NoPrivilege(
            "an ordinary user is not shown the marks of layers (trusted.*)",
            hint="be root, or work in a user namespace: unshare --user --map-root-user",
        )
    # Stubs are read here by themselves; but no mount in a user namespace could.
    no_stubs = family is MarkFamily.USER or namespaced
    profile = profile_named("document" if no_stubs else "fallthru")
    with (
        open_layers(
            tuple(bottoms), top, work, profile, None if index is None else layer_of(index)
        ) as layers,
        ExitStack() as undo,
    ):
        if index is not None:
            paths = [bottom.path for bottom in layers.bottoms]
            require_fresh(index, [bottom.fd for bottom in layers.bottoms], paths)
        # With a shared index the bottoms only give their data.
        merged = layers.bottoms if layers.index is None else (layers.index,)
        lower = []
        for bottom in (*merged, *layers.bottoms[: 0 if layers.index is None else None]):
            lower.append(Layer(_read_only(bottom.fd), bottom.path))
            undo.callback(lower[-1].close)
        upper = Layer(os.open(".", _DIRECTORY, dir_fd=layers.top.fd), layers.top.path)
        undo.callback(upper.close)
        if top_in_use(layers.top.path, layers.family):
            raise TopInUse(
                f"the top {printable(layers.top.path)} is mounted",
                hint="unmount it first: what both change at once is lost",
                errno=errno.EBUSY,
            )
        held = os.open(".", _DIRECTORY, dir_fd=layers.work.fd)
        stack = Stack(
            upper,
            lower[: len(merged)],
            lower[len(merged) :],
            Aside(held, layers.work.path),
            held,
            family=MarkFamily(layers.family) if family is None else family,
            form=form,
            sync=sync,
        )
        undo.pop_all()  # what was opened belongs to the stack now
        return stack


def _read_only(fd: int) -> int:
    """The directory again, through a read-only mount that nobody else sees.

    The mount lives as long as a descriptor is open in it.  Without privilege, or where
    the mount may not be copied, it is the directory as it is.
    """
    try:
        tree = syscalls.open_tree(fd, "", syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL, errno.ENOSYS):
            raise
        return os.open(".", _DIRECTORY, dir_fd=fd)
    try:
        # In a user namespace the access times are as whoever mounted it wants them.
        for attributes, cleared in ((_RDONLY | syscalls.MOUNT_ATTR_NOATIME, _ATIME), (_RDONLY, 0)):
            try:
                syscalls.mount_setattr(
                    tree, "", syscalls.AT_EMPTY_PATH, attr_set=attributes, attr_clr=cleared
                )
                break
            except OSError as error:
                if error.errno != errno.EPERM:
                    raise
        return os.open(".", _DIRECTORY, dir_fd=tree)
    finally:
        os.close(tree)
