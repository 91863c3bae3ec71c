"""Repairing what :mod:`overlay.checking.check` finds.

The repairs themselves are in :mod:`overlay.checking.surgery`.  A repair may lead to a new
finding (a mark is gone, and what it hid is seen), so it is checked again until nothing is
left to do.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from overlay.checking.check import Report, Suspect, check
from overlay.checking.rules import Finding, Repair
from overlay.checking.surgery import Surgeon
from overlay.errors import OperationFailed, TopInUse
from overlay.layer import Layer
from overlay.text import printable

__all__ = ["Failure", "Outcome", "repair"]

#: Repairs that show something new do so once or twice; this only stops what never ends.
_ROUNDS: Final = 10


@dataclass(frozen=True, slots=True)
class Failure:
    """A repair that did not work, and why."""

    finding: Finding
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was repaired and what could not be; ``left`` is the last check, after all repairs."""

    repaired: tuple[Finding, ...]
    failed: tuple[Failure, ...]
    left: Report


def repair(
    suspect: Suspect,
    agree: Callable[[Finding], bool],
    *,
    notes: bool = False,
    workers: int | None = None,
) -> Outcome:
    """Check a top and repair what is safe, and what ``agree`` says yes to.

    It is asked once about each finding.  TopInUse while an overlay uses the top.
    """
    done: list[Finding] = []
    failed: dict[tuple[str, bytes, str, str], Failure] = {}
    refused: set[tuple[str, bytes, str, str]] = set()
    with _exclusive(suspect):
        for _ in range(_ROUNDS):
            report = check(suspect, notes=notes, workers=workers)
            if report.live:
                raise _in_use(suspect)
            chosen = []
            for each in report.findings:
                if each.repair is Repair.NONE or each.key in refused or each.key in failed:
                    continue
                if each.repair is Repair.SAFE or agree(each):
                    chosen.append(each)
                else:
                    refused.add(each.key)
            if not chosen:
                break
            with Layer.open(suspect.top) as top:
                surgeon = Surgeon(top, suspect)
                for each in chosen:
                    failure = surgeon.treat(each)
                    if failure is None:
                        done.append(each)
                    else:
                        failed[each.key] = Failure(each, failure)
        else:
            report = check(suspect, notes=notes, workers=workers)
    return Outcome(tuple(done), tuple(failed.values()), report)


def _in_use(suspect: Suspect) -> TopInUse:
    return TopInUse(
        f"the top {printable(suspect.top)} is mounted: nothing is repaired under an overlay",
        hint="unmount it first, or check it without repairing",
        errno=errno.EBUSY,
    )


@contextmanager
def _exclusive(suspect: Suspect) -> Iterator[None]:
    """Keep the engine off the top, by the lock that it takes on the work directory."""
    try:
        fd = os.open(suspect.work_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    except OSError as error:
        raise OperationFailed(
            f"cannot open the work directory {printable(suspect.work_path)}",
            errno=error.errno or 0,
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise _in_use(suspect) from None
    finally:
        os.close(fd)
