"""``fallthru trace doctor``."""

from __future__ import annotations

from dataclasses import asdict

import click

from overlay.cli.layers import emit_json, json_option
from overlay.errors import EXIT_ANSWER_IS_NO

__all__ = ["doctor"]


@click.command()
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Tell whether tracing works on this machine, and why not, by trying it.

    The exit code is 0 when one of the backends works.

    \b
    Examples:
      fallthru trace doctor
      fallthru trace doctor --json | jq '.[] | select(.ok | not)'
    """
    from tracer.doctor import checks

    found = list(checks())
    if as_json:
        emit_json([asdict(check) for check in found])
    else:
        for check in found:
            click.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.detail}")
            if not check.ok and check.remedy:
                click.echo(f"      → {check.remedy}")
    if not any(check.ok for check in found if check.name.endswith("backend")):
        context.exit(EXIT_ANSWER_IS_NO)
