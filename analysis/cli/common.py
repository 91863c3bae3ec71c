"""What the commands that read traces share: options, and how they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from overlay.errors import EXIT_ANSWER_IS_NO
from overlay.text import printable

if TYPE_CHECKING:
    from analysis.regress import Regression
    from analysis.runs import Damage

__all__ = ["compare_option", "depth_option", "end", "fail_above_option", "tell_past", "top_option"]

compare_option = click.option(
    "--compare",
    "pair",
    metavar="BEFORE AFTER",
    nargs=2,
    type=click.Path(),
    help="Only how these two differ, what got slower first.",
)

fail_above_option = click.option(
    "--fail-above",
    metavar="RATIO",
    type=click.FloatRange(min=1.0),
    help="With two runs: exit 1 if the second needs more than RATIO times as much.",
)

top_option = click.option(
    "--top",
    metavar="N",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Rows in each table.",
)


def depth_option(meaning: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--depth``: where directories are cut, for what ``meaning`` says."""
    return click.option(
        "--depth",
        metavar="N",
        type=click.IntRange(min=1),
        default=3,
        show_default=True,
        help=meaning,
    )


def tell_past(failed: Sequence[Regression], limit: float) -> None:
    """Say what is past ``--fail-above``."""
    for one in failed:
        click.echo(f"fallthru: past {limit:g}: {printable(str(one))}", err=True)


def end(context: click.Context, damaged: Sequence[Damage], *, failed: bool = False) -> None:
    """Tell what is damaged, and exit with 1 for it, or for a failed comparison."""
    for damage in damaged:
        click.echo(f"fallthru: damaged trace: {damage}", err=True)
    if damaged or failed:
        context.exit(EXIT_ANSWER_IS_NO)
