"""The kernel's own account of what is mounted: /proc/self/mountinfo, read exactly.

``fallthru`` keeps no registry of mounts: this file is the truth (design: status).
Format: Documentation/filesystems/proc.rst, 3.5; overlay options as
``ovl_show_options()`` prints them.
"""

from __future__ import annotations

import os

from overlay.errors import UsageError
from overlay.lighttyping import TYPE_CHECKING, NamedTuple
from overlay.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "KERNEL_FILESYSTEMS",
    "MountEntry",
    "OverlayMount",
    "overlay_at",
    "overlays",
    "parse",
    "read",
    "split_lowerdir",
]

# fmt: off
#: Mounts that hold nothing of anybody's: the kernel's own views of itself.
KERNEL_FILESYSTEMS = frozenset({
    "autofs", "bpf", "binfmt_misc", "cgroup", "cgroup2", "configfs", "debugfs", "devpts",
    "devtmpfs", "efivarfs", "fusectl", "hugetlbfs", "mqueue", "proc", "pstore",
    "rpc_pipefs", "securityfs", "selinuxfs", "sysfs", "tracefs",
})
# fmt: on


class MountEntry(NamedTuple):
    """One line of mountinfo.  Paths are ``str`` with surrogate escapes (os.fsdecode)."""

    mount_id: int
    parent_id: int
    dev: tuple[int, int]
    root: str
    mount_point: str
    vfs_options: tuple[str, ...]
    fstype: str
    source: str
    super_options: tuple[tuple[str, str], ...]

    @property
    def read_only(self) -> bool:
        """Whether writing through this mount fails, by the mount or by the file system."""
        return "ro" in self.vfs_options or self.super_read_only

    @property
    def super_read_only(self) -> bool:
        """Whether the file system itself is read-only, through whatever mount."""
        return any(key == "ro" for key, _ in self.super_options)


class OverlayMount(NamedTuple):
    """An overlay mount in the document's terms.

    ``bottoms`` and ``data_bottoms`` are uppermost first; ``top`` and ``work`` are None
    for an overlay without a writable layer.  Paths are as they were named when the
    overlay was mounted, in the namespace of whoever did.  ``family`` is the xattr
    prefix its marks have: ``trusted`` or ``user``.
    """

    mount_id: int
    dev: tuple[int, int]
    mount_point: str
    source: str
    bottoms: tuple[str, ...]
    data_bottoms: tuple[str, ...]
    top: str | None
    work: str | None
    vfs_options: tuple[str, ...]
    options: dict[str, str]

    def __hash__(self) -> int:
        return hash(self[:-1])

    @property
    def family(self) -> str:
        return "user" if "userxattr" in self.options else "trusted"


def _unescape(text: bytes) -> bytes:
    # The kernel writes blanks, newlines and backslashes (and whatever the file system
    # asks for) as three octal digits.
    if b"\\" not in text:
        return text
    import re

    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), text)


def _path(text: bytes) -> str:
    return os.fsdecode(_unescape(text))


def _split_options(raw: bytes) -> tuple[tuple[str, str], ...]:
    pairs = []
    for option in raw.split(b","):
        key, _, value = option.partition(b"=")
        pairs.append((key.decode(errors="replace"), _path(value)))
    return tuple(pairs)


def parse(lines: Iterable[bytes]) -> list[MountEntry]:
    """Mountinfo lines as entries, in their order: later ones cover earlier ones."""
    entries = []
    for line in lines:
        # The mount part has any number of optional fields, ended by a lone dash.
        mount, _, rest = line.rstrip(b"\n").partition(b" - ")
        fields = mount.split(b" ")
        # The source may be empty, which leaves two blanks in a row.
        fstype, source, options = rest.split(b" ", 2)
        major, _, minor = fields[2].partition(b":")
        entries.append(
            MountEntry(
                mount_id=int(fields[0]),
                parent_id=int(fields[1]),
                dev=(int(major), int(minor)),
                root=_path(fields[3]),
                mount_point=_path(fields[4]),
                vfs_options=tuple(fields[5].decode().split(",")),
                fstype=_path(fstype),
                source=_path(source),
                super_options=_split_options(options),
            )
        )
    return entries


def read(pid: int | str = "self") -> list[MountEntry]:
    """All mounts in a process's mount namespace."""
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        return parse(file)


def overlays(entries: Iterable[MountEntry] | None = None) -> list[OverlayMount]:
    """The overlay mounts among ``entries`` (default: of this process)."""
    chosen = read() if entries is None else entries
    return [_overlay(entry) for entry in chosen if entry.fstype == "overlay"]


def overlay_at(mount_point: str | bytes | os.PathLike[str]) -> OverlayMount:
    """The overlay mounted at exactly ``mount_point``; UsageError when there is none."""
    wanted = os.path.realpath(os.fsdecode(mount_point))
    covering = [entry for entry in read() if entry.mount_point == wanted]
    if covering and covering[-1].fstype == "overlay":
        return _overlay(covering[-1])
    what = f"a {covering[-1].fstype} mount" if covering else "not a mount point"
    raise UsageError(
        f"no overlay at {printable(wanted)}: it is {what}",
        hint="`fallthru status` lists the overlays",
    )


def _overlay(entry: MountEntry) -> OverlayMount:
    bottoms: list[str] = []
    data_bottoms: list[str] = []
    options: dict[str, str] = {}
    for key, value in entry.super_options:
        if key == "lowerdir+":  # appended one by one, since 6.8; shown unescaped
            bottoms.append(value)
        elif key == "datadir+":
            data_bottoms.append(value)
        elif key == "lowerdir":
            merged, data = split_lowerdir(value)
            bottoms.extend(merged)
            data_bottoms.extend(data)
        else:
            options[key] = value
    top, work = options.pop("upperdir", None), options.pop("workdir", None)
    return OverlayMount(
        mount_id=entry.mount_id,
        dev=entry.dev,
        mount_point=entry.mount_point,
        source=entry.source,
        bottoms=tuple(bottoms),
        data_bottoms=tuple(data_bottoms),
        top=top,
        work=work,
        vfs_options=entry.vfs_options,
        options=options,
    )


def split_lowerdir(value: str) -> tuple[list[str], list[str]]:
    """overlayfs's ``a:b::data`` as ([a, b], [data]); a colon or backslash in a name is escaped."""
    names: list[str] = [""]
    escaped = False
    for char in value:
        if escaped:
            names[-1] += char
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == ":":
            names.append("")
        else:
            names[-1] += char
    # An empty name stands between two colons: what follows is data-only.
    if "" in names:
        middle = names.index("")
        return names[:middle], [name for name in names[middle:] if name]
    return names, []
