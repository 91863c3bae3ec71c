"""``fallthru spec run``: clauses judged on real mounts."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from overlay.cli.layers import emit_json, json_option
from overlay.errors import EXIT_ANSWER_IS_NO, EnvironmentLacks, OperationFailed, UsageError
from overlay.text import printable

if TYPE_CHECKING:
    from overlay.spec.catalogue import Clause
    from overlay.spec.runner import Result
    from overlay.spec.targets import Target

__all__ = ["chosen_targets", "layer_kinds", "run"]

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=str)


@click.command()
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="T",
    help="engine, kernel:PROFILE, unprivileged, overlayfs, overlayfs:KEY=VALUE,…, "
    "fuse-overlayfs, unionfs-fuse or mergerfs (repeatable; default: the engine, every profile "
    "and overlayfs).",
)
@click.option(
    "--mount-command",
    "commands",
    multiple=True,
    metavar="CMD",
    help="Judge what CMD mounts; {bottom} {top} {work} {mnt} are filled in (repeatable).",
)
@click.option("--clause", "patterns", multiple=True, metavar="PATTERN", help="Only these ids.")
@click.option("--shuffle", type=int, metavar="SEED", help="Run in a random order.")
@click.option(
    "--kernel",
    default="host",
    metavar="K",
    help="Judge on another kernel: uml, debian-6.1, debian-6.12, debian-7 (built by "
    "scripts/vm; default: host, the running one).",
)
@click.option("--bottom-dir", type=_DIRECTORY, help="Make the bottoms below this directory.")
@click.option("--top-dir", type=_DIRECTORY, help="Make the tops below this directory.")
@click.option("--nfs-dir", type=_DIRECTORY, help="A directory on NFS, for the clauses about it.")
@click.option(
    "--bottom-fs",
    "bottom_kinds",
    multiple=True,
    metavar="FS",
    help="Make the bottoms on a fresh ext2, ext4, xfs or btrfs, or tmpfs (repeatable).",
)
@click.option(
    "--top-fs",
    "top_kinds",
    multiple=True,
    metavar="FS",
    help="The same for the tops; every pair of them is judged.",
)
@json_option
@click.option("--explain", is_flag=True, help="Also say how and why targets depart.")
@click.option("--steps", is_flag=True, help="Also give each clause's steps, as a shell script.")
@click.option("--junit", metavar="FILE", help="Also write JUnit XML.")
def run(
    targets: tuple[str, ...],
    commands: tuple[str, ...],
    patterns: tuple[str, ...],
    shuffle: int | None,
    kernel: str,
    bottom_dir: str | None,
    top_dir: str | None,
    nfs_dir: str | None,
    bottom_kinds: tuple[str, ...],
    top_kinds: tuple[str, ...],
    as_json: bool,
    explain: bool,
    steps: bool,
    junit: str | None,
) -> None:
    """Run clauses on real mounts; exit 1 when one fails.

    kept ✓, departed ~ (differs as the catalogue says it will), failed ✗, not-run –
    (with the reason; never a pass).  Mounts are made where nobody else sees them.

    \b
    Examples:
      fallthru spec run
      fallthru spec run --target overlayfs:metacopy=on --clause 'copyup.*' --explain
      fallthru spec run --kernel uml
      fallthru spec run --target overlayfs --bottom-fs ext4 --top-fs xfs --top-fs btrfs
      fallthru spec run --junit spec.xml --mount-command \\
          'fuse-overlayfs -o lowerdir={bottom},upperdir={top},workdir={work} {mnt}'
    """
    from overlay.spec import catalogue, report, runner

    clauses = catalogue.select(catalogue.load(), patterns)
    chosen = chosen_targets(targets, commands)
    if kernel != "host" and (bottom_dir or top_dir or nfs_dir):
        raise UsageError(
            "a guest sees this machine's directories read-only",
            hint="--bottom-dir, --top-dir and --nfs-dir are for the running kernel; --bottom-fs "
            "and --top-fs make file systems in the guest",
        )
    results = []
    for bottom_kind, top_kind in layer_kinds(bottom_kinds, top_kinds, bottom_dir, top_dir):
        bottom_fs = None if bottom_kind == "tmpfs" else bottom_kind
        top_fs = None if top_kind == "tmpfs" else top_kind
        if kernel == "host":
            judged = runner.run(
                clauses,
                chosen,
                shuffle=shuffle,
                bottom_dir=None if bottom_dir is None else Path(bottom_dir),
                top_dir=None if top_dir is None else Path(top_dir),
                bottom_fs=bottom_fs,
                top_fs=top_fs,
                nfs_dir=None if nfs_dir is None else Path(nfs_dir),
            )
        else:
            from overlay.spec import kernels

            ids = tuple(clause.id for clause in clauses)
            names = tuple(t.name for t in chosen if not t.name.startswith("command:"))
            request = kernels.Request(ids, names, commands, shuffle, bottom_fs, top_fs, steps)
            judged = kernels.run(kernel, request)
        if bottom_kinds or top_kinds:
            where = f" on {top_fs or 'tmpfs'} over {bottom_fs or 'tmpfs'}"
            judged = [replace(result, target=result.target + where) for result in judged]
        results += judged
    if not steps:
        results = [replace(result, steps="") for result in results]
    if junit is not None:
        _write(junit, report.as_junit(results, clauses))
    if as_json:
        emit_json([result.as_json() for result in results])
    else:
        _show(results, clauses, {"failed", "departed"} if explain else {"failed"})
    statuses = {result.status for result in results}
    context = click.get_current_context()
    if "failed" in statuses:
        context.exit(EXIT_ANSWER_IS_NO)
    if statuses == {"not-run"}:
        context.exit(EnvironmentLacks.exit_code)


def layer_kinds(
    bottoms: tuple[str, ...],
    tops: tuple[str, ...],
    bottom_dir: str | None = None,
    top_dir: str | None = None,
) -> list[tuple[str | None, str | None]]:
    """Each kind of bottom with each kind of top; None where nothing was asked for."""
    from overlay.spec.filesystems import KINDS

    if (bottoms and bottom_dir) or (tops and top_dir):
        raise UsageError("a layer is made either in a directory or on a fresh file system")
    known = ["tmpfs", *(name for name, kind in KINDS.items() if not kind.finished)]
    for kind in (*bottoms, *tops):
        if kind not in known:
            raise UsageError(f"no layers can be made on {kind}", hint=f"try {', '.join(known)}")
    return [(bottom, top) for bottom in bottoms or (None,) for top in tops or (None,)]


def chosen_targets(names: tuple[str, ...], commands: tuple[str, ...]) -> list[Target]:
    """The targets of ``--target`` and ``--mount-command``; UsageError for an unknown one."""
    from overlay.spec.targets import DEFAULT_TARGETS, CommandTarget, parse_target

    wanted = names or (() if commands else DEFAULT_TARGETS)
    found: list[Target] = [parse_target(name) for name in wanted]
    found += [CommandTarget.parse(command) for command in commands]
    seen = [target.name for target in found]
    twice = {name for name in seen if seen.count(name) > 1}
    if twice:
        raise UsageError(
            f"the target {min(twice)} is given twice", hint="run them one after the other"
        )
    return found


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, "utf-8")
    except OSError as error:
        raise OperationFailed(
            f"{printable(path)} cannot be written", errno=error.errno or 0
        ) from None


def _show(results: Sequence[Result], clauses: Sequence[Clause], explained: set[str]) -> None:
    from overlay.spec import report

    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        _rich_table(results)
    else:
        click.echo("\n".join(report.plain_table(results)))
    click.echo()
    by_id = {clause.id: clause for clause in clauses}
    for result in results:
        if result.status in explained:
            click.echo("\n".join(report.explain(result, by_id[result.id])) + "\n")
    for result in results:
        if result.steps:
            click.echo(f"# {result.id} on {result.target}\n{result.steps}")
    reasons = {(r.target, r.note): None for r in results if r.status == "not-run"}
    for target, reason in reasons:
        click.echo(f"{target}, not run: {reason}")
    click.echo("\n".join(report.summary(results)))


def _rich_table(results: Sequence[Result]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from overlay.spec.report import SYMBOLS

    colours = {"kept": "green", "departed": "yellow", "failed": "bold red", "not-run": "dim"}
    targets = list(dict.fromkeys(result.target for result in results))
    table = Table("clause", box=None, header_style="bold")
    for target in targets:
        table.add_column(Text(target.replace(":", ":\n", 1)), justify="center")
    by_key = {(result.id, result.target): result for result in results}
    for clause in dict.fromkeys(result.id for result in results):
        row = [by_key[clause, target] for target in targets]
        cells = [Text(SYMBOLS[r.status] + "*" * r.stale, style=colours[r.status]) for r in row]
        table.add_row(clause, *cells)
    Console(highlight=False).print(table)
    legend = "  ".join(f"{symbol} {status}" for status, symbol in SYMBOLS.items())
    click.echo(f"\n{legend}")
