"""Results of earlier runs, read back from ``spec run --json``: merged, and compared.

A run is told from another by target and kernel.  What the records do not hold, the
reasons of departures, is in the catalogue.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from overlay.errors import UsageError
from overlay.spec.runner import STATUSES, Result
from overlay.text import printable

__all__ = ["Change", "changes", "compact", "merge", "read"]

_TEXTS: Final = ("id", "target", "kernel", "status", "expected", "observed")
#: What a kept clause's record may lack: both sides are what the catalogue says.
_LEFT_OUT: Final = {"expected": "", "observed": "", "lines": []}


def read(path: str) -> list[Result]:
    """The results in a file; UsageError when it is none of ``spec run --json``."""
    try:
        records = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{printable(path)} cannot be read: {error.strerror}") from None
    except ValueError:
        raise _not_results(path) from None
    if not isinstance(records, list):
        raise _not_results(path)
    return [_result(path, record) for record in records]


def compact(result: Result) -> dict[str, Any]:
    """The result's record for a file that is kept: a kept clause says nothing more than that."""
    record = result.as_json()
    if result.status == "kept":
        return {key: value for key, value in record.items() if key not in _LEFT_OUT}
    return record


def _result(path: str, record: Any) -> Result:
    if isinstance(record, dict) and record.get("status") == "kept":
        record = _LEFT_OUT | record
    if (
        not isinstance(record, dict)
        or not all(isinstance(record.get(key), str) for key in _TEXTS)
        or not isinstance(record.get("lines"), list)
        or record["status"] not in STATUSES
    ):
        raise _not_results(path)
    note = ""
    if record["status"] == "not-run":
        note = record["observed"].removeprefix("not run: ")
    texts = {key: record[key] for key in _TEXTS}
    steps = record.get("steps", "")
    return Result(**texts, lines=tuple(record["lines"]), note=note, steps=str(steps))


def _not_results(path: str) -> UsageError:
    return UsageError(
        f"{printable(path)} holds no results of clauses",
        hint="fallthru spec run --json > FILE writes one",
    )


def merge(runs: Iterable[Sequence[Result]]) -> list[Result]:
    """All results, each clause on each target and kernel once: the last run counts."""
    found: dict[tuple[str, str, str], Result] = {}
    for results in runs:
        for result in results:
            found[result.target, result.kernel, result.id] = result
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Change:
    """A clause whose status differs between two runs; None where one run lacks it."""

    id: str
    target: str
    before: Result | None
    after: Result | None

    @property
    def direction(self) -> str:
        """``worse``, ``better``, ``gone`` or ``new``."""
        if self.before is None:
            return "new"
        if self.after is None:
            return "gone"
        ranks = [_RANK[result.status] for result in (self.before, self.after)]
        return "worse" if ranks[1] < ranks[0] else "better"

    @property
    def bad(self) -> bool:
        """Whether something is lost: a rule, or the knowledge whether it holds."""
        if self.before is None:
            return self.after is not None and self.after.status == "failed"
        return self.direction in {"worse", "gone"}

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "target": self.target,
            "direction": self.direction,
            "before": None if self.before is None else self.before.as_json(),
            "after": None if self.after is None else self.after.as_json(),
        }


#: A rule that does not hold is worse than not knowing, and that worse than a known departure.
_RANK: Final = {"failed": 0, "not-run": 1, "departed": 2, "kept": 3}


def changes(before: Sequence[Result], after: Sequence[Result]) -> list[Change]:
    """What differs, in the order of the runs.

    Kernels are compared by name only where a run has a target on several; else the
    kernel of a run is one of the things that may have changed.
    """
    several = _has_several_kernels(before) or _has_several_kernels(after)

    def key(result: Result) -> tuple[str, str, str]:
        return result.target, result.kernel if several else "", result.id

    old, new = ({key(result): result for result in results} for results in (before, after))
    return [
        Change(each[2], f"{each[0]} on {each[1]}" if several else each[0], *pair)
        for each in dict.fromkeys((*old, *new))
        if (pair := (old.get(each), new.get(each)))
        and (pair[0] is None or pair[1] is None or pair[0].status != pair[1].status)
    ]


def _has_several_kernels(results: Sequence[Result]) -> bool:
    runs = {(result.target, result.kernel) for result in results}
    return len({target for target, _ in runs}) < len(runs)
