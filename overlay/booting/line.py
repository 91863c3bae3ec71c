"""The word for the kernel's command line that has a machine boot on an overlay.

    fallthru=top:SOURCE,bottom:SOURCE[,bottom:SOURCE...][,profile:P][,size:S][,wait:SECONDS]

A source is a device, ``UUID=...`` or ``/dev/...``, with ``:/PATH`` for an image or directory
in its file system; or ``tmpfs``, for a top.  ``overlay/initramfs/mount-root`` reads it when
there is no Python yet; here it is made, of what the layers are called in a running system.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Sequence
from typing import Final

from overlay import imageformats, mountinfo, syscalls
from overlay.errors import EnvironmentLacks, Refused, UsageError
from overlay.profiles import profile_named
from overlay.text import printable

__all__ = ["MEMORY", "bottom_source", "top_source", "word"]

#: The top that is lost with the power.
MEMORY: Final = "tmpfs"
_TAGGED: Final = re.compile(r"(UUID|LABEL|PARTUUID|PARTLABEL)=.")
_PLAIN_PATH: Final = re.compile(r"(/[A-Za-z0-9_+@=-][A-Za-z0-9._+@=-]*)+")
#: What a boot can put its top on; overlay/initramfs/mount-root has the same list.
_TOPS: Final = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"})


def word(
    bottoms: Sequence[str],
    top: str,
    *,
    profile: str = "document",
    size: str | None = None,
    wait: int | None = None,
) -> str:
    """The word for these layers: paths and devices of this system, or sources already.

    UsageError for what cannot be, EnvironmentLacks for what has no device to boot from,
    Refused where a bottom could change.
    """
    profile_named(profile)
    if not bottoms:
        raise UsageError("a root needs a bottom", hint="name one with --bottom")
    if profile == "throwaway" and top != MEMORY:
        raise UsageError(
            "a top of the profile throwaway cannot be mounted again after a boot",
            hint=f"use --top {MEMORY}, or another profile",
        )
    if size is not None and top != MEMORY:
        raise UsageError("--size is for a top in memory", hint=f"--top {MEMORY}")
    upper = top_source(top)
    items = [f"top:{upper}"]
    for bottom in bottoms:
        source = bottom_source(bottom)
        if source.split(":/")[0] == upper.split(":/")[0] and os.path.isdir(bottom):
            raise Refused(
                f"the bottom {printable(bottom)} is on the top's file system, which is written to",
                hint="`fallthru freeze` makes an image of it, which may be there",
            )
        items.append(f"bottom:{source}")
    if profile != "document":
        items.append(f"profile:{profile}")
    if size is not None:
        items.append(f"size:{size}")
    if wait is not None:
        items.append(f"wait:{wait}")
    return "fallthru=" + ",".join(items)


def top_source(top: str) -> str:
    """The source for the directory or device ``top``, which need not be there yet."""
    if top == MEMORY:
        return top
    source = _source(top, may_be_missing=True)
    _, found, path = source.partition(":/")
    if found and not _PLAIN_PATH.fullmatch("/" + path):
        raise UsageError(
            f"a root's top cannot be at {printable('/' + path)}",
            hint="letters, digits and . _ + @ = - only, and in a directory",
        )
    return source


def bottom_source(bottom: str) -> str:
    """The source for an image, a directory or a device with a file system."""
    source = _source(bottom, may_be_missing=False)
    if not _is_source(bottom) and not os.path.isdir(bottom):
        with open(bottom, "rb", buffering=0) as image:
            imageformats.format_of(image.fileno(), bottom)
    return source


def _is_source(text: str) -> bool:
    return _TAGGED.match(text) is not None or text.partition(":/")[0] != text


def _source(name: str, *, may_be_missing: bool) -> str:
    if _is_source(name):
        return _escaped(name)
    path, rest = os.path.abspath(name), ""
    while may_be_missing and not os.path.lexists(path):
        path, _, last = path.rpartition("/")
        path, rest = path or "/", f"/{last}{rest}"
    try:
        found = os.stat(path)
    except OSError as error:
        raise UsageError(f"{printable(name)}", errno=error.errno or 0) from None
    if stat.S_ISBLK(found.st_mode):
        return _escaped(_tag(os.path.realpath(path)))
    device, inside = _on_its_device(os.path.realpath(path), is_top=may_be_missing)
    return _escaped(f"{device}:{inside.rstrip('/')}{rest}" if rest else f"{device}:{inside}")


def _on_its_device(path: str, *, is_top: bool) -> tuple[str, str]:
    """The device that ``path`` is on, and where it is in the file system there."""
    number = syscalls.statx(syscalls.AT_FDCWD, path, 0).mnt_id
    entry = next(each for each in mountinfo.read() if each.mount_id == number)
    if not entry.source.startswith("/dev/"):
        raise EnvironmentLacks(
            f"{printable(path)} is on {entry.fstype}, which has no device to boot from",
            hint="put it on a disk, and name it there",
        )
    if is_top and entry.fstype not in _TOPS:
        raise EnvironmentLacks(
            f"{printable(path)} is on {entry.fstype}, where a root cannot have its top",
            hint="put it on ext4, xfs, btrfs or f2fs",
        )
    inside = os.path.normpath(f"{entry.root}/{os.path.relpath(path, entry.mount_point)}")
    return _tag(os.path.realpath(entry.source)), "/" + inside.lstrip("/")


def _tag(device: str) -> str:
    """How to find ``device`` at the next boot, when it may have another name."""
    for name in ("UUID", "PARTUUID"):
        try:
            done = subprocess.run(
                ("blkid", "-c", "/dev/null", "-o", "value", "-s", name, device),
                env=os.environ | {"PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            raise EnvironmentLacks("blkid is missing", hint="apt-get install util-linux") from None
        if done.stdout.strip():
            return f"{name}={done.stdout.strip()}"
    return device


def _escaped(source: str) -> str:
    """As in fstab: what the word or the command line would end at, as three octal digits."""
    if "\n" in source or "\0" in source:
        raise UsageError(f"{printable(source)} has a newline in its name", hint="rename it")
    return "".join(
        chr(byte) if 0x20 < byte < 0x7F and chr(byte) not in ',\\"' else f"\\{byte:03o}"
        for byte in os.fsencode(source)
    )
