"""Who somebody is in a root: its own /etc/passwd and /etc/group, read as data.

The C library's functions are not used: they would load the root's name service modules
into a process that has privileges outside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from overlay.errors import UsageError

__all__ = ["User", "find"]


@dataclass(frozen=True, slots=True)
class User:
    """A user of a root, with the groups that its /etc/group adds."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"
    shell: str = "/bin/sh"

    def become(self) -> None:
        """Give up being anybody else, for good."""
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)

    def environment(self) -> dict[str, str]:
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell}


def find(spec: str, root: str = "/") -> User:
    """The user ``NAME``, ``UID``, ``NAME:GROUP`` or ``UID:GID`` of the root at ``root``.

    A number needs no entry.  UsageError for a name without one.
    """
    wanted, _, group = spec.partition(":")
    user = _user(wanted, root)
    if group:
        gid = _group(group, root)
        return User(user.name, user.uid, gid, (gid,), user.home, user.shell)
    groups = {user.gid}
    for fields in _lines(os.path.join(root, "etc/group"), 4):
        if user.name in fields[3].split(",") and fields[2].isdecimal():
            groups.add(int(fields[2]))
    return User(user.name, user.uid, user.gid, tuple(sorted(groups)), user.home, user.shell)


def _user(wanted: str, root: str) -> User:
    for fields in _lines(os.path.join(root, "etc/passwd"), 7):
        name, _, uid, gid, _, home, shell = fields
        if wanted in (name, uid) and uid.isdecimal() and gid.isdecimal():
            return User(name, int(uid), int(gid), (), home or "/", shell or "/bin/sh")
    if wanted.isdecimal():
        return User(wanted, int(wanted), int(wanted))
    if wanted == "root":
        return User("root", 0, 0, (), "/root")
    raise UsageError(f"the root has no user {wanted!r}", hint="give a number: --user UID[:GID]")


def _group(wanted: str, root: str) -> int:
    if wanted.isdecimal():
        return int(wanted)
    for fields in _lines(os.path.join(root, "etc/group"), 4):
        if fields[0] == wanted and fields[2].isdecimal():
            return int(fields[2])
    raise UsageError(f"the root has no group {wanted!r}", hint="give a number: --user UID:GID")


def _lines(path: str, count: int) -> Iterator[list[str]]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields = line.rstrip("\n").split(":")
                if len(fields) == count:
                    yield fields
    except OSError:
        return
