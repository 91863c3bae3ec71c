"""Results of several runs: read, merged, compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from overlay.errors import UsageError
from overlay.spec import results
from overlay.spec.runner import Result

KEPT = Result("topic.rule", "overlayfs", "6.1", "kept", "wanted", "wanted", ("1", "7-9"))


def changed(before: str, after: str) -> results.Change:
    (change,) = results.changes([replace(KEPT, status=before)], [replace(KEPT, status=after)])
    return change


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    lacking = replace(KEPT, status="not-run", observed="not run: a moon", note="a moon")
    file = tmp_path / "run.json"
    file.write_text(json.dumps([KEPT.as_json(), lacking.as_json()]))
    assert results.read(str(file)) == [KEPT, lacking]


def test_a_compact_record_keeps_the_status_and_all_of_a_difference(tmp_path: Path) -> None:
    departed = replace(KEPT, status="departed", observed="something else", steps="mkdir x\n")
    file = tmp_path / "kept.json"
    file.write_text(json.dumps([results.compact(KEPT), results.compact(departed)]))
    assert "wanted" not in file.read_text().split("departed")[0]
    kept, other = results.read(str(file))
    assert kept == replace(KEPT, expected="", observed="", lines=())
    assert other == departed


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[1]", '[{"id": "a.b"}]', json.dumps([KEPT.as_json() | {"status": "passed"}])],
)
def test_what_is_no_result_is_a_usage_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(UsageError, match="holds no results"):
        results.read(str(file))
    with pytest.raises(UsageError, match="cannot be read"):
        results.read(str(tmp_path / "missing"))


def test_of_two_runs_the_later_counts_and_kernels_stay_apart() -> None:
    failed = replace(KEPT, status="failed")
    elsewhere = replace(KEPT, kernel="6.12")
    assert results.merge([[KEPT, elsewhere], [failed]]) == [failed, elsewhere]


@pytest.mark.parametrize(
    ("before", "after", "direction", "bad"),
    [
        ("kept", "failed", "worse", True),
        ("kept", "departed", "worse", True),
        ("departed", "not-run", "worse", True),
        ("failed", "kept", "better", False),
        ("not-run", "failed", "worse", True),
        ("departed", "kept", "better", False),
    ],
)
def test_a_change_has_a_direction(before: str, after: str, direction: str, bad: bool) -> None:
    change = changed(before, after)
    assert (change.direction, change.bad) == (direction, bad)


def test_clauses_that_come_and_go_are_changes() -> None:
    (gone,) = results.changes([KEPT], [])
    assert (gone.direction, gone.bad) == ("gone", True)
    (new,) = results.changes([], [KEPT])
    assert (new.direction, new.bad) == ("new", False)
    (new,) = results.changes([], [replace(KEPT, status="failed")])
    assert new.bad


def test_equal_runs_have_no_changes_and_one_kernel_may_be_another() -> None:
    assert results.changes([KEPT], [replace(KEPT, observed="told otherwise")]) == []
    assert results.changes([KEPT], [replace(KEPT, kernel="6.12")]) == []
    several = [KEPT, replace(KEPT, kernel="6.12")]
    (change,) = results.changes(several, [KEPT, replace(KEPT, kernel="6.12", status="failed")])
    assert change.target == "overlayfs on 6.12"
