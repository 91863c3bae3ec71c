"""What this process is to the machine: its root, or somebody's in a namespace."""

from __future__ import annotations

import os

__all__ = ["in_user_namespace"]

#: The initial user namespace's inode (include/linux/proc_ns.h, PROC_USER_INIT_INO).
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD


def in_user_namespace() -> bool:
    """Whether this process is root at most in a user namespace (marks are then ``user.``)."""
    return os.stat("/proc/self/ns/user").st_ino != _INITIAL_USER_NAMESPACE
