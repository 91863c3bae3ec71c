"""``fallthru spec matrix`` and ``diff``: results of earlier runs, side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from overlay.cli.layers import emit_json, json_option
from overlay.errors import EXIT_ANSWER_IS_NO, OperationFailed
from overlay.text import printable

if TYPE_CHECKING:
    from overlay.spec.catalogue import Clause
    from overlay.spec.runner import Result

__all__ = ["diff", "matrix", "write_pages"]

_FILE = click.Path(dir_okay=False, path_type=str)


@click.command()
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=str),
    metavar="DIR",
    help="Write index.html, matrix.md and results.json there.",
)
@click.option("--junit", metavar="FILE", help="Also write JUnit XML.")
@json_option
def matrix(files: tuple[str, ...], output: str | None, junit: str | None, as_json: bool) -> None:
    """Merge results of runs into one table: clauses by targets, and by kernels.

    FILES are what `spec run --json` wrote; of two results for one clause on one target and
    kernel the later file's counts.

    \b
    Examples:
      fallthru spec run --json > here.json
      fallthru spec run --kernel uml --json > uml.json
      fallthru spec matrix here.json uml.json -o conformance
    """
    from overlay.spec import catalogue, report, results
    from overlay.spec import matrix as table

    merged = results.merge(results.read(path) for path in files)
    clauses = catalogue.load()
    if output is not None:
        write_pages(Path(output), merged, clauses)
    if junit is not None:
        _write(Path(junit), report.as_junit(merged, clauses))
    if as_json:
        emit_json([result.as_json() for result in merged])
    elif output is None:
        click.echo("\n".join(table.as_text(table.build(merged, clauses))))


def write_pages(directory: Path, merged: Sequence[Result], clauses: Sequence[Clause]) -> None:
    """Every written form of the matrix, in ``directory``, which is made if need be."""
    from overlay.spec import coverage, page, results
    from overlay.spec import matrix as table

    built = table.build(merged, clauses)
    known = [result for result in merged if result.id in {clause.id for clause in clauses}]
    records = ",\n".join(json.dumps(results.compact(r), ensure_ascii=False) for r in known)
    texts = {
        "index.html": page.as_html(built, coverage.stretches(clauses)),
        "matrix.md": table.as_markdown(built),
        "results.json": f"[\n{records}\n]\n",
    }
    for name, text in texts.items():
        _write(directory / name, text)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise OperationFailed(
            f"{printable(os.fspath(path))} cannot be written", errno=error.errno or 0
        ) from None


@click.command()
@click.argument("before", type=_FILE)
@click.argument("after", type=_FILE)
@click.option("--worse", is_flag=True, help="Exit 1 only for what is lost.")
@json_option
def diff(before: str, after: str, worse: bool, as_json: bool) -> None:
    """Show the clauses whose status changed between two runs; exit 1 if there are any.

    BEFORE and AFTER are what `spec run --json` wrote, or a merged results.json.

    \b
    Examples:
      fallthru spec diff main.json branch.json
      fallthru spec diff --worse known.json now.json
    """
    from overlay.spec import results

    found = results.changes(results.read(before), results.read(after))
    if as_json:
        emit_json([change.as_json() for change in found])
    for change in () if as_json else found:
        old, new = (
            "not judged" if result is None else result.status
            for result in (change.before, change.after)
        )
        click.echo(f"{change.direction:6}  {change.id} on {change.target}: {old} -> {new}")
        if change.after is not None and change.after.status in {"failed", "not-run"}:
            click.echo(f"        expected  {change.after.expected}")
            click.echo(f"        observed  {change.after.observed}")
    if any(change.bad for change in found) or (found and not worse):
        click.get_current_context().exit(EXIT_ANSWER_IS_NO)
