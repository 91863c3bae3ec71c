"""An fsck for tops: what is wrong with the marks of a top, and with its work directory.

>>> report = check(Suspect(top="/srv/top", bottoms=("/usr",)))
>>> [(finding.path, finding.code) for finding in report.findings]

Nothing is changed here; :mod:`overlay.checking.repair` repairs.  What each finding means is in
:mod:`overlay.checking.rules`, how the kernel judges it in ``docs/check.md``.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace

from overlay import workdir
from overlay.checking.below import Below
from overlay.checking.claims import contradictions
from overlay.checking.harvest import Harvest
from overlay.checking.pool import walk_all
from overlay.checking.rules import RULES, Finding, Repair
from overlay.checking.walk import Walker
from overlay.checking.work import check_root_origin, check_work
from overlay.errors import NoPrivilege, UsageError, cannot_read
from overlay.helpers import cores
from overlay.inuse import top_in_use
from overlay.layer import Layer
from overlay.marks import MarkFamily
from overlay.mountinfo import overlay_at
from overlay.privilege import in_user_namespace
from overlay.text import printable
from overlay.view import View

__all__ = ["Report", "Suspect", "check", "suspect_at"]


@dataclass(frozen=True, slots=True)
class Suspect:
    """The layers to check; bottoms uppermost first.  ``work`` defaults to ``TOP.work``."""

    top: str
    bottoms: tuple[str, ...]
    work: str | None = None
    data_bottoms: tuple[str, ...] = ()
    family: str = "trusted"

    @property
    def work_path(self) -> str:
        return workdir.beside(os.path.realpath(self.top)) if self.work is None else self.work


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, in the byte order of paths, the top's before the work directory's.

    ``entries`` were looked at.  ``live``: an overlay uses the top, so the work directory
    was left out and the rest may be out of date.
    """

    findings: tuple[Finding, ...]
    entries: int
    live: bool


def suspect_at(mount_point: str) -> Suspect:
    """The layers of the overlay at ``mount_point``; UsageError where they can't be told."""
    mount = overlay_at(mount_point)
    if mount.top is None:
        raise UsageError(f"the overlay at {printable(mount.mount_point)} has no top to check")
    for path in (mount.top, *mount.bottoms, *mount.data_bottoms, mount.work or "/"):
        if not path.startswith("/"):
            raise UsageError(
                f"the overlay was mounted with the relative path {printable(path)}, so nobody "
                "can tell where that was",
                hint="name the layers: --top DIR --bottom DIR",
            )
    return Suspect(mount.top, mount.bottoms, mount.work, mount.data_bottoms, mount.family)


def check(suspect: Suspect, *, notes: bool = False, workers: int | None = None) -> Report:
    """Look at every entry of a top; with ``notes`` also for marks that merely do nothing.

    ``workers`` processes read it (default: one a processor).  Raises UsageError for layers
    that are not there, NoPrivilege where trusted marks can't be read, OperationFailed.
    """
    family = MarkFamily(suspect.family)
    if family is MarkFamily.TRUSTED and (os.geteuid() != 0 or in_user_namespace()):
        raise NoPrivilege(
            "only root may read trusted.* marks",
            hint="run it as root, or with --userxattr for a top with user.* marks",
        )
    if not suspect.bottoms:
        raise UsageError("a top is checked against its bottoms", hint="name them with --bottom")
    try:
        return _check(suspect, family, notes, workers or cores())
    except OSError as error:
        raise cannot_read(error) from error


def _check(suspect: Suspect, family: MarkFamily, notes: bool, workers: int) -> Report:
    with ExitStack() as stack:

        def opened(path: str) -> Layer:
            return stack.enter_context(Layer.open(path, private=True))

        top = opened(suspect.top)
        bottoms = [opened(path) for path in suspect.bottoms]
        data = [opened(path) for path in suspect.data_bottoms]
        live = top_in_use(suspect.top, family)

        def walker(in_place: bool) -> Walker:
            below = Below(View(bottoms, family, data))
            return Walker(top, below, notes=notes, in_place=in_place)

        harvest = walk_all(walker, workers)
        union = View([top, *bottoms], family, data)
        harvest.findings += contradictions(harvest.claims, union)
        origin = check_root_origin(top, bottoms[0], family)
        findings = sorted(
            [*origin, *_doubted(harvest, bottoms, origin)], key=lambda each: (each.path, each.code)
        )
        if not live and os.path.isdir(suspect.work_path):
            work = opened(suspect.work_path)
            findings += check_work(work, top, family, stubs=harvest.stubs)
    return Report(tuple(findings), harvest.entries, live)


def _doubted(harvest: Harvest, bottoms: list[Layer], origin: list[Finding]) -> list[Finding]:
    """The findings, none repaired unasked that only hold if these are the right bottoms.

    A bottom that is not mounted is an empty directory, over which every whiteout hides
    nothing: taking them away would bring back all that was ever deleted.
    """
    if not harvest.findings:
        return []
    if not origin and any(bottom.entries(b"") for bottom in bottoms):
        return harvest.findings
    return [
        replace(each, repair=Repair.ASK)
        if each.repair is Repair.SAFE and RULES[each.code].by_bottoms
        else each
        for each in harvest.findings
    ]
