"""``fallthru doctor``."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from overlay.cli.layers import emit_json, json_option
from overlay.errors import EXIT_ANSWER_IS_NO

if TYPE_CHECKING:
    from overlay.doctor import Check


@click.command(short_help="Tell what works on this machine.")
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Try what fallthru needs, once each, and say what to do about what is missing.

    Exit 1 when something required does not work; what is only useful is shown and
    does not count.

    \b
    Examples:
      fallthru doctor
      fallthru doctor --json | jq '.[] | select(.ok | not)'
    """
    found = list(_all_checks())
    if as_json:
        emit_json([asdict(check) for check in found])
    else:
        for check in found:
            _show(check)
    if any(check.required and not check.ok for check in found):
        context.exit(EXIT_ANSWER_IS_NO)


def _all_checks() -> Iterator[Check]:
    from overlay import doctor as mounting

    yield from mounting.checks()
    # The tracer stands above this package; only the command line knows both.
    yield from importlib.import_module("tracer.doctor").checks()


def _show(check: Check) -> None:
    if check.ok:
        mark = click.style("ok  ", fg="green")
    elif check.required:
        mark = click.style("FAIL", fg="red", bold=True)
    else:
        mark = click.style("no  ", fg="yellow")
    click.echo(f"{mark}  {check.name}: {check.detail}")
    if not check.ok and check.remedy:
        click.echo(f"      → {check.remedy}")
