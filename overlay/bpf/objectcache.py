"""Compiled programs, kept on disk: compiling is most of what starting takes.

An object is named for a checksum of all that it came from, the kernel's type information
and its own sources.  What is loaded into the kernel must come from nobody else: files and
directory belong to the user who runs this, and nobody else can write to them.  Without
such a place nothing is kept, and nothing is said: it only takes longer.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import json
import os
import stat
from pathlib import Path
from typing import Any

from overlay.bpf.objects import MapSpec, Object

__all__ = ["directory", "find", "keep", "note", "recall"]

#: More than one: backends differ, and so do kernels that share a disk.
_KEPT = 8


def directory() -> Path:
    """Where objects of this user are kept: for a service where systemd says (CacheDirectory=)."""
    place = os.environ.get("CACHE_DIRECTORY")
    if place:
        return Path(place)
    if os.geteuid() == 0:
        return Path("/var/cache/fallthru/bpf")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home, "fallthru", "bpf")


def find(name: str) -> Object | None:
    """The object kept as ``name``; None if there is none that can be trusted."""
    try:
        return _read(recall(name))
    except (ValueError, KeyError, TypeError, binascii.Error):
        return None  # missing or damaged: it is made anew


def keep(name: str, made: Object) -> None:
    """Keep ``made`` as ``name``, if that can be done."""
    note(name, _written(made))


def recall(name: str) -> Any:
    """What JSON is kept as ``name``; None if there is none that can be trusted."""
    try:
        place = _opened(create=False)
    except OSError:
        return None
    try:
        file = os.open(f"{name}.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
        with open(file, "rb") as stream:
            return json.loads(stream.read()) if _ours(file) else None
    except (OSError, ValueError):
        return None
    finally:
        os.close(place)


def note(name: str, value: Any) -> None:
    """Keep ``value`` as ``name``, if that can be done."""
    try:
        place = _opened(create=True)
    except OSError:
        return
    aside = f".{name}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(aside, flags, 0o600, dir_fd=place), "wb") as stream:
            stream.write(json.dumps(value).encode())
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(aside, f"{name}.json", src_dir_fd=place, dst_dir_fd=place)
        _tidy(place)
    except OSError:
        _forget(aside, place)
    finally:
        os.close(place)


def _opened(*, create: bool) -> int:
    path = directory()
    if create:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not _ours(fd):
        os.close(fd)
        raise PermissionError(f"{path} is not ours alone")
    return fd


def _ours(fd: int) -> bool:
    found = os.fstat(fd)
    return found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o022


def _tidy(place: int) -> None:
    """Let go of all but the newest."""
    names = [name for name in os.listdir(place) if name.endswith(".json")]
    ages = {name: os.stat(name, dir_fd=place, follow_symlinks=False).st_mtime for name in names}
    for name in sorted(names, key=lambda one: ages[one])[:-_KEPT]:
        _forget(name, place)


def _forget(name: str, place: int) -> None:
    with contextlib.suppress(OSError):  # somebody else has
        os.unlink(name, dir_fd=place)


def _written(made: Object) -> dict[str, Any]:
    plain = dataclasses.asdict(made)
    plain["code"] = {name: base64.b64encode(code).decode() for name, code in made.code.items()}
    return plain


def _read(plain: Any) -> Object:
    return Object(
        maps=tuple(MapSpec(**spec) for spec in plain["maps"]),
        code={name: base64.b64decode(code) for name, code in plain["code"].items()},
        targets=plain["targets"],
        module_from=plain["module_from"],
    )
