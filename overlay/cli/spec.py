"""``fallthru spec``: the document's clauses, listed and judged."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from overlay.cli.layers import emit_json, json_option
from overlay.errors import UsageError

if TYPE_CHECKING:
    from overlay.spec.catalogue import Clause

__all__ = ["spec"]


_COMMANDS = {
    "run": "overlay.cli.spec_run",
    "show": "overlay.cli.spec_show",
    "fuzz": "overlay.cli.spec_fuzz",
    "matrix": "overlay.cli.spec_matrix",
    "diff": "overlay.cli.spec_matrix",
}


class _Group(click.Group):
    """Imports the module of a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["list", *_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return super().get_command(ctx, cmd_name)
        found = getattr(importlib.import_module(_COMMANDS[cmd_name]), cmd_name)
        assert isinstance(found, click.Command)
        return found


@click.group(
    cls=_Group,
    short_help="Judge union mounts by the document's clauses.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
def spec() -> None:
    """Judge union mounts by the clauses of the 2010 document.

    \b
    Examples:
      fallthru spec list
      fallthru spec run --target kernel:document --target overlayfs
      fallthru spec show example.unlink.whiteout
      fallthru spec fuzz --target overlayfs --seconds 60
    """


@spec.command("list")
@click.option("--clause", "patterns", multiple=True, metavar="PATTERN", help="Only these ids.")
@click.option("--coverage", is_flag=True, help="Line by line: which clauses hold the document.")
@json_option
def list_clauses(patterns: tuple[str, ...], coverage: bool, as_json: bool) -> None:
    """List the clauses: id, lines of the document, the rule in our words.

    \b
    Examples:
      fallthru spec list --clause 'copyup.*'
      fallthru spec list --coverage
      fallthru spec list --json | jq '.[] | select(.departures != []) | .id'
    """
    from overlay.spec import catalogue

    clauses = catalogue.select(catalogue.load(), patterns)
    if coverage:
        if patterns:
            raise UsageError("--coverage is about the whole document", hint="leave out --clause")
        _list_coverage(clauses, as_json)
    elif as_json:
        emit_json([clause.as_json() for clause in clauses])
    elif sys.stdout.isatty():
        _rich_list(clauses)
    else:
        for clause in clauses:
            click.echo(f"{clause.id}\t{','.join(clause.lines)}\t{clause.statement}")


def _list_coverage(clauses: Sequence[Clause], as_json: bool) -> None:
    from overlay.spec.coverage import stretches

    found = stretches(clauses)
    if as_json:
        emit_json([stretch.as_json() for stretch in found])
        return
    for stretch in found:
        click.echo(f"{stretch.lines}\t{' '.join(stretch.clauses) or f'({stretch.why})'}")


def _rich_list(clauses: Sequence[Clause]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("clause", "lines", "the document wants", box=None, header_style="bold")
    for clause in clauses:
        table.add_row(clause.id, ", ".join(clause.lines), clause.statement)
    Console(highlight=False).print(table)
