"""The written forms of results: JSON by the contract, JUnit that parses, text that tells."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from overlay.spec import report
from overlay.spec.catalogue import Clause
from overlay.spec.runner import STATUSES, Result

CLAUSES = [
    Clause(f"topic.{status}", ("1", "7-9"), f"Rule {status}.", "I.", "Works.", f"Does {status}.")
    for status in STATUSES
]
NASTY = "<&\"'>]]> \x00 \x1b[31m \udce9 é \ufffe"


def results(target: str = "overlayfs") -> list[Result]:
    return [
        Result(
            clause.id,
            target,
            "6.1",
            status,
            f"wanted {NASTY}",
            f"got {NASTY}",
            clause.lines,
            note=f"note {NASTY}" if status in {"departed", "not-run"} else "",
            seconds=0.25,
        )
        for clause, status in zip(CLAUSES, STATUSES, strict=True)
    ]


def test_the_json_record_has_exactly_the_contracts_keys() -> None:
    for result in results():
        record = result.as_json()
        assert list(record) == ["id", "target", "kernel", "status", "expected", "observed", "lines"]
        assert record["lines"] == ["1", "7-9"]


@pytest.fixture
def junit() -> ET.Element:
    text = report.as_junit([*results(), *results("kernel:document")], CLAUSES)
    return ET.fromstring(text.encode())


def test_junit_counts_by_suite(junit: ET.Element) -> None:
    assert junit.tag == "testsuites"
    assert (junit.get("tests"), junit.get("failures"), junit.get("skipped")) == ("8", "2", "2")
    assert [suite.get("name") for suite in junit] == ["overlayfs", "kernel:document"]
    for suite in junit:
        assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "1", "1")
        assert suite.get("time") == "1.000"


def test_junit_cases_say_what_each_status_means(junit: ET.Element) -> None:
    cases = {case.get("name"): case for case in junit[0].iter("testcase")}
    outcome = {name: {child.tag for child in case} - {"properties"} for name, case in cases.items()}
    assert outcome == {
        "topic.kept": set(),
        "topic.departed": {"system-out"},
        "topic.failed": {"failure"},
        "topic.not-run": {"skipped"},
    }
    failure = cases["topic.failed"].find("failure")
    assert failure is not None
    text = failure.text or ""
    # Unprintable characters are shown, everything else arrives as it was.
    assert "wanted <&\"'>]]> \\x00 \\x1b[31m \\xdce9 é \\xfffe" in text
    assert "L1, L7–L9: Rule failed." in text
    assert "Does failed." in text
    properties = {p.get("name"): p.get("value") for p in cases["topic.departed"].iter("property")}
    assert properties == {"status": "departed", "lines": "L1, L7–L9"}


def test_a_failure_is_explained_with_lines_expectation_and_observation() -> None:
    failed = next(result for result in results() if result.status == "failed")
    clause = next(clause for clause in CLAUSES if clause.id == failed.id)
    text = "\n".join(report.explain(failed, clause))
    for part in ("topic.failed on overlayfs", "L7–L9", "Rule failed.", "wanted ", "got ", "Does"):
        assert part in text


def test_the_plain_table_has_a_row_a_clause_and_a_column_a_target() -> None:
    rows = [row.split() for row in report.plain_table([*results(), *results("kernel:document")])]
    assert rows[0] == ["clause", "overlayfs", "kernel:document"]
    assert rows[1:] == [[f"topic.{status}", status, status] for status in STATUSES]


def test_the_summary_counts_each_status() -> None:
    assert report.summary(results()) == ["overlayfs: 1 kept, 1 departed, 1 failed, 1 not-run"]
