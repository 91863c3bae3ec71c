"""A network of a test's own: what it does is nothing to the machine's, nor to another run's."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute

from overlay import syscalls

__all__ = ["interfaces", "own_network"]


def interfaces() -> set[str]:
    """Those that there are here; /sys has those of the network in which it was mounted."""
    return {name for _, name in socket.if_nameindex()}


@contextmanager
def own_network() -> Iterator[None]:
    """For the length of the block this thread, and what it starts, has a fresh network."""
    machine = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        try:
            with IPRoute() as routes:
                routes.link("set", index=1, state="up")  # lo
            yield
        finally:
            syscalls.setns(machine, syscalls.CLONE_NEWNET)
    finally:
        os.close(machine)
