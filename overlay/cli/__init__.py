"""The ``fallthru`` command: finds the subcommand, runs it, and reports what went wrong.

Each subcommand is one module that is imported only when it is asked for, so that the
command starts in a few times what Python itself needs; a test holds it to that.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass

import click

from overlay import __version__
from overlay.errors import FallthruError

__all__ = ["LazyGroup", "Subcommand", "command", "main"]


@dataclass(frozen=True, slots=True)
class Subcommand:
    """Where a subcommand lives (``module:attribute``), and its line in ``--help``."""

    target: str
    summary: str


SUBCOMMANDS = {
    "mount": Subcommand("overlay.cli.mount:mount", "Mount a top over its bottoms."),
    "umount": Subcommand("overlay.cli.umount:umount", "Remove an overlay."),
    "status": Subcommand("overlay.cli.status:status", "Show the overlays that are mounted."),
    "diff": Subcommand("overlay.cli.diff:diff", "Show what the top changes of its bottoms."),
    "trace": Subcommand("tracer.cli:trace", "Record and show what copyup costs."),
    "report": Subcommand("analysis.cli:report", "Summarise traces; write a page with pictures."),
    "spec": Subcommand("overlay.cli.spec:spec", "Judge union mounts by the document's clauses."),
    "doctor": Subcommand("overlay.cli.doctor:doctor", "Tell what works on this machine."),
    "completion": Subcommand("overlay.cli.completion:completion", "Print shell completion."),
}


class LazyGroup(click.Group):
    """A group that lists subcommands from a table and imports the one that runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        known = SUBCOMMANDS.get(cmd_name)
        if known is None:
            return None
        module, _, attribute = known.target.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click's own version imports every subcommand for its help line.
        with formatter.section("Commands"):
            formatter.write_dl([(name, known.summary) for name, known in SUBCOMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 the answer is no, 2 usage, 3 the machine lacks something, "
    "4 refused to protect data, 5 an operation failed.",
)
@click.version_option(__version__, prog_name="fallthru")
def command() -> None:
    """Writable overlays for Linux: one writable top over read-only bottoms.

    \b
    fallthru mount --bottom /usr --top /srv/usr-top /mnt
    fallthru diff /mnt
    fallthru umount /mnt
    """


def report_error(error: FallthruError) -> None:
    """Write an error and its hint to standard error, two lines at most."""
    click.echo(f"fallthru: {error}", err=True)
    if error.hint:
        click.echo(f"  → {error.hint}", err=True)


def main() -> None:
    """Run the command; the one place where errors become messages and exit codes."""
    try:
        code = command.main(standalone_mode=False)
    except FallthruError as error:
        report_error(error)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = 2
    except click.Abort:
        code = 130  # as a shell reports a command ended by Ctrl-C
    except BrokenPipeError:
        # The reader left (`| head`): not an error, but Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)
