"""``fallthru spec show``: one clause, what a target does there, and the steps to repeat it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from overlay.cli.layers import emit_json, json_option
from overlay.errors import EnvironmentLacks, UsageError

if TYPE_CHECKING:
    from overlay.spec.runner import Result

__all__ = ["show"]


@click.command()
@click.argument("clause")
@click.option(
    "--target", default="kernel:document", show_default=True, metavar="T", help="As for spec run."
)
@click.option("--mount-command", "command", metavar="CMD", help="Judge what CMD mounts instead.")
@click.option("--sh", "script_only", is_flag=True, help="Print nothing but the steps.")
@json_option
def show(clause: str, target: str, command: str | None, script_only: bool, as_json: bool) -> None:
    """Judge one clause, and print all about it, with the steps as a shell script.

    The script holds what the check really did: commands to paste into a root shell, what
    each printed (#>) or the error with which it failed (#!), and what was concluded.

    \b
    Examples:
      fallthru spec show example.unlink.whiteout
      fallthru spec show --sh --target overlayfs rename.top-directory > steps.sh
      unshare -m sh -x steps.sh
    """
    from overlay.spec import catalogue, report, runner
    from overlay.spec.targets import CommandTarget, parse_target

    found = [each for each in catalogue.load() if each.id == clause]
    if not found:
        raise UsageError(f"no clause is called {clause!r}", hint="`fallthru spec list` shows them")
    chosen = parse_target(target) if command is None else CommandTarget.parse(command)
    (result,) = runner.run(found, [chosen])
    if as_json:
        emit_json(found[0].as_json() | {"result": result.as_json()})
    elif script_only:
        click.echo(_steps(result), nl=False)
    else:
        click.echo("\n".join(report.explain(result, found[0])))
        click.echo(f"  2010      {found[0].status2010}\n\n{_steps(result)}", nl=False)


def _steps(result: Result) -> str:
    if result.steps:
        return result.steps
    why = result.note if result.status == "not-run" else f"{result.target} makes no mount"
    raise EnvironmentLacks(f"there are no steps to repeat: {why}")
