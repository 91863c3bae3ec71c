"""Steps: one call of one user, drawn so that every call meets every kind of argument.

The paths are few, so that the calls meet: three names in five directories, some symlinks,
and odd ways of writing them.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from overlay import acl, syscalls
from overlay.credentials import Capability, Credentials

__all__ = [
    "ALICE",
    "BOB",
    "DIRECTORIES",
    "DOMAINS",
    "LISTS",
    "NAMES",
    "OPERATIONS",
    "REMOUNT",
    "SWAP",
    "USERS",
    "Chooser",
    "Step",
    "access_list",
    "spoken_flags",
]

#: Chooses one of a sequence: random.choice, or a Hypothesis draw.
Chooser = Callable[[Any], Any]

ALICE, BOB = 1000, 1001
ALL: Final = frozenset(Capability)
USERS: Final = {
    "root": Credentials(0, 0, frozenset(), ALL),
    "alice": Credentials.user(ALICE, ALICE),
    "bob": Credentials.user(BOB, BOB, ALICE),
}


def access_list(*named: tuple[acl.Tag, int, int]) -> bytes:
    """The xattr of an access list with u::7 g::5 m::7 o::0 and (tag, permissions, id)s."""
    base = ((acl.Tag.USER_OBJ, 7), (acl.Tag.GROUP_OBJ, 5), (acl.Tag.MASK, 7), (acl.Tag.OTHER, 0))
    entries = [acl.AclEntry(tag, perm) for tag, perm in base]
    entries += [acl.AclEntry(tag, perm, who) for tag, perm, who in named]
    return acl.encode(tuple(sorted(entries, key=lambda entry: (entry.tag, entry.who))))


LISTS: Final = (
    access_list((acl.Tag.USER, 6, BOB)),
    access_list((acl.Tag.USER, 0, ALICE), (acl.Tag.GROUP, 3, ALICE)),
    b"rubbish",
)

DIRECTORIES: Final = ("d", "d/e", "m", "m/n", "s")
NAMES: Final = ("a", "b", "c")
_ENTRIES: Final = (
    *NAMES,
    *DIRECTORIES,
    *(f"{d}/{n}" for d in DIRECTORIES for n in NAMES),
    "l",
    "d/l",
)
_ODD: Final = (
    *("d/", "a/", "c/", "l/", "d/.", "d/..", "m/../a", "d/./a", "l/a", "d/l/a", "a/x", "."),
    *("a2", "b2", "d/b2", "m/a2", "s/c2", "d/e/c2"),  # where the bottoms have hard links
    *("", "x" * 255, "y" * 256, "d/e/../../b", "loop", "loop/a"),
)
_MAKING: Final = (0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_CREAT | os.O_TRUNC)
_OPEN_FLAGS: Final = (
    *(
        access | making | other
        for access in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
        for making in _MAKING
        for other in (0, os.O_APPEND, os.O_NOFOLLOW, os.O_DIRECTORY, os.O_PATH, os.O_NOATIME)
    ),
    os.O_PATH | os.O_NOFOLLOW,
    os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW,
    os.O_RDONLY | os.O_DIRECT,
    os.O_WRONLY | os.O_DIRECT | os.O_CREAT,
    os.O_RDWR | os.O_SYNC,
    os.O_TMPFILE | os.O_RDWR,
    os.O_TMPFILE | os.O_RDONLY,
)

_ATTRIBUTES: Final = (
    *("user.x", "user.y", "trusted.x", "trusted.overlay.opaque", "trusted.overlay.overlay.y"),
    *("user.overlay.redirect", "odd", "user." + "n" * 251, "security.x", "security.capability"),
)

#: The values each kind of argument is drawn from.
DOMAINS: Final[dict[str, tuple[Any, ...]]] = {
    "path": _ENTRIES * 3 + _ODD,
    "target": ("a", "d", "d/a", "e", "nothing", "loop", "a/", "m/n", "", "z" * 4096),
    "flags": _OPEN_FLAGS,
    "mode": (0o644, 0o600, 0o666, 0o755, 0o700, 0o777, 0o070, 0o4755, 0o6775, 0o2770, 0o1777, 0),
    "size": (0, 1, 5, 4096, 70000, -1),
    "data": (b"", b"new", b"longer than the old"),
    "uid": (-1, 0, ALICE, BOB),
    "gid": (-1, 0, ALICE, BOB),
    "ns": (None, (10**18, 10**18 + 1), (5, 7 * 10**17 + 123456789)),
    "attribute": _ATTRIBUTES,
    "pair": (
        *((name, value) for name in _ATTRIBUTES[:-1] for value in (b"1", b"y")),
        *(("user.x", b""), ("security.capability", b"no struct vfs_cap_data")),
        *(("security.capability", struct.pack("<IIIII", 0x2000001, 1, 0, 0, 0)),) * 4,
    ),
    "xflags": (0, 0, os.XATTR_CREATE, os.XATTR_REPLACE),
    "list": LISTS,
    "which": (acl.ACCESS, acl.DEFAULT),
    "rename": (0, 0, 0, syscalls.RENAME_NOREPLACE, syscalls.RENAME_EXCHANGE, 3, 4, 8),
    "kind": (
        *((stat.S_IFIFO, 0), (stat.S_IFCHR, 0), (stat.S_IFCHR, 0x103), (stat.S_IFSOCK, 0)),
        *((stat.S_IFREG, 0), (0, 0), (stat.S_IFDIR, 0), (stat.S_IFLNK, 0)),
    ),
    # Not those that are inherited: overlayfs forgets to where something replaces a whiteout.
    "inode flags": (0, 0, 0, 0x10, 0x20, 0x30),
    "follow": (True, False),
    "access": (os.R_OK, os.W_OK, os.X_OK, os.R_OK | os.W_OK),
    "user": ("root", "root", "alice", "bob"),
}

#: Every operation, with the kinds of its arguments.
OPERATIONS: Final[dict[str, tuple[str, ...]]] = {
    "open": ("path", "flags", "mode", "data"),
    "write": ("path", "data"),
    "truncate": ("path", "size"),
    "mkdir": ("path", "mode"),
    "rmdir": ("path",),
    "unlink": ("path",),
    "symlink": ("target", "path"),
    "link": ("path", "path", "follow"),
    "rename": ("path", "path", "rename"),
    "mknod": ("path", "kind", "mode"),
    "chmod": ("path", "mode"),
    "chown": ("path", "uid", "gid", "follow"),
    "utime": ("path", "ns", "follow"),
    "setxattr": ("path", "pair", "xflags", "follow"),
    "removexattr": ("path", "attribute", "follow"),
    "getxattr": ("path", "attribute", "follow"),
    "listxattr": ("path", "follow"),
    "setacl": ("path", "which", "list"),
    "removeacl": ("path", "which"),
    "readdir": ("path",),
    "stat": ("path", "follow"),
    "readlink": ("path",),
    "access": ("path", "access"),
    "chattr": ("path", "inode flags"),
}

#: Drawn more often than the others.
FREQUENT: Final = ("open", "write", "rename", "unlink", "mkdir", "rmdir", "link", "readdir")


@dataclass(frozen=True, slots=True)
class Step:
    """One call of one user; or :data:`REMOUNT`, :data:`SWAP`, which are about the mount.

    As text it is what announcements of the catalogue match: ``chattr('d/a', 0x10)``.
    """

    user: str
    operation: str
    arguments: tuple[Any, ...] = ()

    @classmethod
    def draw(cls, choose: Chooser) -> Step:
        operation = choose((*OPERATIONS, *FREQUENT, *FREQUENT))
        arguments = tuple(choose(DOMAINS[kind]) for kind in OPERATIONS[operation])
        return cls(choose(DOMAINS["user"]), operation, arguments)

    def __str__(self) -> str:
        kinds = OPERATIONS.get(self.operation, ())
        told = (_spoken(*pair) for pair in zip(kinds, self.arguments, strict=True))
        return f"{self.operation}({', '.join(told)})"


#: Unmount the target and mount the same layers again: only the top remembers.
REMOUNT: Final = Step("root", "remount")
#: Each driver goes on with the top that the other has written.
SWAP: Final = Step("root", "swap")


def _spoken(kind: str, value: Any) -> str:
    if kind == "flags":
        return spoken_flags(value)
    if kind == "mode":
        return f"0{value:o}"
    if kind == "inode flags":
        return hex(value)
    if kind == "follow":
        return "follow" if value else "nofollow"
    return repr(value)


def spoken_flags(flags: int) -> str:
    """Open flags by their names, ``O_RDWR|O_CREAT``."""
    access = {os.O_RDONLY: "O_RDONLY", os.O_WRONLY: "O_WRONLY", os.O_RDWR: "O_RDWR"}
    names = [access[flags & os.O_ACCMODE]]
    rest = flags & ~os.O_ACCMODE
    # The long ones first: O_TMPFILE contains O_DIRECTORY, O_SYNC contains O_DSYNC.
    for name in ("TMPFILE", "SYNC", "CREAT", "EXCL", "TRUNC", "APPEND", "NOFOLLOW", "DIRECTORY"):
        bits = getattr(os, f"O_{name}")
        if rest & bits == bits:
            names.append(f"O_{name}")
            rest &= ~bits
    for name in ("PATH", "NOATIME", "DIRECT", "NONBLOCK"):
        bits = getattr(os, f"O_{name}")
        if rest & bits == bits:
            names.append(f"O_{name}")
            rest &= ~bits
    return "|".join(names)
