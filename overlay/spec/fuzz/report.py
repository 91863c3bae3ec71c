"""Findings for people and for machines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from overlay.spec.fuzz.hunt import Finding, Outcome
from overlay.text import printable

__all__ = ["Told", "as_json", "explain", "summary"]


@dataclass(frozen=True, slots=True)
class Told:
    """A finding with its script; ``shown``: whether the script was run and shows it."""

    finding: Finding
    script: str
    shown: bool | None


def as_json(told: Told, target: str) -> dict[str, Any]:
    """The record of ``spec fuzz --json``."""
    finding, difference = told.finding, told.finding.found.difference
    return {
        "target": target,
        "kernel": os.uname().release,
        "seed": finding.seed,
        "case": finding.number,
        "steps_taken": finding.steps,
        "what": finding.found.what,
        "after": printable(finding.found.step),
        "path": printable(difference.path),
        "subject": difference.subject,
        "expected": printable(difference.expected),
        "seen": printable(difference.seen),
        "steps": [{"user": s.user, "call": printable(str(s))} for s in finding.case.steps],
        "script": told.script,
        "script_shows_it": told.shown,
    }


def explain(number: int, told: Told) -> Iterator[str]:
    """A finding in lines, its script last."""
    finding, found = told.finding, told.finding.found
    where = printable(found.difference.path)
    yield f"finding {number}: {found.what} after {printable(found.step)}"
    yield f"  {where}: {found.difference.subject}"
    yield f"  expected  {printable(found.difference.expected)}"
    yield f"  seen      {printable(found.difference.seen)}"
    count = len(finding.case.steps)
    yield (
        f"  case {finding.number} of seed {finding.seed}, found after {finding.steps} steps, "
        f"shortened to {count} step{'s' if count != 1 else ''}"
    )
    verdict = {
        True: "the script below was run and shows it",
        False: "the script below was run and does not show it: it may take what was done before",
        None: "the script below was not run",
    }
    yield f"  {verdict[told.shown]}"
    yield ""
    yield told.script


def summary(outcome: Outcome) -> Iterator[str]:
    """What the hunt came to, and what was announced."""
    rate = outcome.steps / outcome.seconds if outcome.seconds else 0
    found = len(outcome.findings)
    yield (
        f"{outcome.target}: {found or 'no'} finding{'s' if found != 1 else ''} in {outcome.steps} "
        f"steps of {outcome.cases} cases from seed {outcome.seed} ({rate:.0f} steps/s)"
    )
    if outcome.counts:
        counted = ", ".join(f"{name} {count}" for name, count in sorted(outcome.counts.items()))
        yield f"announced differences: {counted}"
