"""Who calls, and what the kernel would let them do.

The engine judges every operation before it copies anything up (document L361–L404),
and by the union's attributes, so that a read-only bottom is no reason to refuse.  The
rules are those of generic_permission(), may_delete(), setattr_prepare() and their
neighbours in the kernel's fs/namei.c and fs/attr.c.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final, Self

from overlay import acl

__all__ = ["EXECUTE", "READ", "WRITE", "Capability", "Credentials", "failure", "protection"]

READ: Final = 4
WRITE: Final = 2
EXECUTE: Final = 1  # search, for a directory


class Capability(IntEnum):
    """The capabilities that matter to a file system (include/uapi/linux/capability.h)."""

    CHOWN = 0
    DAC_OVERRIDE = 1
    DAC_READ_SEARCH = 2
    FOWNER = 3
    FSETID = 4
    LINUX_IMMUTABLE = 9
    SYS_ADMIN = 21
    MKNOD = 27
    SETFCAP = 31


def failure(number: int) -> OSError:
    """The error of a system call, yet without a path."""
    return OSError(number, os.strerror(number))


def protection(name: str) -> int:
    """A sysctl of /proc/sys/fs; 1 if it cannot be read, as every distribution has it."""
    try:
        return int(Path("/proc/sys/fs", name).read_text())
    except OSError:
        return 1


@dataclass(frozen=True, slots=True)
class Credentials:
    """A caller: file system uid and gid, supplementary groups, effective capabilities, umask."""

    uid: int
    gid: int
    groups: frozenset[int] = frozenset()
    caps: frozenset[Capability] = frozenset()
    umask: int = 0o022

    @classmethod
    def caller(cls) -> Self:
        """This process's own."""
        fields = dict(
            line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines()
        )
        effective = int(fields["CapEff"], 16)
        return cls(
            uid=int(fields["Uid"].split()[3]),
            gid=int(fields["Gid"].split()[3]),
            groups=frozenset(map(int, fields["Groups"].split())),
            caps=frozenset(each for each in Capability if effective >> each & 1),
            umask=int(fields["Umask"], 8),
        )

    @classmethod
    def user(cls, uid: int, gid: int, *groups: int, umask: int = 0o022) -> Self:
        """An ordinary user, without capabilities."""
        return cls(uid, gid, frozenset(groups), frozenset(), umask)

    @property
    def gids(self) -> frozenset[int]:
        return self.groups | {self.gid}

    def can(self, capability: Capability) -> bool:
        return capability in self.caps

    def overrides(self, mode: int, want: int) -> bool:
        """Whether a capability grants ``want`` (rwx bits) whatever the mode and the ACL say."""
        if stat.S_ISDIR(mode):
            read_only = not want & WRITE and self.can(Capability.DAC_READ_SEARCH)
            return read_only or self.can(Capability.DAC_OVERRIDE)
        if want == READ and self.can(Capability.DAC_READ_SEARCH):
            return True
        executable = not want & EXECUTE or bool(mode & 0o111)
        return executable and self.can(Capability.DAC_OVERRIDE)

    def permitted(
        self, st: os.stat_result, want: int, access: tuple[acl.AclEntry, ...] | None = None
    ) -> bool:
        """Whether ``want`` (rwx bits) is granted on something with the access list ``access``."""
        mode = st.st_mode
        if self.overrides(mode, want):
            return True
        if self.uid == st.st_uid:
            return mode >> 6 & want == want
        if access is not None and mode & stat.S_IRWXG:
            return acl.permits(access, st.st_uid, st.st_gid, self.uid, self.gids, want)
        if st.st_gid in self.gids:
            return mode >> 3 & want == want
        return mode & want == want

    def owns(self, st: os.stat_result) -> bool:
        """Whether what only the owner may do is allowed (inode_owner_or_capable())."""
        return self.uid == st.st_uid or self.can(Capability.FOWNER)

    def in_group(self, gid: int) -> bool:
        """Whether a set-group-ID bit for ``gid`` may be kept."""
        return gid in self.gids or self.can(Capability.FSETID)

    def require_owner(self, st: os.stat_result) -> None:
        """EPERM unless :meth:`owns`."""
        if not self.owns(st):
            raise failure(errno.EPERM)

    def require_not_sticky(self, parent: os.stat_result, victim: os.stat_result) -> None:
        """EPERM where the parent's sticky bit keeps the entry from us (check_sticky())."""
        if parent.st_mode & stat.S_ISVTX and self.uid not in (victim.st_uid, parent.st_uid):
            self.require_owner(victim)

    def require_sticky_open(self, parent: os.stat_result, st: os.stat_result) -> None:
        """EACCES for O_CREAT on what somebody put in a sticky directory of others.

        By the rules of may_create_in_sticky(), which two sysctls relax.
        """
        if not parent.st_mode & stat.S_ISVTX or st.st_uid in (parent.st_uid, self.uid):
            return
        kinds = {stat.S_IFREG: "protected_regular", stat.S_IFIFO: "protected_fifos"}
        name = kinds.get(stat.S_IFMT(st.st_mode))
        level = 1 if name is None else protection(name)
        if level and (parent.st_mode & 0o002 or (level > 1 and parent.st_mode & 0o020)):
            raise failure(errno.EACCES)

    def require_chown(self, st: os.stat_result, uid: int, gid: int) -> None:
        """EPERM unless the owner may become ``uid`` and ``gid`` (-1: stays)."""
        mine = self.uid == st.st_uid
        may_uid = uid == -1 or (mine and uid == st.st_uid)
        may_gid = gid == -1 or (mine and (gid == st.st_gid or gid in self.gids))
        if not (may_uid and may_gid) and not self.can(Capability.CHOWN):
            raise failure(errno.EPERM)

    def loses_set_ids(self, st: os.stat_result) -> bool:
        """Whether a chown takes set-id bits from a file (setattr_should_drop_suidgid())."""
        sgid = st.st_mode & stat.S_ISGID
        drops_sgid = sgid and (st.st_mode & stat.S_IXGRP or not self.in_group(st.st_gid))
        return bool(st.st_mode & stat.S_ISUID or drops_sgid)

    def mode_after_write(self, st: os.stat_result) -> int:
        """A regular file's mode after we changed its contents (file_remove_privs())."""
        mode = stat.S_IMODE(st.st_mode)
        if self.can(Capability.FSETID):
            return mode
        if mode & stat.S_ISGID and (mode & stat.S_IXGRP or not self.in_group(st.st_gid)):
            mode &= ~stat.S_ISGID
        return mode & ~stat.S_ISUID
