"""The target of people without privilege: fallthru's mount made in a user namespace.

A child with a user namespace of its own opens the overlay there and hands the detached
mount over; the worker, which can look at every mark and owner, gives it its place.  The
overlay acts with the child's credentials: it has no power over the machine, its marks are
``user.overlay.*``, and it makes no devices.  All ids are mapped, so that owners can be told.
"""

from __future__ import annotations

import os
import shlex
import socket
from dataclasses import dataclass
from pathlib import Path

from overlay import syscalls
from overlay.errors import OperationFailed
from overlay.newmount import put_at
from overlay.spec.calls import Calls, MountedCalls

__all__ = ["UnprivilegedTarget"]

_MAP = "0 0 4294967295"


@dataclass(frozen=True, slots=True)
class UnprivilegedTarget:
    """fallthru's default profile, mounted by the root of a user namespace."""

    name: str = "unprivileged"

    def available(self) -> str | None:
        limit = Path("/proc/sys/user/max_user_namespaces")
        if not limit.exists() or limit.read_text().strip() == "0":
            return "no user namespaces in this kernel"
        return None

    def mount(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            child = os.fork()
            if child == 0:
                _open_in_namespace(theirs, bottoms, top, work)
            theirs.close()
            try:
                # /proc is that of the machine, where the child has another number than here.
                inside = ours.recv(32).decode()
                for name in ("uid_map", "gid_map"):
                    Path(f"/proc/{inside}/{name}").write_text(_MAP)
                ours.send(b"mapped")
                said, descriptors, _, _ = socket.recv_fds(ours, 4096, 1)
            finally:
                ours.close()  # whatever the child waits for now, it ends
                os.waitpid(child, 0)
        if not descriptors:
            raise OperationFailed(said.decode() or "the child that mounts died")
        put_at(descriptors[0], mnt)

    def by_hand(self, bottoms: tuple[str, ...], top: str, work: str, mnt: str) -> tuple[str, str]:
        # No tool makes a mount in one namespace of users for another.
        layers = f"tuple(map(p, {shlex.split(' '.join(bottoms))}))"
        others = ", ".join(f"p({shlex.split(name)[0]!r})" for name in (top, work, mnt))
        code = (
            f"from os.path import abspath as p; from {__name__} import UnprivilegedTarget; "
            f"UnprivilegedTarget().mount({layers}, {others})"
        )
        # In the environment that fallthru is installed in.
        return f"python3 -c {shlex.quote(code)}", f"umount {mnt}"

    def unmount(self, mnt: str) -> None:
        from overlay import kernel

        kernel.unmount(mnt)

    def calls(self, mnt: str) -> Calls:
        return MountedCalls(mnt)

    def features(self, mnt: str) -> frozenset[str]:
        from overlay.spec.targets import overlayfs_features

        return overlayfs_features(mnt) | {"of-fallthru", "unprivileged"}


def _open_in_namespace(
    parent: socket.socket, bottoms: tuple[str, ...], top: str, work: str
) -> None:
    """The child: never returns."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        parent.send(os.readlink("/proc/self").encode())
        if not parent.recv(32):
            os._exit(1)
        from overlay import kernel

        tree = kernel.open_overlay(kernel.Overlay(bottoms, top, work))
        socket.send_fds(parent, [b"t"], [tree])
    except BaseException as error:
        parent.send(str(error).encode("utf-8", "replace")[:4000])
    finally:
        os._exit(0)
