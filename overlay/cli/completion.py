"""``fallthru completion``."""

from __future__ import annotations

import click


@click.command(short_help="Print shell completion.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    Examples:
      source <(fallthru completion bash)
      fallthru completion fish > ~/.config/fish/completions/fallthru.fish
    """
    from click.shell_completion import get_completion_class

    from overlay.cli.group import command

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(command, {}, "fallthru", "_FALLTHRU_COMPLETE").source())
