"""The cache: finished artefacts, each in a directory named for what went into it.

An artefact is looked up by a checksum of its inputs (what is installed, from where, and
the source of the code that does it), so a changed recipe builds anew and an unchanged one
touches nothing, not even the network.  It is built aside and renamed into place, so a
build that was interrupted is no artefact.  One version of each is kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["alone", "cached", "directory", "find"]


def directory() -> Path:
    """Where artefacts are kept: ``$XDG_CACHE_HOME/fallthru/vm``; made when missing."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    place = Path(base, "fallthru", "vm")
    place.mkdir(parents=True, exist_ok=True)
    return place


def _checksum(inputs: object) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]


def find(name: str, inputs: object) -> Path | None:
    """The finished artefact ``name`` made from ``inputs`` (JSON values); None if there is none."""
    place = directory() / f"{name}-{_checksum(inputs)}"
    return place if place.is_dir() else None


def cached(name: str, inputs: object, build: Callable[[Path], None]) -> Path:
    """The artefact's directory; ``build`` fills it if it is not there yet."""
    found = find(name, inputs)
    if found is not None:
        return found
    with alone(name):
        found = find(name, inputs)  # somebody else may have been faster
        if found is not None:
            return found
        place = directory() / f"{name}-{_checksum(inputs)}"
        aside = directory() / f".building-{name}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        started = time.monotonic()
        print(f"vm: building {name}", flush=True)
        try:
            build(aside)
            aside.rename(place)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        _drop_others(name, place)
        size = sum(file.lstat().st_size for file in place.rglob("*"))
        took = time.monotonic() - started
        print(f"vm: {name} is ready: {took:.0f} s, {size / 1e6:.0f} MB", flush=True)
        return place


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Nobody else does the work called ``name`` meanwhile."""
    with (directory() / f".lock-{name}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _drop_others(name: str, kept: Path) -> None:
    """Remove the artefact's earlier versions: the cache holds one of each."""
    for place in directory().glob(f"{name}-" + "[0-9a-f]" * 12):
        if place != kept:
            shutil.rmtree(place, ignore_errors=True)
