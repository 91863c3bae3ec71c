"""A group of subcommands that imports each one only when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """A group that lists subcommands from a table and imports the one that runs.

    ``table`` gives each subcommand's line in ``--help``, and where it lives
    (``module:attribute``).
    """

    def __init__(self, *arguments: Any, table: Mapping[str, tuple[str, str]], **rest: Any) -> None:
        super().__init__(*arguments, **rest)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._table:
            return None
        module, _, attribute = self._table[cmd_name][1].partition(":")
        found = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click's own version, as that of shell_complete(), imports every subcommand for this line.
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (line, _) in self._table.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        offered = [
            CompletionItem(name, help=line)
            for name, (line, _) in self._table.items()
            if name.startswith(incomplete)
        ]
        return offered + super(click.Group, self).shell_complete(ctx, incomplete)
