"""``fallthru check``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from overlay.cli.layers import (
    DIRECTORY,
    bottoms_option,
    emit_json,
    json_option,
    named_twice,
    unmounted_top_option,
    userxattr_option,
)
from overlay.errors import EXIT_ANSWER_IS_NO, TopInUse, UsageError
from overlay.text import printable

if TYPE_CHECKING:
    from overlay.checking.check import Suspect
    from overlay.checking.repair import Failure, Outcome
    from overlay.checking.rules import Finding

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command(short_help="Find damage in a top, and repair it.")
@json_option
@click.option("--repair", is_flag=True, help="Repair what is safe; ask about the rest.")
@click.option("-y", "--yes", is_flag=True, help="Say yes to every question of --repair.")
@click.option("--notes", is_flag=True, help="Tell also of marks that merely do nothing.")
@unmounted_top_option
@bottoms_option
@click.option(
    "--work", type=DIRECTORY, metavar="DIR", help="The work directory.  [default: TOP.work]"
)
@click.option(
    "--index", type=DIRECTORY, metavar="META", help="The bottoms' shared index, if it is used."
)
@userxattr_option
@click.argument("mount_point", metavar="[MOUNTPOINT]", type=DIRECTORY, required=False)
@click.pass_context
def check(
    context: click.Context,
    mount_point: str | None,
    top: str | None,
    bottoms: tuple[str, ...],
    work: str | None,
    index: str | None,
    userxattr: bool,
    repair: bool,
    yes: bool,
    notes: bool,
    as_json: bool,
) -> None:
    """Find stray, misplaced and broken marks on a top, and what a crash left behind.

    The layers are those of the overlay at MOUNTPOINT, or --top and --bottom. A mounted top
    is only looked at: --repair is refused. No repair deletes data: what is in the way is
    moved to lost+found in the work directory. Without --json, one line a finding:
    severity, code, path and message with tabs between.

    \b
    Exit codes: 0 nothing is wrong (any more), 1 damage is left, 4 the top is mounted.

    \b
    Examples:
      fallthru check /mnt
      fallthru check --top /srv/top --bottom /usr
      fallthru check --top /srv/top --bottom /usr --repair
      fallthru check --top /srv/top --bottom /usr --json | jq -r '.[].code' | sort | uniq -c
    """
    if yes and not repair:
        raise UsageError("--yes answers the questions of --repair", hint="add --repair")
    suspect = _suspect(mount_point, top, bottoms, work, index, userxattr)
    damaged = _repair(suspect, yes, notes, as_json) if repair else _report(suspect, notes, as_json)
    if damaged:
        context.exit(EXIT_ANSWER_IS_NO)


def _suspect(
    mount_point: str | None,
    top: str | None,
    bottoms: tuple[str, ...],
    work: str | None,
    index: str | None,
    userxattr: bool,
) -> Suspect:
    from overlay.checking.check import Suspect, suspect_at

    if mount_point is not None:
        if top or bottoms or work or index or userxattr:
            raise named_twice(mount_point)
        return suspect_at(mount_point)
    if top is None or not bottoms:
        raise UsageError(
            "which top? Neither a mount point nor a top with its bottoms was given",
            hint="fallthru check MOUNTPOINT, or fallthru check --top DIR --bottom DIR",
        )
    from overlay.privilege import in_user_namespace

    family = "user" if userxattr or in_user_namespace() else "trusted"
    if index is None:
        return Suspect(top, bottoms, work, (), family)
    from overlay.priming.sharedindex import layer_of

    return Suspect(top, (layer_of(index),), work, bottoms, family)


def _report(suspect: Suspect, notes: bool, as_json: bool) -> bool:
    from overlay.checking.check import check as check_top

    report = check_top(suspect, notes=notes)
    if report.live:
        click.echo(
            "fallthru: the top is mounted, so this may be out of date, and the work directory "
            "was left out",
            err=True,
        )
    if as_json:
        emit_json([record(each) for each in report.findings])
    else:
        for each in report.findings:
            click.echo(line(each))
        click.echo(_counted(report.findings, report.entries), err=True)
    return any(each.damage for each in report.findings)


def _repair(suspect: Suspect, yes: bool, notes: bool, as_json: bool) -> bool:
    from overlay.checking.repair import repair
    from overlay.checking.rules import RULES

    def agree(finding: Finding) -> bool:
        if yes or as_json:
            return yes
        try:
            return click.confirm(f"{line(finding)}\n  {RULES[finding.code].remedy}?", err=True)
        except click.Abort:
            return False  # nobody there to ask

    try:
        outcome = repair(suspect, agree, notes=notes)
    except TopInUse:
        if as_json:
            emit_json([])
        raise
    if as_json:
        emit_json(_records(outcome))
    else:
        _show(outcome)
    return any(each.damage for each in outcome.left.findings)


def _records(outcome: Outcome) -> list[dict[str, object]]:
    reasons = {each.finding.key: each.reason for each in outcome.failed}
    repaired = [{**record(each), "repaired": True} for each in outcome.repaired]
    left = [
        {**record(each), "repaired": False, "reason": reasons.get(each.key)}
        for each in outcome.left.findings
    ]
    return repaired + left


def _show(outcome: Outcome) -> None:
    for each in outcome.repaired:
        click.echo(f"repaired\t{line(each)}")
    reasons: dict[tuple[str, bytes, str, str], Failure] = {
        failure.finding.key: failure for failure in outcome.failed
    }
    for each in outcome.left.findings:
        failure = reasons.get(each.key)
        click.echo(f"left\t{line(each)}" + (f"\t{failure.reason}" if failure else ""))
    count = len(outcome.repaired)
    left = _counted(outcome.left.findings, outcome.left.entries)
    click.echo(f"{count} repaired; left: {left}", err=True)


def _counted(findings: tuple[Finding, ...], entries: int) -> str:
    counts = Counter(str(each.severity) for each in findings)
    found = ", ".join(
        f"{counts[kind]} {kind}{'s' if counts[kind] > 1 else ''}"
        for kind in _COLOURS
        if counts[kind]
    )
    return f"{found or 'nothing wrong'} ({entries} entries)"


def record(finding: Finding) -> dict[str, object]:
    """A finding for JSON; the path as :func:`printable` shows it."""
    return {
        "path": printable(finding.path),
        "layer": finding.layer,
        "code": finding.code,
        "severity": str(finding.severity),
        "message": finding.message,
        "repair": str(finding.repair),
    }


def line(finding: Finding) -> str:
    """A finding for people and scripts; colours go where the output is no terminal."""
    severity = click.style(str(finding.severity), fg=_COLOURS[finding.severity])
    where = printable(finding.path) or "."
    if finding.layer != "top":
        where = f"({finding.layer}) {where}"
    return "\t".join([severity, finding.code, where, finding.message])
