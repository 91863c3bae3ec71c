"""``fallthru spec fuzz``: random steps on a target and on the engine, compared."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from overlay.cli.layers import emit_json, json_option
from overlay.errors import EXIT_ANSWER_IS_NO, EnvironmentLacks, OperationFailed, UsageError
from overlay.text import printable

if TYPE_CHECKING:
    from overlay.spec.fuzz.hunt import Outcome
    from overlay.spec.fuzz.report import Told
    from overlay.spec.targets import Target

__all__ = ["fuzz"]

_SECONDS = 30.0


@click.command()
@click.option(
    "--target",
    "name",
    metavar="T",
    help="kernel:PROFILE, unprivileged, overlayfs, overlayfs:KEY=VALUE,…, fuse-overlayfs, "
    "unionfs-fuse, mergerfs or engine (default: overlayfs).",
)
@click.option(
    "--mount-command",
    "command",
    metavar="CMD",
    help="Fuzz what CMD mounts; {bottom} {top} {work} {mnt} are filled in.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Where the steps come from.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Stop after N seconds (default: 30, if --steps is not given).",
)
@click.option(
    "--steps", type=click.IntRange(min=1), metavar="N", help="Stop after exactly N steps."
)
@click.option("--keep-going", is_flag=True, help="Do not stop at the first finding.")
@click.option(
    "--shrink",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="N",
    help="Seconds to make one finding's script shorter.",
)
@click.option("--bottom-fs", metavar="FS", help="Make the bottom on a fresh ext4, xfs, ….")
@click.option("--top-fs", metavar="FS", help="The same for the top.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=str),
    metavar="DIR",
    help="Also write each script there, as finding-1.sh and so on.",
)
@json_option
def fuzz(
    name: str | None,
    command: str | None,
    seed: int,
    seconds: float | None,
    steps: int | None,
    keep_going: bool,
    shrink: float,
    bottom_fs: str | None,
    top_fs: str | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Take random steps on a union mount and on the engine; exit 1 when they differ.

    After each step the answers, the whole visible tree and the bottom are compared, across
    remounts too.  What the catalogue announces is counted; anything else is a finding, made
    as short as it can be and printed as a shell script.  The same seed takes the same steps.

    \b
    Examples:
      fallthru spec fuzz --target overlayfs --seconds 60
      fallthru spec fuzz --target fuse-overlayfs --seed 7 --keep-going -o findings
      fallthru spec fuzz --steps 2000 --mount-command \\
          'my-unionfs -o lowerdir={bottom},upperdir={top},workdir={work} {mnt}'
    """
    from overlay.cli.spec_run import chosen_targets, layer_kinds
    from overlay.spec.fuzz import report
    from overlay.spec.fuzz.hunt import Hunt
    from overlay.spec.scratch import Homes

    if name is not None and command is not None:
        raise UsageError("--target and --mount-command are two targets", hint="one at a time")
    names = (name or "overlayfs",) if command is None else ()
    (target,) = chosen_targets(names, () if command is None else (command,))
    ((bottom, top),) = layer_kinds((bottom_fs,) if bottom_fs else (), (top_fs,) if top_fs else ())
    if seconds is None and steps is None:
        seconds = _SECONDS
    with _progress(seconds, steps) as on_progress:
        outcome = Hunt(
            target,
            seed,
            seconds=seconds,
            steps=steps,
            keep_going=keep_going,
            homes=Homes(bottom_fs=bottom, top_fs=top),
            shrinking=shrink,
            on_progress=on_progress,
        ).run()
    if outcome.unavailable is not None:
        raise EnvironmentLacks(f"{outcome.target} cannot be fuzzed: {outcome.unavailable}")
    told = _told(outcome, target)
    if output is not None:
        _write(Path(output), told)
    if as_json:
        emit_json([report.as_json(one, outcome.target) for one in told])
    else:
        for number, one in enumerate(told, 1):
            click.echo("\n".join(report.explain(number, one)))
        click.echo("\n".join(report.summary(outcome)))
    if told:
        click.get_current_context().exit(EXIT_ANSWER_IS_NO)


def _told(outcome: Outcome, target: Target) -> list[Told]:
    from overlay.spec.fuzz import repeat
    from overlay.spec.fuzz.report import Told

    return [Told(found, *repeat.script_of(found, target)) for found in outcome.findings]


def _write(directory: Path, told: list[Told]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for number, one in enumerate(told, 1):
            (directory / f"finding-{number}.sh").write_text(one.script, "utf-8")
    except OSError as error:
        raise OperationFailed(
            f"{printable(directory)} cannot be written", errno=error.errno or 0
        ) from None


@contextmanager
def _progress(seconds: float | None, steps: int | None) -> Iterator[Callable[[Outcome], None]]:
    """How far it is, on a terminal; nothing where output is piped."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda outcome: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("fuzzing {task.fields[target]}"),
        BarColumn(),
        TextColumn("{task.fields[steps]} steps, {task.fields[findings]} found"),
        TimeElapsedColumn(),
    )
    total = seconds if steps is None else steps
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total, target="", steps=0, findings=0)

        def show(outcome: Outcome) -> None:
            elapsed = progress.tasks[0].elapsed or 0.0
            progress.update(
                task,
                completed=elapsed if steps is None else outcome.steps,
                target=outcome.target,
                steps=outcome.steps,
                findings=len(outcome.findings),
            )

        yield show
