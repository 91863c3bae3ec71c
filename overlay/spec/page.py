"""The matrix as one HTML page: the table, a section a clause, and the document's coverage."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from typing import Any, Final

from overlay.spec.catalogue import Clause
from overlay.spec.checks import all_checks
from overlay.spec.coverage import Stretch
from overlay.spec.matrix import Column, Matrix
from overlay.spec.report import SYMBOLS
from overlay.spec.runner import STATUSES, Result

__all__ = ["as_html"]

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { border-bottom: 1px solid var(--line); padding: .15rem .5rem; text-align: left;
  vertical-align: top }
.matrix td + td + td { text-align: center }
.kept { color: #2a7d2a } .departed { color: #9a6a00 } .failed { color: #c02020; font-weight: bold }
.not-run { color: #888 }
section { border-top: 1px solid var(--line); margin-top: 1.5rem }
pre { overflow-x: auto; padding: .5rem; border: 1px solid var(--line); font-size: 13px }
code, pre { font-family: ui-monospace, monospace } td { overflow-wrap: anywhere }
@media (prefers-color-scheme: dark) { .kept { color: #6c6 } .departed { color: #da4 }
  .failed { color: #f66 } }
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
    for column in matrix.columns:
        counts = matrix.counts(column)
        cells = "".join(f'<td class="{status}">{counts[status]}</td>' for status in STATUSES)
        rows.append(f"<tr><td>{escape(column.title)}</td>{cells}</tr>")
    head = "".join(f"<th>{SYMBOLS[status]} {status}</th>" for status in STATUSES)
    return f"<table><tr><th>target</th>{head}</tr>{''.join(rows)}</table>"


def _table(matrix: Matrix) -> str:
    head = "".join(f"<th>{escape(column.title)}</th>" for column in matrix.columns)
    rows = []
    for clause in matrix.clauses:
        symbols = (_symbol(matrix.at(clause, column)) for column in matrix.columns)
        cells = "".join(f"<td>{symbol}</td>" for symbol in symbols)
        link = f'<a href="#{clause.id}">{clause.id}</a>'
        rows.append(f"<tr><td>{link}</td><td>{', '.join(clause.lines)}</td>{cells}</tr>")
    return (
        f'<table class="matrix"><tr><th>clause</th><th>lines</th>{head}</tr>\n'
        + "\n".join(rows)
        + "</table>"
    )


def _symbol(result: Result | None) -> str:
    if result is None:
        return ""
    status = result.status
    return f'<span class="{status}" title="{status}">{SYMBOLS[status]}</span>'


def _section(matrix: Matrix, clause: Clause) -> str:
    facts = [("The document wants", clause.statement)]
    if clause.intended != clause.statement:
        facts.append(("Read out of", clause.intended))
    facts += [("State of 2010", clause.status2010), ("The check", clause.check)]
    rows = "".join(f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in facts)
    told = "".join(_told(matrix.at(clause, column), column) for column in matrix.columns)
    why = "".join(
        f"<li>{escape(departure.why)} <small>({escape(departure.source)}; announced for "
        f"{escape(_announced_for(departure.target, departure.features))})</small></li>"
        for departure in clause.departures
    )
    return (
        f'<section id="{clause.id}"><h3>{clause.id} '
        f"<small>lines {', '.join(clause.lines)}</small></h3>"
        f"<table>{rows}</table><table>{told}</table>"
        + (f"<p>Departures:</p><ul>{why}</ul>" if why else "")
        + "<details><summary>Repeat it</summary>"
        f"<pre>fallthru spec run --explain --clause {clause.id} --target TARGET</pre>"
        f"<p>Step by step (<code>b.bottom</code> and <code>b.top</code> are the two layers, "
        f"<code>b.union</code> makes system calls in the union):</p>"
        f"<pre>{escape(_steps(clause.id))}</pre></details></section>"
    )


def _announced_for(target: str, features: tuple[str, ...]) -> str:
    with_ = [feature for feature in features if not feature.startswith("!")]
    without = [feature[1:] for feature in features if feature.startswith("!")]
    text = "every target" if target == "*" else target
    text += f" with {', '.join(with_)}" if with_ else ""
    return text + (f" without {', '.join(without)}" if without else "")


def _told(result: Result | None, column: Column) -> str:
    if result is None:
        return ""
    text = "" if result.status == "kept" else escape(result.observed)
    return (
        f"<tr><td>{escape(column.title)}</td>"
        f'<td class="{result.status}">{SYMBOLS[result.status]} {result.status}</td>'
        f"<td>{text}</td></tr>"
    )


def _steps(clause: str) -> str:
    """The check itself, with the arguments that tell it from its siblings."""
    function: Callable[..., Any] = all_checks()[clause]
    arguments = ""
    if isinstance(function, partial):
        given = [f"{name} = {value!r}" for name, value in function.keywords.items()]
        arguments = "".join(f"# {line if len(line) < 90 else line[:87] + '…'}\n" for line in given)
        function = function.func
    return arguments + inspect.getsource(function)


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
