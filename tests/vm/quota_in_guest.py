"""Run in a guest by test_quota.py: copyup and commit onto disks that have a quota.

The development kernel has quotas of no file system but btrfs.  Prints what was done and seen
as one JSON object, by the disk.
"""

from __future__ import annotations

import ctypes
import fcntl
import io
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from overlay import kernel
from overlay.cli import main as fallthru
from overlay.union import Union

OWNER: Final = 1000
PROJECT: Final = 17
BIG: Final = bytes(range(256)) * 4096  # 1 MiB, four times what may be taken
LIMIT_KIB: Final = 256


@dataclass(frozen=True)
class Disk:
    """How it is made, its size in MiB, the mount option that has limits kept, and on whom.

    ``number`` and ``of`` are the kind of quota and whom it binds (include/uapi/linux/quota.h).
    """

    make: tuple[str, ...]
    size: int
    option: str
    number: int
    of: int

    def prepare(self, place: Path) -> None:
        """Made and mounted at ``place``; what will be in it belongs to PROJECT."""
        place.mkdir(parents=True)
        image = place.parent / "image"
        with image.open("wb") as file:
            file.truncate(self.size << 20)
        subprocess.run([*self.make, image], check=True, stdout=sys.stderr)
        kind = self.make[0].removeprefix("mkfs.")
        words = ("mount", "-t", kind, "-o", f"loop,{self.option}", image, place)
        subprocess.run(words, check=True)
        if self.of == PROJECT:
            set_attributes, inherit = 0x401C5820, 0x200  # struct fsxattr, include/uapi/linux/fs.h
            fd = os.open(place, os.O_RDONLY)
            fcntl.ioctl(fd, set_attributes, struct.pack("=5I8x", inherit, 0, 0, PROJECT, 0))
            os.close(fd)

    def limit(self, place: Path, kib: int) -> None:
        """What may be taken in all, by quotactl(2) and its struct if_dqblk; 0 for anything."""
        device = f"/dev/loop{os.minor(place.stat().st_dev)}"
        set_quota, block_limits = 0x800008 << 8 | self.number, 1
        values = (ctypes.c_uint64 * 9)(kib, kib, 0, 0, 0, 0, 0, 0, block_limits)
        if _libc.quotactl(set_quota, device.encode(), self.of, ctypes.byref(values)) != 0:
            raise OSError(ctypes.get_errno(), "quotactl")


# xfs by user would say nothing: it lets who may chown exceed what it is chowned to.
_EXT4: Final = ("mkfs.ext4", "-q", "-F", "-O")
DISKS: Final = {
    "ext4 by user": Disk((*_EXT4, "quota"), 32, "usrquota", 0, OWNER),
    "ext4 by project": Disk(
        (*_EXT4, "quota,project", "-E", "quotatype=prjquota"), 32, "prjquota", 2, PROJECT
    ),
    "xfs by project": Disk(("mkfs.xfs", "-q"), 320, "pquota", 2, PROJECT),
}

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    places = {name: Path("/tmp", name, "disk") for name in DISKS}
    for name, disk in DISKS.items():
        disk.prepare(places[name])
    # Overlayfs itself writes without CAP_SYS_RESOURCE, which ext4 lets exceed any quota.
    seen = {
        name: {"kernel": copied_up(disk, places[name], in_kernel)} for name, disk in DISKS.items()
    }
    give_up_resources()
    for name, disk in DISKS.items():
        seen[name]["engine"] = copied_up(disk, places[name], in_engine)
        seen[name]["commit"] = committed(disk, places[name])
    print(json.dumps(seen))


def give_up_resources() -> None:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the upper halves
    _libc.capget(header, sets)
    sets[0] &= ~(1 << 24)
    if _libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def owned(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.chown(path, OWNER, OWNER)


def made(place: Path, *names: str) -> list[Path]:
    """Empty directories."""
    for name in names:
        for old in (place / name, place / f"{name}.work"):
            shutil.rmtree(old, ignore_errors=not old.exists())
        (place / name).mkdir()
    return [place / name for name in names]


def told(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return os.strerror(error.errno or 0)
    return "done"


def append(path: Path | str, opened: Callable[[Path | str, int], int] = os.open) -> None:
    with open(opened(path, os.O_WRONLY | os.O_APPEND), "ab") as file:
        file.write(b"!")


def copied_up(
    disk: Disk, place: Path, act: Callable[[Path, Path, Path], dict[str, object]]
) -> dict[str, object]:
    """What ``act`` saw, with a top on the disk; then the same with no limit."""
    bottom, mnt = made(place.parent, "bottom", "mnt")
    owned(bottom / "big", BIG)
    owned(bottom / "small", b"small")
    (top,) = made(place, "top")
    disk.limit(place, LIMIT_KIB)
    bound = act(bottom, top, mnt)
    disk.limit(place, 0)
    return {**bound, "unbound": act(bottom, top, mnt)["big"]}


def in_kernel(bottom: Path, top: Path, mnt: Path) -> dict[str, object]:
    with kernel.mounted(kernel.Overlay((str(bottom),), str(top)), str(mnt)):
        return {
            "small": told(lambda: append(mnt / "small")),
            "big": told(lambda: append(mnt / "big")),
            "whole": (mnt / "big").read_bytes().startswith(BIG),
            "on top": sorted(os.listdir(top)),
            "aside": os.listdir(f"{top}.work/work"),
        }


def in_engine(bottom: Path, top: Path, _mnt: Path) -> dict[str, object]:
    work = Path(f"{top}.work")
    work.mkdir(exist_ok=True)
    with Union(top, [bottom], work) as union:
        small = told(lambda: append("small", union.open))
        big = told(lambda: append("big", union.open))
        with open(union.open("big", os.O_RDONLY), "rb") as file:
            whole = file.read().startswith(BIG)
    on_top = sorted(os.listdir(top))
    aside = [path.name for path in work.rglob("*") if not path.is_dir()]
    return {"small": small, "big": big, "whole": whole, "on top": on_top, "aside": aside}


def committed(disk: Disk, place: Path) -> dict[str, object]:
    """A commit to a bottom on the disk, then the same once more with no limit."""
    (top,) = made(place.parent, "top")
    made(place, "top")  # makes room
    (bottom,) = made(place, "bottom")
    owned(top / "big", BIG)
    owned(top / "small", b"small")
    (bottom / "kept").write_text("kept")
    disk.limit(place, LIMIT_KIB)
    words = ("commit", "--yes", "--top", str(top), "--bottom", str(bottom))
    first = run(*words)
    seen = {"on top": sorted(os.listdir(top)), "on bottom": sorted(os.listdir(bottom))}
    disk.limit(place, 0)
    again = run(*words)
    whole = (bottom / "big").read_bytes() == BIG and (bottom / "small").read_bytes() == b"small"
    return {"first": first, **seen, "again": again, "whole": whole, "left": os.listdir(top)}


def run(*words: str) -> tuple[int, str]:
    """The command's exit code, and what it says on standard error; in this process, as it is."""
    said = io.StringIO()
    sys.argv = ["fallthru", *words]
    with redirect_stdout(io.StringIO()), redirect_stderr(said):
        try:
            fallthru()
        except SystemExit as end:
            return int(end.code or 0), said.getvalue()
    return 0, said.getvalue()


if __name__ == "__main__":
    main()
