"""Results of one or more runs as a table: clauses by targets, and by kernels if several."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from overlay.spec.catalogue import Clause
from overlay.spec.report import SYMBOLS
from overlay.spec.runner import STATUSES, Result
from overlay.spec.targets import DEFAULT_TARGETS

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
    def targets(self) -> tuple[str, ...]:
        """fallthru's own and the kernel's, in the order that they are judged in; then others."""
        found = dict.fromkeys(column.target for column in self.columns)
        own = (*DEFAULT_TARGETS[:-1], "unprivileged", DEFAULT_TARGETS[-1])
        return tuple(sorted(found, key=lambda name: own.index(name) if name in own else len(own)))

    @property
    def kernels(self) -> tuple[str, ...]:
        """From old to new, user-mode Linux first among equals."""
        return tuple(sorted({column.kernel for column in self.columns}, key=_age))

    def column(self, target: str, kernel: str) -> Column | None:
        """The run of a target on a kernel, if there was one."""
        return next((c for c in self.columns if (c.target, c.kernel) == (target, kernel)), None)

    def counts(self, column: Column) -> Counter[str]:
        """How many clauses the column has in each status."""
        found = (self.at(clause, column) for clause in self.clauses)
        return Counter(result.status for result in found if result is not None)

    def statuses(self, clause: Clause, target: str) -> list[tuple[str, tuple[str, ...]]]:
        """What the clause did on the target: each status with its kernels.

        The status on most kernels (of equals, on the newest) is first, its kernels are left
        out: what is the same everywhere has just one entry, without kernels.
        """
        found: dict[str, list[str]] = {}
        for kernel in reversed(self.kernels):
            column = self.column(target, kernel)
            result = None if column is None else self.at(clause, column)
            if result is not None:
                found.setdefault(result.status, []).insert(0, kernel)
        ranked = sorted(found.items(), key=lambda item: -len(item[1]))
        return [
            (status, tuple(kernels) if number else ())
            for number, (status, kernels) in enumerate(ranked)
        ]

    def short(self, kernel: str) -> str:
        """The kernel's name without the patch level, if that still tells it from the others."""
        names = Counter(map(_series, self.kernels))
        return _series(kernel) if names[_series(kernel)] == 1 else kernel


def _series(kernel: str) -> str:
    match = re.match(r"(\d+\.\d+)(?:\.\d+)?(?: \((\w+)\))?", kernel)
    return kernel if match is None else " ".join(filter(None, match.groups()))


def _age(kernel: str) -> tuple[list[int], bool, str]:
    numbers = re.match(r"[\d.]*", kernel)
    version = [int(part) for part in (numbers[0] if numbers else "").split(".") if part]
    return version[:2], "(" not in kernel, kernel


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
        f"Judged on Linux {', '.join(matrix.kernels)}. "
        + ", ".join(f"{symbol} {status}" for status, symbol in SYMBOLS.items())
        + ".",
        "",
        "Clauses kept, departed, failed, not run:",
        "",
        "| target | " + " | ".join(matrix.short(kernel) for kernel in matrix.kernels) + " |",
        "|---|" + "---|" * len(matrix.kernels),
    ]
    for target in matrix.targets:
        cells = " | ".join(_numbers(matrix, target, kernel) for kernel in matrix.kernels)
        lines.append(f"| {_escaped(target)} | {cells} |")
    titles = " | ".join(_escaped(target) for target in matrix.targets)
    lines += [
        "",
        "A cell tells what a target does on most kernels, and the kernels on which it differs.",
        "",
        f"| clause | lines | {titles} |",
        "|---|---|" + ":---:|" * len(matrix.targets),
    ]
    for clause in matrix.clauses:
        cells = " | ".join(_statuses(matrix, clause, target) for target in matrix.targets)
        ranges = ", ".join(clause.lines)
        lines.append(f"| [{clause.id}](index.html#{clause.id}) | {ranges} | {cells} |")
    return "\n".join(lines) + "\n"


def _numbers(matrix: Matrix, target: str, kernel: str) -> str:
    column = matrix.column(target, kernel)
    if column is None:
        return ""
    counts = matrix.counts(column)
    return ", ".join(str(counts[status]) for status in STATUSES)


def _statuses(matrix: Matrix, clause: Clause, target: str) -> str:
    return " ".join(
        SYMBOLS[status] + (f" ({', '.join(map(matrix.short, kernels))})" if kernels else "")
        for status, kernels in matrix.statuses(clause, target)
    )


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
