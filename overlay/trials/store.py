"""Where the tops of a trial are: in memory, in a directory for once, or kept in one.

A directory for once is locked while its trial runs, so that the next trial can tell what a
killed one left behind, and removes it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from overlay import syscalls
from overlay.errors import EnvironmentLacks, Refused, UsageError
from overlay.outfile import sync_directory
from overlay.text import human_bytes, printable
from overlay.topcopy import copy_tops

__all__ = [
    "DEFAULT_NEED",
    "NOTE",
    "copy_store",
    "kept",
    "on_disk",
    "remove",
    "write_note",
]

#: A kept trial says here what its tops belong to.
NOTE: Final = "trial.json"
DEFAULT_NEED: Final = 1 << 30

_FORMAT: Final = 1
_PREFIX: Final = "fallthru-try-"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def on_disk(parent: str, need: int) -> Iterator[str]:
    """A directory below ``parent`` for one trial, removed with all that is in it.

    EnvironmentLacks unless ``need`` bytes are free there.
    """
    _remove_stale(parent)
    _require_space(parent, need)
    try:
        made = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
    except OSError as error:
        raise UsageError(
            f"nothing can be made in {printable(parent)}", errno=error.errno or 0
        ) from None
    with _locked(made):
        try:
            yield made
        finally:
            remove(made)


def _require_space(parent: str, need: int) -> None:
    try:
        system = os.statvfs(parent)
    except OSError as error:
        raise UsageError(f"{printable(parent)} cannot be used", errno=error.errno or 0) from None
    free = system.f_bavail * system.f_frsize
    if free < need:
        raise EnvironmentLacks(
            f"{human_bytes(free)} are free on the file system of {printable(parent)}, and the "
            f"trial may need {human_bytes(need)}",
            hint="name another directory with --disk, or say what it takes with --size",
            errno=errno.ENOSPC,
        )


@contextmanager
def kept(directory: str, family: str) -> Iterator[dict[str, str]]:
    """A directory that keeps its tops, made where it is missing, for one trial at a time.

    Yields the names of the tops by the places that they belong to; what stands there in the
    end is noted.
    """
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        found = set(os.listdir(directory))
    except OSError as error:
        raise UsageError(f"{printable(directory)} cannot be used", errno=error.errno or 0) from None
    if found and NOTE not in found:
        raise Refused(
            f"{printable(directory)} is not empty, and no trial was kept there",
            hint="name a new directory",
        )
    with _locked(directory):
        note: dict[str, Any] = {"family": family, "tops": {}}
        if found:
            note = _read_note(directory)
        if note["family"] != family:
            raise UsageError(
                f"the trial kept in {printable(directory)} has {note['family']}.* marks",
                hint="go on with it as the user who began it",
            )
        tops = {str(place): str(name) for place, name in note["tops"].items()}
        yield tops
        write_note(directory, family, tops)


def _read_note(directory: str) -> dict[str, Any]:
    path = os.path.join(directory, NOTE)
    try:
        with open(path, encoding="utf-8") as file:
            note = json.load(file)
        if note["format"] == _FORMAT:
            assert isinstance(note["tops"], dict)
            return dict(note)
    except (OSError, ValueError, KeyError, AssertionError):
        pass
    raise Refused(f"{printable(path)} cannot be read: it is not of this version")


def write_note(directory: str, family: str, tops: dict[str, str]) -> None:
    """Say whose tops are in a directory, once they are."""
    path = os.path.join(directory, NOTE)
    aside = f"{path}.{os.getpid()}"
    with open(aside, "w", encoding="utf-8") as file:
        json.dump({"format": _FORMAT, "family": family, "tops": tops}, file, indent=2)
        file.flush()
        syscalls.syncfs(file.fileno())  # the tops as well: they may be nowhere else by now
    os.rename(aside, path)
    sync_directory(directory)


def copy_store(store: str, directory: str, names: list[str]) -> None:
    """Copy tops out of a store to ``directory``."""
    for name in names:
        # The kernel's scratch directory, closed to everybody, is made anew anyway.
        with suppress(OSError):
            os.rmdir(f"{store}/{name}/work/work")
        copy_tops([f"{store}/{name}"], directory, [f"{directory}/{name}/work/index"])


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    fd = os.open(directory, _DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Refused(
            f"a trial is running in {printable(directory)}", hint="wait for it to end"
        ) from None
    finally:
        os.close(fd)


def _remove_stale(parent: str) -> None:
    """Remove what trials that were killed left behind; nobody holds its lock any more."""
    try:
        names = [name for name in os.listdir(parent) if name.startswith(_PREFIX)]
    except OSError:
        return
    for name in names:
        path = os.path.join(parent, name)
        try:
            mine = os.lstat(path).st_uid == os.geteuid()
            if mine:
                with _locked(path):
                    remove(path)
        except (OSError, Refused):
            continue


def remove(path: str) -> None:
    """Remove a directory of tops; an ordinary user may have closed some to himself."""

    def opened(action: Any, inner: str, _error: Any) -> None:
        with suppress(OSError):
            os.chmod(inner if action is os.open else os.path.dirname(inner), 0o700)
            if action is os.open:
                shutil.rmtree(inner, ignore_errors=True)
            else:
                action(inner)

    shutil.rmtree(path, onerror=opened)
