"""What mount(8) hands to its helper: one string of options, as an overlay to mount.

The document's names and overlayfs's mean the same here: ``bottom`` or ``lowerdir`` (uppermost
first, separated by colons), ``top`` or ``upperdir``, ``work`` or ``workdir``.  mount(8) passes
the options that it did not understand, quoted as they stood in fstab, and most that it did.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from overlay import mountinfo
from overlay.errors import UsageError
from overlay.kernel import ATTRIBUTES, Overlay
from overlay.profiles import DEFAULT

__all__ = ["MEANINGS", "Request", "parse", "split"]

_OFF = {"rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec"}

#: Every option that the helper itself knows, and what it means.
MEANINGS = {
    "bottom=DIR[:DIR...], lowerdir=": "the bottoms, uppermost first: directories, images or "
    "block devices. A colon in a name is written with a backslash before it; the option may be "
    "repeated.",
    "top=DIR, upperdir=": "the directory that takes all writes",
    "work=DIR, workdir=": "scratch directory on the top's file system; TOP.work if none is named",
    "profile=NAME": "what the mount promises",
    "union": "what is mounted read-only at the mount point is the bottom, and the source is the "
    "top: the second of the two steps of the 2010 document",
    "shared-index=META": "the bottoms' shared index, made by `fallthru prime --shared`",
    "require-read-only": "refuse bottoms that the kernel itself does not keep read-only",
    "nohold": "do not keep the block devices of read-only bottoms read-only",
    "allow-submounts": "cover file systems that are mounted read-write below a bottom",
    "ro, nosuid, nodev, noexec": "attributes of the mount, and their opposites; also with remount",
    "remount": "change these attributes; layers stay as they are",
}

_BOTTOMS = frozenset({"bottom", "lowerdir", "lowerdir+"})
_ONE_DIRECTORY = {"top": "top", "upperdir": "top", "work": "work", "workdir": "work"}

# fmt: off
#: For mount(8), fstab and systemd, or without meaning for an overlay.
_NOT_OURS = frozenset({
    "defaults", "auto", "noauto", "nofail", "fail", "_netdev", "user", "nouser", "users", "owner",
    "group", "comment", "helper", "uhelper", "atime", "noatime", "diratime", "nodiratime",
    "relatime", "norelatime", "strictatime", "nostrictatime", "async", "silent", "loud", "nomand",
    "private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable",
})
#: What overlayfs and the kernel itself take (Documentation/filesystems/overlayfs.rst).
_KERNEL = frozenset({
    "redirect_dir", "index", "nfs_export", "xino", "metacopy", "verity", "volatile", "uuid",
    "userxattr", "fsync", "override_creds", "nooverride_creds", "default_permissions",
    "sync", "dirsync", "lazytime",
})
# fmt: on

#: Taken back by an ``exec`` or ``suid`` that follows, as mount(8) documents.
_IMPLIED: dict[str, tuple[str, ...]] = {
    "user": ("noexec", "nosuid", "nodev"),
    "users": ("noexec", "nosuid", "nodev"),
    "owner": ("nosuid", "nodev"),
    "group": ("nosuid", "nodev"),
}


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be mounted, or changed where ``remount``; ``union`` asks for the second of the
    document's two steps (L227–L230)."""

    overlay: Overlay
    remount: bool = False
    union: bool = False
    allow_submounts: bool = False


@dataclass(slots=True)
class _Reading:
    bottoms: list[str] = field(default_factory=list)
    directories: dict[str, str] = field(default_factory=dict)
    attributes: set[str] = field(default_factory=set)
    kernel: list[tuple[str, str]] = field(default_factory=list)
    ours: dict[str, str] = field(default_factory=dict)


_OURS = frozenset(
    {"remount", "union", "profile", "shared-index", "require-read-only", "nohold"}
    | {"hold-lsm", "allow-submounts"}
)


def split(options: str) -> list[tuple[str, str]]:
    r"""``a=1,b="x,y",c=p\,q`` as (key, value) pairs; a value keeps its backslashes but ``\,``.

    A comma counts unless it stands in double quotes, as libmount writes it, or after a
    backslash, as overlayfs takes it.
    """
    pairs = []
    for item in re.findall(r'(?:"[^"]*"|\\.|[^,])+', options, re.DOTALL):
        key, _, value = item.partition("=")
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        pairs.append((key, value.replace("\\,", ",")))
    return pairs


def parse(options: str, *, sloppy: bool = False) -> Request:
    """The request that an option string describes; UsageError for what it cannot mean.

    With ``sloppy`` unknown options are ignored (mount -s).  Layers may be missing: a remount
    needs none, and in two steps they are named by the mount point and the source.
    """
    reading = _Reading()
    for key, value in split(options):
        _take(reading, key, value, sloppy)
    ours = reading.ours
    overlay = Overlay(
        bottoms=tuple(reading.bottoms),
        top=reading.directories.get("top", ""),
        work=reading.directories.get("work"),
        profile=ours.get("profile", DEFAULT),
        options=tuple(reading.kernel),
        require_read_only="require-read-only" in ours,
        hold="nohold" not in ours,
        hold_lsm="hold-lsm" in ours,
        index=ours.get("shared-index"),
        attributes=sum(ATTRIBUTES[name] for name in reading.attributes),
    )
    return Request(
        overlay=overlay,
        remount="remount" in ours,
        union="union" in ours,
        allow_submounts="allow-submounts" in ours,
    )


def _take(reading: _Reading, key: str, value: str, sloppy: bool) -> None:
    if key in _BOTTOMS:
        reading.bottoms += [value] if key.endswith("+") else _listed(value)
    elif key in _ONE_DIRECTORY:
        reading.directories[_ONE_DIRECTORY[key]] = value.replace("\\\\", "\\")
    elif key in ATTRIBUTES:
        reading.attributes.add(key)
    elif key in _OFF:
        reading.attributes.discard(_OFF[key])
    elif key in _OURS:
        reading.ours[key] = value
    elif key in _KERNEL:
        reading.kernel.append((key, value))
    elif key in _NOT_OURS or key[:2] in ("x-", "X-"):
        reading.attributes.update(_IMPLIED.get(key, ()))
    elif not sloppy:
        raise UsageError(
            f"there is no mount option {key!r}",
            hint="fallthru's own: bottom, top, work, profile, union; overlayfs's pass through",
        )


def _listed(value: str) -> list[str]:
    merged, data = mountinfo.split_lowerdir(value)
    if data:
        raise UsageError(
            "data-only bottoms (after two colons) are read through a shared index",
            hint="make one with `fallthru prime --shared`, and name it with shared-index=",
        )
    return merged
