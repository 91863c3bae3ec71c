"""The matrix as one HTML page: the table, a section a clause, and the document's coverage."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from overlay.spec.catalogue import Clause
from overlay.spec.coverage import Stretch
from overlay.spec.matrix import Matrix
from overlay.spec.report import SYMBOLS
from overlay.spec.runner import STATUSES, Result

__all__ = ["as_html"]

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --page: #fff }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 88rem; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { border-bottom: 1px solid var(--line); padding: .15rem .5rem; text-align: left;
  vertical-align: top }
.matrix th { position: sticky; top: 0; background: var(--page); vertical-align: bottom }
.matrix td + td + td, .where td + td, .where th + th { text-align: center }
.matrix td { white-space: nowrap } .matrix td:nth-child(2) { white-space: normal; font-size: 13px }
.matrix td, .matrix th { padding: .15rem .35rem } .matrix small { color: #888 }
.counts td + td { font-variant-numeric: tabular-nums; white-space: nowrap }
.kept { color: #2a7d2a } .departed { color: #9a6a00 } .failed { color: #c02020; font-weight: bold }
.not-run { color: #888 }
section { border-top: 1px solid var(--line); margin-top: 1.5rem }
.facts th { white-space: nowrap; font-weight: normal; color: #888 }
pre { overflow-x: auto; padding: .5rem; border: 1px solid var(--line); font-size: 13px }
code, pre { font-family: ui-monospace, monospace } li, td { overflow-wrap: anywhere }
@media (prefers-color-scheme: dark) { :root { --page: #121212 } .kept { color: #6c6 }
  .departed { color: #da4 } .failed { color: #f66 } }
"""

_INTRODUCTION: Final = (
    "Each row is a rule of “State of writable overlays (formerly union mounts)” (2010), "
    "in our words; the numbers are lines of its edition of 708 lines. A target keeps the rule, "
    "departs from it exactly as the catalogue announces, fails it, or was not run, for the "
    "reason given."
)


def as_html(matrix: Matrix, coverage: Sequence[Stretch]) -> str:
    """A page that stands alone: no scripts, no other files."""
    body = [
        "<h1>Conformance to the document</h1>",
        f"<p>{escape(_INTRODUCTION)}</p>",
        f"<p>Judged on Linux {escape(', '.join(matrix.kernels))}.</p>",
        _counts(matrix),
        _table(matrix),
        *(_section(matrix, clause) for clause in matrix.clauses),
        _coverage(coverage, {clause.id for clause in matrix.clauses}),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Conformance to the document</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _counts(matrix: Matrix) -> str:
    rows = []
    for target in matrix.targets:
        cells = "".join(f"<td>{_numbers(matrix, target, k)}</td>" for k in matrix.kernels)
        rows.append(f"<tr><td>{escape(target)}</td>{cells}</tr>")
    head = "".join(f"<th>{escape(matrix.short(kernel))}</th>" for kernel in matrix.kernels)
    legend = ", ".join(
        f'<span class="{status}">{SYMBOLS[status]} {status}</span>' for status in STATUSES
    )
    return (
        f"<p>Clauses by target and kernel: {legend}.</p>"
        f'<table class="counts"><tr><th>target</th>{head}</tr>{"".join(rows)}</table>'
    )


def _numbers(matrix: Matrix, target: str, kernel: str) -> str:
    column = matrix.column(target, kernel)
    if column is None:
        return ""
    counts = matrix.counts(column)
    return " ".join(
        f'<span class="{status}" title="{status}">{SYMBOLS[status]}{counts[status]}</span>'
        for status in STATUSES
        if counts[status]
    )


def _table(matrix: Matrix) -> str:
    head = "".join(f"<th>{_broken(target)}</th>" for target in matrix.targets)
    rows = []
    for clause in matrix.clauses:
        cells = "".join(f"<td>{_cell(matrix, clause, target)}</td>" for target in matrix.targets)
        link = f'<a href="#{clause.id}">{clause.id}</a>'
        rows.append(f"<tr><td>{link}</td><td>{', '.join(clause.lines)}</td>{cells}</tr>")
    note = (
        "<p>Each cell tells what the target does on most kernels, and the kernels on which "
        "it differs. The sections below have all of it.</p>"
        if len(matrix.kernels) > 1
        else ""
    )
    return (
        f'{note}<table class="matrix"><tr><th>clause</th><th>lines</th>{head}</tr>\n'
        + "\n".join(rows)
        + "</table>"
    )


def _broken(target: str) -> str:
    """A heading that may be narrow."""
    return escape(target).replace(":", ":<wbr>").replace("-", "-<wbr>")


def _cell(matrix: Matrix, clause: Clause, target: str) -> str:
    return " ".join(
        _symbol(status)
        + (f" <small>{escape(', '.join(map(matrix.short, kernels)))}</small>" if kernels else "")
        for status, kernels in matrix.statuses(clause, target)
    )


def _symbol(status: str) -> str:
    return f'<span class="{status}" title="{status}">{SYMBOLS[status]}</span>'


def _section(matrix: Matrix, clause: Clause) -> str:
    facts = [("The document wants", clause.statement)]
    if clause.intended != clause.statement:
        facts.append(("Read out of", clause.intended))
    facts += [("State of 2010", clause.status2010), ("The check", clause.check)]
    rows = "".join(f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in facts)
    why = "".join(
        f"<li>{escape(departure.why)} <small>({escape(departure.source)}; announced for "
        f"{escape(_announced_for(departure.target, departure.features))})</small></li>"
        for departure in clause.departures
    )
    return (
        f'<section id="{clause.id}"><h3>{clause.id} '
        f"<small>lines {', '.join(clause.lines)}</small></h3>"
        f'<table class="facts">{rows}</table>{_where(matrix, clause)}{_told(matrix, clause)}'
        + (f"<p>Departures that are announced:</p><ul>{why}</ul>" if why else "")
        + _steps(matrix, clause)
        + "</section>"
    )


def _where(matrix: Matrix, clause: Clause) -> str:
    """Targets by kernels."""
    head = "".join(f"<th>{escape(matrix.short(kernel))}</th>" for kernel in matrix.kernels)
    rows = []
    for target in matrix.targets:
        cells = []
        for kernel in matrix.kernels:
            column = matrix.column(target, kernel)
            result = None if column is None else matrix.at(clause, column)
            cells.append(f"<td>{'' if result is None else _symbol(result.status)}</td>")
        rows.append(f"<tr><td>{escape(target)}</td>{''.join(cells)}</tr>")
    return f'<table class="where"><tr><th></th>{head}</tr>{"".join(rows)}</table>'


def _told(matrix: Matrix, clause: Clause) -> str:
    """What was seen where a rule was not kept: each thing once, with where it was seen."""
    seen: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for target in matrix.targets:
        for kernel in matrix.kernels:
            column = matrix.column(target, kernel)
            result = None if column is None else matrix.at(clause, column)
            if result is not None and result.status != "kept":
                where = seen.setdefault((result.status, result.observed), [])
                where.append((target, kernel))
    items = "".join(
        f'<li><span class="{status}">{SYMBOLS[status]} {status}</span> '
        f"<small>{escape(_places(matrix, where))}</small><br>{escape(observed)}</li>"
        for (status, observed), where in seen.items()
    )
    return f"<ul>{items}</ul>" if items else ""


def _places(matrix: Matrix, where: Sequence[tuple[str, str]]) -> str:
    """``engine; overlayfs on 6.1 and 6.12``: kernels are named unless it is all of them."""
    texts = []
    for target in dict.fromkeys(target for target, _ in where):
        kernels = [kernel for each, kernel in where if each == target]
        judged = [k for k in matrix.kernels if matrix.column(target, k) is not None]
        everywhere = kernels == judged
        names = ", ".join(map(matrix.short, kernels))
        texts.append(target if everywhere else f"{target} on {names}")
    return "; ".join(texts)


def _announced_for(target: str, features: tuple[str, ...]) -> str:
    with_ = [feature for feature in features if not feature.startswith("!")]
    without = [feature[1:] for feature in features if feature.startswith("!")]
    text = "every target" if target == "*" else target
    text += f" with {', '.join(with_)}" if with_ else ""
    return text + (f" without {', '.join(without)}" if without else "")


def _steps(matrix: Matrix, clause: Clause) -> str:
    """How to repeat it: by command, and by hand where a run kept the steps."""
    found = (matrix.at(clause, column) for column in matrix.columns)
    kept: list[Result] = [result for result in found if result is not None and result.steps]
    command = f"fallthru spec show {clause.id} --target TARGET"
    by_hand = "".join(
        f"<p>By hand, as it was done on {escape(result.target)}, Linux {escape(result.kernel)}; "
        "<code>#&gt;</code> is what the line above prints, <code>#!</code> how it fails:</p>"
        f"<pre>{escape(result.steps)}</pre>"
        for result in kept[:1]
    )
    return (
        f"<details><summary>Repeat it</summary><pre>{command}</pre>"
        f"{by_hand or '<p>No run kept its steps; the command prints them.</p>'}</details>"
    )


def _coverage(stretches: Sequence[Stretch], known: set[str]) -> str:
    rows = []
    for stretch in stretches:
        links = ", ".join(
            f'<a href="#{name}">{name}</a>' if name in known else name for name in stretch.clauses
        )
        text = links or f"<em>{escape(stretch.why)}</em>"
        rows.append(f"<tr><td>{stretch.lines}</td><td>{text}</td></tr>")
    return (
        '<section id="coverage"><h2>The document, line by line</h2>'
        "<p>Which clauses hold which lines, and which lines set no rule.</p>"
        f"<table><tr><th>lines</th><th>clauses</th></tr>{''.join(rows)}</table></section>"
    )
