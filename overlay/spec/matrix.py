"""Results of one or more runs as a table: clauses by targets, and by kernels if several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from overlay.spec.catalogue import Clause
from overlay.spec.report import SYMBOLS
from overlay.spec.runner import STATUSES, Result

__all__ = ["Column", "Matrix", "as_markdown", "as_text", "build"]


@dataclass(frozen=True, slots=True)
class Column:
    """One run: a target on a kernel.  ``title`` names the kernel only if there are several."""

    target: str
    kernel: str
    title: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """Clauses in the catalogue's order, columns in the order of the runs, and the cells."""

    clauses: tuple[Clause, ...]
    columns: tuple[Column, ...]
    results: dict[tuple[str, Column], Result]

    def at(self, clause: Clause, column: Column) -> Result | None:
        """What the clause did there; None if that run did not have it."""
        return self.results.get((clause.id, column))

    @property
    def kernels(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column.kernel for column in self.columns))

    def counts(self, column: Column) -> Counter[str]:
        """How many clauses the column has in each status."""
        found = (self.at(clause, column) for clause in self.clauses)
        return Counter(result.status for result in found if result is not None)


def build(results: Sequence[Result], clauses: Sequence[Clause]) -> Matrix:
    """The table; results of clauses that the catalogue no longer has are left out."""
    kernels = {result.kernel for result in results}
    columns: dict[tuple[str, str], Column] = {}
    cells = {}
    for result in results:
        title = f"{result.target} ({result.kernel})" if len(kernels) > 1 else result.target
        column = columns.setdefault(
            (result.target, result.kernel), Column(result.target, result.kernel, title)
        )
        cells[result.id, column] = result
    judged = {result.id for result in results}
    chosen = tuple(clause for clause in clauses if clause.id in judged)
    return Matrix(chosen, tuple(columns.values()), cells)


def _cell(matrix: Matrix, clause: Clause, column: Column) -> str:
    result = matrix.at(clause, column)
    return "" if result is None else SYMBOLS[result.status]


def as_text(matrix: Matrix) -> list[str]:
    """For a terminal of any width: columns by letter, with a legend."""
    letters = [chr(ord("a") + number) for number in range(26)]
    names = {
        column: letters[number] if number < len(letters) else f"{number}"
        for number, column in enumerate(matrix.columns)
    }
    width = max((len(clause.id) for clause in matrix.clauses), default=6)
    lines = ["clause".ljust(width) + "".join(f"  {name}" for name in names.values())]
    lines += [
        clause.id.ljust(width)
        + "".join(
            f"  {_cell(matrix, clause, column) or ' ':{len(names[column])}}"
            for column in matrix.columns
        ).rstrip()
        for clause in matrix.clauses
    ]
    lines += ["", "  ".join(f"{symbol} {status}" for status, symbol in SYMBOLS.items())]
    lines += [f"{names[column]}  {_summary(matrix, column)}" for column in matrix.columns]
    return [line.rstrip() for line in lines]


def _summary(matrix: Matrix, column: Column) -> str:
    counts = matrix.counts(column)
    parts = [f"{counts[status]} {status}" for status in STATUSES if counts[status]]
    return f"{column.title}: {', '.join(parts)}"


def as_markdown(matrix: Matrix) -> str:
    """One table of counts and one of clauses, which link to their sections of the page."""
    lines = [
        "# Conformance to the document",
        "",
        f"Judged on {', '.join(matrix.kernels)}. "
        + ", ".join(f"{symbol} {status}" for status, symbol in SYMBOLS.items())
        + ".",
        "",
        "| target | " + " | ".join(STATUSES) + " |",
        "|---|" + "---:|" * len(STATUSES),
    ]
    for column in matrix.columns:
        counts = matrix.counts(column)
        numbers = " | ".join(str(counts[status]) for status in STATUSES)
        lines.append(f"| {_escaped(column.title)} | {numbers} |")
    titles = " | ".join(_escaped(column.title) for column in matrix.columns)
    lines += ["", f"| clause | lines | {titles} |", "|---|---|" + ":---:|" * len(matrix.columns)]
    for clause in matrix.clauses:
        cells = " | ".join(_cell(matrix, clause, column) for column in matrix.columns)
        ranges = ", ".join(clause.lines)
        lines.append(f"| [{clause.id}](index.html#{clause.id}) | {ranges} | {cells} |")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
