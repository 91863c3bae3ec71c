"""Results written down: JUnit XML for CI, and text for people."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from overlay.spec.catalogue import Clause
from overlay.spec.runner import STATUSES, Result

__all__ = ["SYMBOLS", "as_junit", "explain", "plain_table", "summary"]

#: How a status shows in the table on a terminal.
SYMBOLS = {"kept": "✓", "departed": "~", "failed": "✗", "not-run": "–"}


def as_junit(results: Sequence[Result], clauses: Sequence[Clause]) -> str:
    """JUnit XML: a suite a target, a case a clause.

    ``departed`` is a passed case whose ``system-out`` says how and why; ``not-run`` is
    skipped with the reason; ``lines`` and ``status`` are properties of each case.
    """
    by_id = {clause.id: clause for clause in clauses}
    counts = Counter(result.status for result in results)
    root = ET.Element("testsuites", {"name": "fallthru spec"} | _counts(counts, len(results)))
    for target in dict.fromkeys(result.target for result in results):
        chosen = [result for result in results if result.target == target]
        counts = Counter(result.status for result in chosen)
        suite = ET.SubElement(root, "testsuite", name=_legal(target))
        suite.attrib |= _counts(counts, len(chosen))
        suite.set("time", f"{sum(result.seconds for result in chosen):.3f}")
        properties = ET.SubElement(suite, "properties")
        ET.SubElement(properties, "property", name="kernel", value=_legal(chosen[0].kernel))
        for result in chosen:
            _case(suite, result, by_id[result.id])
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, "unicode") + "\n"


def _counts(counts: Counter[str], total: int) -> dict[str, str]:
    return {
        "tests": str(total),
        "failures": str(counts["failed"]),
        "errors": "0",
        "skipped": str(counts["not-run"]),
    }


def _case(suite: ET.Element, result: Result, clause: Clause) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        classname=_legal(f"spec.{result.target}"),
        name=result.id,
        time=f"{result.seconds:.4f}",
    )
    properties = ET.SubElement(case, "properties")
    for name, value in (("status", result.status), ("lines", _lines(result))):
        ET.SubElement(properties, "property", name=name, value=value)
    if result.status == "failed":
        failure = ET.SubElement(case, "failure", message=_legal(result.observed))
        failure.text = _legal("\n".join(explain(result, clause)))
    elif result.status == "not-run":
        ET.SubElement(case, "skipped", message=_legal(result.note))
    if result.status == "departed" or result.stale:
        ET.SubElement(case, "system-out").text = _legal("\n".join(explain(result, clause)))


def _legal(text: str) -> str:
    """XML 1.0 has no way to write most control characters or surrogates: show them escaped."""
    return re.sub(
        "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]",
        lambda match: f"\\x{ord(match[0]):02x}",
        text,
    )


def _lines(result: Result) -> str:
    return ", ".join(f"L{lines.replace('-', '–L')}" for lines in result.lines)


def explain(result: Result, clause: Clause) -> list[str]:
    """One result for people: what the document wants, what was expected, what happened."""
    text = [
        f"{result.id} on {result.target}: {result.status}",
        f"  document  {_lines(result)}: {clause.statement}",
    ]
    if result.status in {"failed", "departed"}:
        text += [f"  expected  {result.expected}", f"  observed  {result.observed}"]
    if result.status == "failed":
        text.append(f"  check     {clause.check}")
    if result.note:
        text.append(f"  {'reason' if result.status == 'not-run' else 'because':8}  {result.note}")
    return text


def plain_table(results: Sequence[Result]) -> list[str]:
    """Clauses by targets with the statuses as words, in columns, for pipes and logs."""
    targets = list(dict.fromkeys(result.target for result in results))
    by_key = {(result.id, result.target): result for result in results}
    clauses = list(dict.fromkeys(result.id for result in results))
    rows = [["clause", *targets]]
    for clause in clauses:
        found = [by_key[clause, target] for target in targets]
        rows.append([clause, *(result.status + "*" * result.stale for result in found)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def summary(results: Sequence[Result]) -> list[str]:
    """One line a target: how many clauses in each status."""
    lines = []
    for target in dict.fromkeys(result.target for result in results):
        chosen = [result for result in results if result.target == target]
        counts = Counter(result.status for result in chosen)
        parts = [f"{counts[status]} {status}" for status in STATUSES if counts[status]]
        stale = sum(result.stale for result in chosen)
        if stale:
            parts.append(f"{stale} kept against the catalogue (*)")
        lines.append(f"{target}: {', '.join(parts)}")
    return lines
